package runner

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// headerVia is set on a sign of life that another replica heard and hands to who
// may supervise the attempt; its value is that replica.
const headerVia = "Fl-Task-Via"

// origin is who is told what became of what he said: who sent a message that wants
// a reply, or who waits for an endpoint. Neither, for a plain reply.
type origin struct {
	msg  *nats.Msg
	done chan<- error
}

func (o origin) waits() bool { return o.done != nil || o.msg != nil && o.msg.Reply != "" }

// answer tells it.
func (r *Runner) answer(o origin, err error) {
	if o.done != nil {
		o.done <- err // of capacity 1, and told once
		return
	}
	if o.msg == nil || o.msg.Reply == "" {
		return
	}
	var failed error
	if err == nil {
		_, failed = r.cfg.Guard.Respond(o.msg, []byte("{}"), nil)
	} else {
		_, failed = r.cfg.Guard.RespondError(o.msg, wire.AsError(err))
	}
	if failed != nil {
		r.metrics.publishErrors.Add(1)
	}
}

// said is what a worker said of an attempt.
type said struct {
	id    wire.TaskID
	fence int64
	// end: it has ended, with err or with result. Otherwise it goes on.
	end    bool
	result []byte
	err    *wire.TaskError
	sign   sign
	from   origin
}

// heardMine hears the replies that name this replica.
func (r *Runner) heardMine(msg *nats.Msg) {
	s, ok := r.parse(msg)
	if !ok {
		return
	}
	if unanswered(msg) {
		r.bounced(s)
		return
	}
	if via := msg.Header.Get(headerVia); via != "" {
		if !s.end && r.table.get(s.id) != nil {
			r.beat(s)
		}
		return // whoever has it hears it too
	}
	r.hear(s)
}

// heardAny hears one in so many of all replies. Those of which the supervisor is
// there, he hears himself: of an end that he might not commit, a copy is kept for a
// while.
func (r *Runner) heardAny(msg *nats.Msg) {
	if strings.HasPrefix(msg.Subject, r.subjects.reply) {
		return
	}
	replica, _, _, _, ok := r.ns.ParseTaskReply(msg.Subject)
	if !ok || msg.Header.Get(headerVia) != "" || unanswered(msg) {
		return
	}
	alive := r.live.alive(replica, time.Now())
	if alive && wire.HeaderValue(msg.Header, wire.HeaderTaskProgress) != "" {
		return
	}
	s, ok := r.parse(msg)
	switch {
	case !ok:
	case !alive:
		r.hear(s)
	case !r.held.keep(replica, s, time.Now()):
		r.metrics.heldDropped.Add(1)
	}
}

// unanswered reports whether a message is NATS saying that nobody serves the
// subject.
func unanswered(msg *nats.Msg) bool {
	return len(msg.Data) == 0 && len(msg.Header) > 0 && msg.Header.Get("Status") == "503"
}

// parse reads a reply; false: it is none that counts.
func (r *Runner) parse(msg *nats.Msg) (s said, ok bool) {
	_, id, fence, token, ok := r.ns.ParseTaskReply(msg.Subject)
	if !ok || !r.genuine(id, fence, token) {
		r.metrics.forged.Add(1)
		return s, false
	}
	s = said{id: id, fence: fence, from: origin{msg: msg}}
	switch code := wire.HeaderValue(msg.Header, wire.HeaderErrorCode); {
	case len(msg.Header) > 0 && wire.HeaderValue(msg.Header, wire.HeaderTaskProgress) != "":
		ms, _ := strconv.ParseInt(wire.HeaderValue(msg.Header, wire.HeaderTaskLease), 10, 64)
		s.sign.lease = promise(ms)
		if len(msg.Data) > 0 && len(msg.Data) <= wire.MaxTaskProgress && wire.ValidJSON(msg.Data) {
			s.sign.progress = msg.Data
		}
	case code != "":
		s.end, s.err = true, errorOf(code, msg)
	default:
		s.end = true
		s.result, s.err = resultOf(msg.Data)
	}
	return s, true
}

// genuine reports whether a token is that of the attempt.
func (r *Runner) genuine(id wire.TaskID, fence int64, token string) bool {
	if a := r.table.get(id); a != nil && a.Fence == fence {
		return same(a.token, token)
	}
	tokens := r.tokens.Load()
	return tokens != nil && tokens.fits(id, fence, token)
}

// maxPromise bounds what a worker may promise to be heard within.
const maxPromise = 10 * time.Minute

func promise(ms int64) time.Duration {
	return time.Duration(min(max(ms, 0), maxPromise.Milliseconds())) * time.Millisecond
}

// resultOf takes the result of an attempt. One that can't be stored is a failure
// that no further attempt mends.
func resultOf(data []byte) ([]byte, *wire.TaskError) {
	switch {
	case len(data) == 0:
		return []byte("null"), nil
	case len(data) > wire.MaxTaskInput:
		return nil, &wire.TaskError{Code: wire.InvalidArgument, Message: "result: at most " + strconv.Itoa(wire.MaxTaskInput) + " bytes"}
	case !wire.ValidJSON(data):
		return nil, &wire.TaskError{Code: wire.InvalidArgument, Message: "result: must be JSON"}
	}
	return data, nil
}

// Bounds of what is kept of an error.
const (
	maxMessage = 8 << 10
	maxDetails = 16 << 10
	// maxRetryAfter bounds for how long a worker may put off the next attempt.
	maxRetryAfter = 366 * 24 * time.Hour
)

// errorOf reads the error of a reply: code and message from its headers, when to
// try again from its body.
func errorOf(code string, msg *nats.Msg) *wire.TaskError {
	e := &wire.TaskError{Code: wire.Code(code), Message: wire.HeaderValue(msg.Header, wire.HeaderError)}
	var body struct {
		RetryAfterMs json.RawMessage `json:"retryAfterMs"`
		Details      json.RawMessage `json:"details"`
	}
	if len(msg.Data) <= wire.MaxTaskInput && wire.ValidJSON(msg.Data) && json.Unmarshal(msg.Data, &body) == nil {
		if string(body.RetryAfterMs) == "null" {
			e.Retryable = new(bool)
		} else if ms, err := strconv.ParseFloat(string(body.RetryAfterMs), 64); err == nil && ms > 0 && ms < 1e15 {
			e.RetryAfterMs = min(int64(ms), maxRetryAfter.Milliseconds())
		}
		if len(body.Details) <= maxDetails && string(body.Details) != "null" {
			e.Details = body.Details
		}
	}
	switch wire.HeaderValue(msg.Header, wire.HeaderRetryable) {
	case "true":
		yes := true
		e.Retryable = &yes
	case "false":
		e.Retryable = new(bool)
	}
	return clean(e)
}
