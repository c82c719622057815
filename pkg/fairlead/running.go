package fairlead

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ErrClosed is returned where something is begun behind [Fairlead.Drain] or
// [Fairlead.Close].
var ErrClosed = errors.New("fairlead: closed")

// errStopped is the end of what [Fairlead.Close] does not wait for.
var errStopped = &wire.Error{Code: wire.Unavailable, Message: "the worker stops"}

// running is a subscription with what works on its messages.
type running struct {
	f      *Fairlead
	sub    *nats.Subscription
	ctx    context.Context // of all work
	cancel context.CancelCauseFunc

	slots   chan struct{}  // one element for each piece of work that runs
	closed  chan struct{}  // closed when the last message has been received
	working sync.WaitGroup // work that runs
}

// run subscribes. receive is called for each message in turn; what it returns,
// unless nil, runs beside that of other messages, at most most at a time.
func (f *Fairlead) run(subject, queue string, most int, receive func(*running, *nats.Msg) func()) (*running, error) {
	r := &running{f: f, slots: make(chan struct{}, most), closed: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	if err := r.subscribe(subject, queue, receive); err != nil {
		r.end(nil)
		return nil, err
	}
	if f.nc.IsConnected() {
		// Where it breaks meanwhile, it subscribes again when it is back.
		_ = f.nc.FlushTimeout(f.opts.Timeout)
	}
	return r, nil
}

func (r *running) subscribe(subject, queue string, receive func(*running, *nats.Msg) func()) error {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	var err error
	r.sub, err = f.nc.QueueSubscribe(subject, queue, func(msg *nats.Msg) {
		if work := receive(r, msg); work != nil {
			r.begin(work)
		}
	})
	if err != nil {
		return failed(err)
	}
	var once sync.Once
	r.sub.SetClosedHandler(func(string) { once.Do(func() { close(r.closed) }) })
	if !r.sub.IsValid() { // it may have closed before it could say so
		return failed(nats.ErrConnectionClosed)
	}
	f.open[r] = struct{}{}
	return nil
}

// begin waits for a slot, and lets the work run. When everything is to end it
// runs at once: its context has ended.
func (r *running) begin(work func()) {
	slot := true
	select {
	case r.slots <- struct{}{}:
	case <-r.ctx.Done():
		slot = false
	}
	r.working.Go(func() {
		defer func() { // also where the work ends its goroutine, as t.FailNow does
			if slot {
				<-r.slots
			}
		}()
		work()
	})
}

// end ends the contexts of all work, which does not begin any more.
func (r *running) end(cause error) { r.cancel(cause) }

// drain stops the subscription, lets everything that has arrived be worked on,
// and waits until NATS has what came of it. When ctx ends first it halts.
func (r *running) drain(ctx context.Context) error {
	if err := r.sub.Drain(); err != nil {
		r.halt()
		return fmt.Errorf("drain %s: %w", r.sub.Subject, failed(err))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-r.closed
		r.working.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		r.halt()
		<-done
		return fmt.Errorf("drain %s: %w", r.sub.Subject, ctx.Err())
	}
	r.forget()
	ctx, cancel := r.f.within(ctx)
	defer cancel()
	if err := r.f.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("drain %s: %w", r.sub.Subject, failed(err))
	}
	return nil
}

// halt ends the contexts of all work and waits for it.
func (r *running) halt() {
	r.end(errStopped)
	_ = r.sub.Unsubscribe() // it fails only where the connection is closed, and the subscription with it
	<-r.closed
	r.working.Wait()
	r.forget()
}

func (r *running) forget() {
	r.end(nil)
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	delete(r.f.open, r)
}

// mayReply reports whether a reply may be sent to a subject: an inbox, or one
// that the options allow.
func (f *Fairlead) mayReply(reply string) bool {
	first, rest, ok := strings.Cut(reply, ".")
	if !ok || rest == "" || strings.ContainsAny(reply, " *>\t\r\n") {
		return false
	}
	if first == "_INBOX" || strings.HasPrefix(first, "_INBOX_") {
		return true
	}
	for _, p := range f.opts.ReplyPrefixes {
		if p = strings.TrimSuffix(p, "."); p != "" && strings.HasPrefix(reply, p+".") {
			return true
		}
	}
	return false
}
