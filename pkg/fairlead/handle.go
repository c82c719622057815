package fairlead

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Bounds of a handler unless set.
const (
	DefaultConcurrency = 64
	DefaultCallTimeout = time.Minute // the longest that a client's call waits
	DefaultQueue       = "workers"
)

// HandleOptions refine how a method is served.
type HandleOptions struct {
	// Queue is the queue group that shares the calls: each goes to one of its
	// members. All workers of a method need the same. Default [DefaultQueue].
	Queue string
	// Concurrency bounds the calls worked on at the same time; those beyond wait
	// in this process. Default [DefaultConcurrency].
	Concurrency int
	// Timeout bounds each call where the gateway's deadline does not come
	// first. Default [DefaultCallTimeout].
	Timeout time.Duration
}

// Handle answers the calls of a method: data of the client is decoded into In,
// what fn returns is encoded as the answer. json.RawMessage for either passes it
// as it is. The method may hold wildcards (`orders.*`); [Call.Method] says which
// it was. Several methods may be served by one Fairlead, each once per queue.
//
// The context of fn ends at the deadline of the call, and as soon as nobody
// waits for the answer: the client cancelled or is gone. context.Cause is
// wire.ErrCancelled then. It is a hint that may be missed; the deadline is not.
//
// An error of fn that is a [*wire.Error], or wraps one, is what the client gets:
// its code, message, details and retryAfterMs, nothing of what was wrapped
// around. So does an error of this package, such as [Fairlead.Ask]'s, that fn
// returns: what the client is not to see is wrapped with %v. Any other error, a
// nil *wire.Error, a panic and runtime.Goexit are INTERNAL without a word of the
// cause, which is logged. Data that does not fit In is an INVALID_ARGUMENT that
// names the field, and fn is not called.
//
// The worker is there when Handle returns, unless NATS is away: then as soon as
// it is back. [Handler.Drain], [Fairlead.Drain] and Close end it.
func Handle[In, Out any](f *Fairlead, method string, fn func(ctx context.Context, call *Call, in In) (Out, error), o HandleOptions) (*Handler, error) {
	h, err := f.handle(method, o, func(ctx context.Context, c *Call) ([]byte, error) {
		var in In
		if err := decode(c.Data, &in); err != nil {
			return nil, err
		}
		out, err := fn(ctx, c, in)
		if err != nil {
			return nil, err
		}
		data, err := wire.EncodeData("answer", out)
		if err != nil { // not the caller's mistake
			return nil, errors.New(err.Error())
		}
		return data, nil
	})
	if err != nil {
		return nil, fmt.Errorf("handle %s: %w", method, err)
	}
	return h, nil
}

// Handler serves a method until it is drained.
type Handler struct {
	f       *Fairlead
	run     *running
	cancels *cancels
	prefix  string // of the subjects of calls, up to the method
	timeout time.Duration
	fn      func(context.Context, *Call) ([]byte, error)
}

func (f *Fairlead) handle(method string, o HandleOptions, fn func(context.Context, *Call) ([]byte, error)) (*Handler, error) {
	if err := wire.CheckPattern(method); err != nil {
		return nil, err
	}
	subject, err := f.subject(f.opts.Namespace.Call(method))
	if err != nil {
		return nil, err
	}
	h := &Handler{f: f, fn: fn, prefix: strings.TrimSuffix(subject, method), timeout: cmp.Or(max(o.Timeout, 0), DefaultCallTimeout)}
	if h.cancels, err = f.hearCancels(); err != nil {
		return nil, err
	}
	h.run, err = f.run(subject, cmp.Or(o.Queue, DefaultQueue), cmp.Or(max(o.Concurrency, 0), DefaultConcurrency), h.receive)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Drain stops serving the method as [Fairlead.Drain] does with everything: no
// call is lost. It must not be called by the method's own handler, which it
// waits for.
func (h *Handler) Drain(ctx context.Context) error { return h.run.drain(ctx) }

// receive begins a call and returns the work on it. A message without a reply
// subject asks for nothing, one with another than an inbox must not be answered.
func (h *Handler) receive(r *running, msg *nats.Msg) func() {
	if !h.f.mayReply(msg.Reply) {
		return nil
	}
	c := newCall(h.prefix, msg)
	ctx, cancel := context.WithCancelCause(r.ctx)
	var stop context.CancelFunc
	c.ctx, stop = context.WithDeadline(ctx, c.deadline(time.Now(), h.timeout))
	c.cancelled = cancelled{wire.HeaderValue(c.Header, wire.HeaderCancel), cancel}
	h.cancels.begin(&c.cancelled)
	return func() {
		defer stop()
		defer cancel(nil)
		defer h.cancels.end(&c.cancelled)
		h.answer(c)
	}
}

// answer works on a call and sends what comes of it.
func (h *Handler) answer(c *Call) {
	returned, data, e := false, []byte(nil), (*wire.Error)(nil)
	defer func() {
		if !returned {
			h.f.opts.Log.Error("a handler ended its goroutine", "method", c.Method)
			data, e = nil, wire.Errorf(wire.Internal, "internal error")
		}
		h.send(c, data, e)
	}()
	data, e = h.result(c)
	returned = true
}

// send answers a call, unless the caller took it back.
func (h *Handler) send(c *Call, data []byte, e *wire.Error) {
	if context.Cause(c.ctx) == wire.ErrCancelled {
		c.close()
		return
	}
	err := c.finish(data, e)
	if errors.Is(err, nats.ErrMaxPayload) {
		err = c.finish(nil, &wire.Error{Code: wire.ResourceExhausted, Message: "the answer is larger than NATS takes", RetryAfter: wire.Never})
	}
	if err != nil {
		h.f.opts.Log.Error("a call could not be answered", "method", c.Method, "error", err)
	}
}

// result runs the handler.
func (h *Handler) result(c *Call) (data []byte, e *wire.Error) {
	if c.ctx.Err() != nil {
		return nil, h.ended(c)
	}
	defer func() {
		if p := recover(); p != nil {
			h.f.opts.Log.Error("a handler panicked", "method", c.Method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			data, e = nil, wire.AsError(errPanic)
		}
	}()
	data, err := h.fn(c.ctx, c)
	if err == nil {
		return data, nil
	}
	var coded *wire.Error
	switch is := errors.As(err, &coded); {
	case is && coded != nil:
		return nil, coded
	case is: // its methods can't be called
		h.f.opts.Log.Error("a call failed with a nil *wire.Error, which is an error", "method", c.Method)
		return nil, wire.Errorf(wire.Internal, "internal error")
	case c.ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		return nil, h.ended(c)
	}
	h.f.opts.Log.Error("a call failed", "method", c.Method, "error", err)
	return nil, wire.Errorf(wire.Internal, "internal error")
}

// errPanic stands for a panic, which has been logged.
var errPanic = errors.New("panic")

// ended says why a call's context has ended.
func (h *Handler) ended(c *Call) *wire.Error {
	return wire.AsError(context.Cause(c.ctx))
}
