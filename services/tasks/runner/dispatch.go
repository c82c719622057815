package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// start dispatches attempts that have just become an owner's; a place is kept for
// each.
func (r *Runner) start(attempts []*attempt, owner store.Owner) {
	if len(attempts) == 0 {
		return
	}
	links := r.links()
	for _, a := range attempts {
		a.links = links
	}
	for _, old := range r.table.put(attempts...) {
		r.released(old.Name)
		attempts = slices.DeleteFunc(attempts, func(a *attempt) bool { return a == old })
	}
	r.sooner()
	// The lease may have run out while the claim was written: then nothing is sent,
	// for the attempts may be somebody else's by now.
	if _, ok := r.able(); !ok || !r.owner.holds(owner, time.Now()) {
		for _, a := range attempts {
			a.Input = nil
			r.giveBack(a)
		}
		return
	}
	m := messages.Get().(*message)
	defer messages.Put(m)
	for i, a := range attempts {
		switch err := r.dispatch(m, a); {
		case err == nil:
		case errors.Is(err, nats.ErrMaxPayload):
			r.fails(a, 0, &wire.TaskError{Code: wire.InvalidArgument, Message: "input: larger than NATS takes"}, origin{})
		default: // NATS is away
			for _, rest := range attempts[i:] {
				rest.Input = nil
				r.giveBack(rest)
			}
			return
		}
	}
}

// links is how often the connection has been made anew.
func (r *Runner) links() uint64 { return r.nats.Stats().Reconnects }

// giveBack has an attempt wait again that nobody took. It is by the fence alone:
// whoever owns it by now, no worker has it.
func (r *Runner) giveBack(a *attempt) {
	if a := r.table.end(a.ID, a.Fence); a != nil {
		r.queueBack(&ending{a: a, back: store.Back{Ref: store.Ref{ID: a.ID, Fence: a.Fence}, Unstarted: true}})
	}
}

// message is one that is sent again and again: the connection copies it.
type message struct {
	msg    nats.Msg
	values [10]string // of the headers
	body   []byte
}

var messages = sync.Pool{New: func() any { return &message{msg: nats.Msg{Header: make(nats.Header, 10)}} }}

// dispatch hands an attempt to a worker.
func (r *Runner) dispatch(m *message, a *attempt) error {
	r.fill(m, a, time.Now())
	a.Input = nil // which nobody needs to know as long as the attempt goes on
	err := r.nats.PublishMsg(&m.msg)
	m.msg.Data = nil
	if err != nil {
		return err
	}
	r.metrics.started(a)
	if !a.probe {
		r.tellRunning(a)
	}
	return nil
}

// fill makes the message of an attempt.
func (r *Runner) fill(m *message, a *attempt, now time.Time) {
	clear(m.msg.Header)
	n := 0
	set := func(name, value string) {
		m.values[n] = value
		m.msg.Header[name] = m.values[n : n+1 : n+1]
		n++
	}
	set(wire.HeaderTaskID, a.text)
	set(wire.HeaderTaskAttempt, strconv.Itoa(a.Number))
	fence := strconv.FormatInt(a.Fence, 10)
	set(wire.HeaderTaskFence, fence)
	set(wire.HeaderTaskToken, a.token)
	set(wire.HeaderTaskDeadline, strconv.FormatInt(now.Add(a.timeout).UnixMilli(), 10))
	set(wire.HeaderTaskTimeout, strconv.FormatInt(a.timeout.Milliseconds(), 10))
	set(wire.HeaderTaskCancel, r.subjects.cancel+a.text+"-"+fence)
	if a.IdempotencyKey != "" {
		set(wire.HeaderIdempotencyKey, a.IdempotencyKey)
	} else {
		set(wire.HeaderIdempotencyKey, a.text)
	}
	if len(a.Metadata) > 0 {
		set(wire.HeaderTaskMetadata, headerJSON(a.Metadata))
	}
	if a.Trace != "" && wire.ValidHeaderValue(a.Trace) {
		set(wire.HeaderTrace, a.Trace)
	}
	m.msg.Subject = r.subjects.task + a.Name
	m.msg.Reply = r.subjects.reply + a.text + "." + fence + "." + a.token
	m.msg.Data = a.Input
}

// headerJSON puts JSON on one line that a header can hold.
func headerJSON(value []byte) string {
	if wire.ValidHeaderValue(string(value)) {
		return string(value)
	}
	var line bytes.Buffer
	if json.Compact(&line, value) != nil {
		return "{}"
	}
	return string(bytes.ReplaceAll(line.Bytes(), []byte{0x7f}, []byte(`\u007f`)))
}
