package fairlead

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// answerWithin is how long an acknowledgement is waited for before a result is
	// sent again.
	answerWithin = 2 * time.Second
	// The pause between two tries begins with one and ends with the other.
	firstPause, lastPause = 100 * time.Millisecond, 5 * time.Second
	// resultPatience is for how long after the deadline a result is sent.
	resultPatience = 10 * time.Minute
)

// outcome is what came of an attempt.
type outcome struct {
	data   []byte
	failed *wire.TaskError // nil: it succeeded
}

// settle sends the outcome of an attempt until the service has it, refuses it, or
// the worker is stopped: first to who supervises the attempt, then to whoever
// answers for the service.
func (w *Worker) settle(a *Attempt, o outcome) {
	patience := time.Now().Add(resultPatience)
	if late := a.deadline.Add(resultPatience); late.After(patience) {
		patience = late
	}
	log := func(level slog.Level, text string, args ...any) {
		w.f.opts.Log.Log(context.Background(), level, text, append([]any{"task", w.name, "id", a.id.String(), "fence", a.fence}, args...)...)
	}
	pause := firstPause
	for try := 0; ; try++ {
		again := w.reconnect()
		err := w.tell(again, a, o, try == 0)
		var e *wire.Error
		switch {
		case err == nil:
			return
		case a.gaveUp(err):
			log(slog.LevelWarn, "the result of an attempt was refused: it had been given up")
			a.lose(true)
			return
		case errors.Is(err, wire.ErrFailedPrecondition): // it is committed already
			return
		case errors.As(err, &e) && e.Code == wire.InvalidArgument && o.failed == nil:
			o = outcome{failed: &wire.TaskError{Code: wire.InvalidArgument, Message: short("the result was refused: " + e.Message)}}
			continue
		case e != nil && final(e.Code), w.ctx.Err() != nil, time.Now().After(patience):
			log(slog.LevelError, "the result of an attempt could not be stored", "error", err)
			return
		}
		wait := pause
		if pause = min(2*pause, lastPause); e != nil && e.Code == wire.ResourceExhausted {
			wait = max(wait, min(e.RetryAfter, lastPause))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-again.Done():
		case <-w.ctx.Done():
		}
		timer.Stop()
	}
}

// final reports whether a refusal stays one.
func final(code wire.Code) bool {
	switch code {
	case wire.InvalidArgument, wire.NotFound, wire.PermissionDenied, wire.Unauthenticated, wire.Unimplemented:
		return true
	}
	return false
}

// errAway: there is no connection that something could be sent on.
var errAway = wire.Errorf(wire.Unavailable, "NATS is away").With("outcome", "none")

// tell sends the outcome once. ctx ends with the connection's next beginning:
// what was asked before is lost then.
func (w *Worker) tell(ctx context.Context, a *Attempt, o outcome, direct bool) error {
	if !w.f.nc.IsConnected() {
		return errAway
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if direct {
		return w.reply(ctx, a, o)
	}
	msg, err := w.resend(a, o)
	if err != nil {
		return err
	}
	_, err = w.f.request(ctx, msg)
	return answered(err)
}

// reply sends the outcome to who supervises the attempt, as a worker without this
// package does, and waits for the acknowledgement.
func (w *Worker) reply(ctx context.Context, a *Attempt, o outcome) error {
	msg := &nats.Msg{Subject: a.reply, Data: o.data}
	if o.failed != nil {
		msg = failureReply(a.reply, o.failed)
	}
	answer, err := w.f.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return answered(err)
	}
	return replyError(answer)
}

// answered says what an error of a request means.
func answered(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrNoResponders):
		return wire.Errorf(wire.Unavailable, "no tasks service answers").With("outcome", "none")
	}
	return failed(err)
}

// resend makes the request that commits the outcome at any replica.
func (w *Worker) resend(a *Attempt, o outcome) (*nats.Msg, error) {
	endpoint, req := "complete", any(wire.TaskComplete{TaskAttempt: a.said(), Result: o.data})
	if o.failed != nil {
		endpoint, req = "fail", wire.TaskFail{TaskAttempt: a.said(), Error: *o.failed}
	}
	data, err := wire.EncodeData("request", req)
	if err != nil {
		return nil, err
	}
	return &nats.Msg{Subject: w.f.opts.Namespace.Svc("tasks", endpoint), Data: data, Header: nats.Header{}}, nil
}

// failureReply makes the message that fails an attempt.
func failureReply(subject string, e *wire.TaskError) *nats.Msg {
	msg := &nats.Msg{Subject: subject, Header: nats.Header{}}
	wire.ErrorHeader(msg.Header, &wire.Error{Code: e.Code, Message: e.Message})
	if e.Retryable != nil {
		msg.Header[wire.HeaderRetryable] = []string{"false"}
		if *e.Retryable {
			msg.Header[wire.HeaderRetryable] = []string{"true"}
		}
	}
	body := struct {
		RetryAfterMs int64           `json:"retryAfterMs,omitempty"`
		Details      json.RawMessage `json:"details,omitempty"`
	}{e.RetryAfterMs, e.Details}
	if data, err := json.Marshal(body); err == nil { // the details are JSON: they were encoded here
		msg.Data = data
	}
	return msg
}

// reconnect returns a context that ends when the connection has come back after
// it was lost: what waited for an answer is asked again then.
func (w *Worker) reconnect() context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.again
}

// retold has every result that waits sent again.
func (w *Worker) retold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost()
	w.again, w.lost = context.WithCancel(context.Background())
}
