package fairlead

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ErrFenceLost is the cause with which an attempt's context ends when the attempt
// was given up: somebody else works on the task, or will. What this worker does
// from then on counts for nothing: its result, its steps and its progress are
// refused. It wraps wire.ErrFailedPrecondition.
//
// It is also the cause where no heartbeat was acknowledged for a whole lease:
// that the attempt was given up is not certain then, but this worker can't know
// any more that it was not.
var ErrFenceLost error = fenceLost{}

type fenceLost struct{}

func (fenceLost) Error() string { return "fairlead: the attempt was given up" }
func (fenceLost) Unwrap() error { return wire.ErrFailedPrecondition }

// Attempt is one try at a task, which a worker has been given. Its methods may be
// called concurrently, and by goroutines that the worker's function has started.
type Attempt struct {
	w        *Worker
	id       wire.TaskID
	number   int
	fence    int64
	token    string
	key      string
	reply    string // subject of its supervisor
	header   nats.Header
	deadline time.Time
	input    []byte // nil once it is read
	size     int    // what it counts for while it waits

	ctx  context.Context // the function's
	end  context.CancelCauseFunc
	stop context.CancelFunc // releases what ctx holds
	call cancelled

	mu       sync.Mutex
	done     bool            // the function has returned; guarded by mu, with the next ones
	refused  bool            // the service has said that it was given up
	progress []byte          // that has not been sent
	steps    map[string]bool // whose results may be stored
	life     life
}

// attemptKey finds the attempt of a context.
type attemptKey struct{}

// AttemptOf returns the attempt that a context belongs to: that of the function
// of [Work], and those made of it.
func AttemptOf(ctx context.Context) (*Attempt, bool) {
	a, ok := ctx.Value(attemptKey{}).(*Attempt)
	return a, ok
}

// ID returns the task's id.
func (a *Attempt) ID() string { return a.id.String() }

// Name returns the task's name.
func (a *Attempt) Name() string { return a.w.name }

// Number returns which attempt of the task it is, from 1 on.
func (a *Attempt) Number() int { return a.number }

// Fence returns the number that grows with each attempt of the task, also when
// an operator has it begin again. Who stores it beside what the task changes, and
// refuses whatever comes with a smaller one, is safe from workers that do not
// know yet that they were given up.
func (a *Attempt) Fence() int64 { return a.fence }

// IdempotencyKey returns what is the same for all attempts of the task: the key
// that it was enqueued with, else its id. Give it to whoever the task asks for an
// effect (a payment, a mail), so that a second attempt has it only once.
func (a *Attempt) IdempotencyKey() string { return a.key }

// StepKey returns an idempotency key for the effect of a step, the same for all
// attempts: IdempotencyKey, a slash and the step.
func (a *Attempt) StepKey(step string) string { return a.key + "/" + step }

// Metadata returns the JSON object that the task was enqueued with, nil where
// there is none.
func (a *Attempt) Metadata() json.RawMessage {
	if m := wire.HeaderValue(a.header, wire.HeaderTaskMetadata); json.Valid([]byte(m)) {
		return json.RawMessage(m)
	}
	return nil
}

// Deadline returns when the attempt is out of time, as the context does.
func (a *Attempt) Deadline() time.Time { return a.deadline }

// Header returns all headers of the attempt, `traceparent` for one. It must not
// be changed.
func (a *Attempt) Header() nats.Header { return a.header }

// Progress says how far the attempt is: `get` shows it, and who watches the task
// gets it. v is encoded as all data is, at most 16 KB. It never blocks and at
// most five a second are sent: of those between, the latest. What is not sent when
// the function returns is not sent any more.
//
// It is INVALID_ARGUMENT for what can't be encoded, else the cause with which
// the context has ended, FAILED_PRECONDITION once the function has returned.
func (a *Attempt) Progress(v any) error {
	data, err := wire.EncodeData("progress", v)
	if err != nil {
		return err
	}
	if len(data) > wire.MaxTaskProgress {
		return wire.InvalidField("progress", "at most "+strconv.Itoa(wire.MaxTaskProgress)+" bytes of JSON")
	}
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return wire.Errorf(wire.FailedPrecondition, "the attempt has ended")
	}
	waits := a.progress != nil
	a.progress = data
	if !waits {
		a.w.beats.progressed(a)
	}
	return nil
}

// lose ends the attempt's context: it was given up. certain says that the service
// said so.
func (a *Attempt) lose(certain bool) {
	a.mu.Lock()
	a.refused = a.refused || certain
	a.mu.Unlock()
	a.end(ErrFenceLost)
}

// finish is called when the function has returned, and says why its context
// had ended, nil: it had not.
func (a *Attempt) finish() (cause error) {
	cause = context.Cause(a.ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done, a.progress = true, nil
	return cause
}

// lost reports whether the service has said that the attempt was given up.
func (a *Attempt) lost() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// said is what the service needs to know of whose result or step something is.
func (a *Attempt) said() wire.TaskAttempt {
	return wire.TaskAttempt{ID: a.id.String(), Fence: a.fence, Token: a.token}
}

// readAttempt reads a message that dispatches an attempt; nil where it is none.
func (w *Worker) readAttempt(msg *nats.Msg, now time.Time) *Attempt {
	_, id, fence, token, ok := w.f.opts.Namespace.ParseTaskReply(msg.Reply)
	if !ok { // anything else must not be answered: it would lend this worker's rights
		return nil
	}
	a := &Attempt{w: w, id: id, fence: fence, token: token, reply: msg.Reply, header: msg.Header, input: msg.Data, size: len(msg.Data) + attemptSize}
	a.number, _ = strconv.Atoi(wire.HeaderValue(msg.Header, wire.HeaderTaskAttempt))
	a.number = max(a.number, 1)
	if a.key = wire.HeaderValue(msg.Header, wire.HeaderIdempotencyKey); a.key == "" {
		a.key = id.String()
	}
	timeout := w.timeout
	if ms, err := strconv.ParseInt(wire.HeaderValue(msg.Header, wire.HeaderTaskTimeout), 10, 64); err == nil && ms > 0 {
		told := time.Duration(min(ms, int64(longest/time.Millisecond))) * time.Millisecond
		if timeout == 0 || told < timeout {
			timeout = told
		}
	}
	if timeout == 0 {
		timeout = longest
	}
	a.deadline = now.Add(timeout)
	a.life = life{beatAt: now}
	return a
}

// begin makes the attempt's context.
func (a *Attempt) begin() {
	ctx, end := context.WithCancelCause(context.WithValue(a.w.ctx, attemptKey{}, a))
	a.end = end
	a.ctx, a.stop = context.WithDeadline(ctx, a.deadline)
	a.call = cancelled{wire.HeaderValue(a.header, wire.HeaderTaskCancel), end}
	a.w.cancels.begin(&a.call)
}

// close releases what the attempt holds.
func (a *Attempt) close() {
	a.w.cancels.end(&a.call)
	a.end(nil)
	a.stop()
}

// gaveUp reports whether an answer says that the attempt was given up. One that
// was committed with its own fence, as by [CompleteTx], was not.
func (a *Attempt) gaveUp(err error) bool {
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.FailedPrecondition {
		return false
	}
	fence, _ := e.Details["fence"].(float64)
	return e.Details["state"] != string(wire.TaskCommitted) || int64(fence) != a.fence
}

const (
	longest     = 24 * 365 * time.Hour // of an attempt; far from where durations overflow
	attemptSize = 1 << 10              // of an attempt without its input, about
)
