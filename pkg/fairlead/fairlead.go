package fairlead

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// DefaultTimeout is [Options.Timeout] unless set.
const DefaultTimeout = 5 * time.Second

// Options say how to talk to Fairlead. The zero value is good for production.
type Options struct {
	// Namespace is the first token of all subjects, as FAIRLEAD_NAMESPACE of the
	// gateways. Default `fl`.
	Namespace wire.Namespace
	// Timeout bounds every method whose context has no deadline. Default
	// [DefaultTimeout].
	Timeout time.Duration
	// Log receives what callers are not told: the errors of handlers that became
	// INTERNAL, and panics. Default slog.Default().
	Log *slog.Logger
	// ReplyPrefixes are allowed as reply subjects of calls beside inboxes
	// (_INBOX and _INBOX_<role>), as FAIRLEAD_NATS_REPLY_PREFIXES of the
	// gateways. A call with any other reply subject is dropped: answering it
	// would lend this worker's NATS permissions to whoever called.
	ReplyPrefixes []string
}

// Fairlead is the backend's side over one NATS connection. Its methods may be
// called concurrently.
type Fairlead struct {
	nc   *nats.Conn
	opts Options

	mu      sync.Mutex
	closed  bool               // guarded by mu, with the next two
	open    map[begun]struct{} // what [Handle], [Work], Subscribe and Events began
	cancels *cancels           // nil until the first handler

	locks locks // what this process has locked
}

// begun is something that runs until it is drained.
type begun interface {
	drain(ctx context.Context) error
	end(cause error) // of the contexts of all its work; returns at once
	halt()           // end, and wait for it
}

// New returns the backend's side over nc, which stays the caller's: [Fairlead.Drain]
// or [Fairlead.Close] come before closing it. Nothing is sent yet: NATS may be
// away. A namespace that is none is the INVALID_ARGUMENT of every method.
func New(nc *nats.Conn, opts Options) *Fairlead {
	opts.Namespace = cmp.Or(opts.Namespace, wire.DefaultNamespace)
	opts.Timeout = cmp.Or(max(opts.Timeout, 0), DefaultTimeout)
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	return &Fairlead{nc: nc, opts: opts, open: map[begun]struct{}{}}
}

// Drain stops everything that [Handle], [Work], [Fairlead.Subscribe] and
// [Fairlead.Events] began, without losing anything: new calls go to other
// workers, those that have arrived are answered, and the answers have reached
// NATS when it returns. What runs under a [Fairlead.WithLock] comes to its end; what
// [Fairlead.Lead] runs is told to end at once, so that somebody else leads. When ctx ends first it does what [Fairlead.Close] does
// and returns ctx's error. A context without a deadline waits as long as it takes.
func (f *Fairlead) Drain(ctx context.Context) error {
	open := f.close()
	errs := make([]error, len(open))
	var all sync.WaitGroup
	for i, r := range open {
		all.Go(func() { errs[i] = r.drain(ctx) })
	}
	all.Wait()
	err := errors.Join(errs...)
	f.end()
	return err
}

// Close stops everything that [Handle], [Work], [Fairlead.Subscribe] and
// [Fairlead.Events] began: calls that wait are not worked on any more, the
// contexts of running handlers, of leaders and of what is done in
// [Fairlead.WithLock] end, and it returns when they have returned. A
// handler must not call it, nor Drain: they would wait for each other.
func (f *Fairlead) Close() {
	open := f.close()
	for _, r := range open {
		r.end(errStopped)
	}
	for _, r := range open {
		r.halt()
	}
	f.end()
}

// close lets nothing begin any more, and returns what runs.
func (f *Fairlead) close() (open []begun) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for r := range f.open {
		open = append(open, r)
	}
	return open
}

// end releases what the handlers shared, and the locks that nobody has released.
func (f *Fairlead) end() {
	f.locks.end()
	f.mu.Lock()
	shared := f.cancels
	f.cancels = nil
	f.mu.Unlock()
	if shared != nil {
		shared.close()
	}
}

// within returns ctx with a deadline.
func (f *Fairlead) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, f.opts.Timeout)
}

// subject passes on what the namespace built, unless it is no namespace.
func (f *Fairlead) subject(built string, err error) (string, error) {
	if bad := wire.CheckNamespace(string(f.opts.Namespace)); bad != nil {
		return "", bad
	}
	return built, err
}
