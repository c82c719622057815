package fairlead

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Bounds of a worker unless set.
const (
	DefaultTaskConcurrency = 16
	DefaultTaskLease       = 10 * time.Second
	// MinTaskLease is the shortest lease, MaxTaskLease the longest.
	MinTaskLease = 100 * time.Millisecond
	MaxTaskLease = 10 * time.Minute
)

// helloEvery is how often a worker says that it is there: a replica of the tasks
// service that starts later learns it too.
const helloEvery = 5 * time.Second

// WorkOptions refine how the tasks of a name are worked on.
type WorkOptions struct {
	// Queue is the queue group that shares the attempts: each goes to one of its
	// members. All workers of a name need the same. Default [DefaultQueue].
	Queue string
	// Concurrency bounds the attempts worked on at the same time; those beyond wait
	// in this process, with their time running. Default [DefaultTaskConcurrency].
	Concurrency int
	// Timeout bounds each attempt where the task's own does not come first.
	// Default: only the task's own.
	Timeout time.Duration
	// Lease is within which time this worker promises to be heard of, for as long as
	// it has an attempt: one that dies is noticed after it, and one that hears no
	// acknowledgement for as long gives up. Heartbeats are sent three times as
	// often. From [MinTaskLease] to [MaxTaskLease]. Default [DefaultTaskLease].
	Lease time.Duration
}

// Work takes the attempts of the tasks of a name: a task's input is decoded into
// In, what fn returns is encoded and stored as the task's result, at most 512 KB.
// json.RawMessage for either passes it as it is.
//
// An attempt may run more than once, and two attempts of a task at the same time
// where a worker was thought to be dead; one result is stored. So what fn does
// should be harmless when done twice: see [Attempt.IdempotencyKey],
// [Attempt.Fence], [Step] and [CompleteTx].
//
// The context of fn ends at the attempt's deadline, counted from when it came
// here, and earlier with these for context.Cause: [ErrFenceLost] when the attempt
// was given up, wire.ErrCancelled when the task is cancelled, UNAVAILABLE with
// [Fairlead.Close]. Heartbeats are sent by themselves, as long as the process
// lives: a function that hangs is ended by the deadline alone.
//
// What an error of fn means for the task:
//   - one that is a [*wire.Error], or wraps one, fails the attempt with its code,
//     message and details. INVALID_ARGUMENT, FAILED_PRECONDITION, UNIMPLEMENTED,
//     PERMISSION_DENIED and NOT_FOUND are final, as is a RetryAfter of
//     [wire.Never]; for the others the task's policy says whether and when
//     another attempt follows. A RetryAfter above the code's default (100 ms) is
//     the wait before it.
//   - [NonRetryable] makes any error final, [RetryAfter] says when the next
//     attempt is.
//   - any other error, a panic and runtime.Goexit are INTERNAL, and retried as the
//     policy says. The text of the error is stored with the task, cut at 4 KB,
//     where `fairlead tasks show` and whoever may read the task find it: it should
//     hold no secret. The stack of a panic is logged here.
//   - once the context has ended, its error says no more than that.
//
// An input that does not fit In fails the task with an INVALID_ARGUMENT that
// names the field, and fn is not called.
//
// The result is sent until the service acknowledges or refuses it, also while
// NATS or the service is away, at most for 10 minutes after the deadline; the
// next attempt begins meanwhile.
//
// The worker is there when Work returns, unless NATS is away: then as soon as
// it is back. [Worker.Drain], [Fairlead.Drain] and Close end it.
func Work[In, Out any](f *Fairlead, name string, fn func(ctx context.Context, a *Attempt, in In) (Out, error), o WorkOptions) (*Worker, error) {
	w, err := f.work(name, o, func(ctx context.Context, a *Attempt, input []byte) ([]byte, error) {
		var in In
		if err := decode(input, &in); err != nil {
			return nil, err
		}
		out, err := fn(ctx, a, in)
		if err != nil {
			return nil, err
		}
		return encodeResult(out)
	})
	if err != nil {
		return nil, fmt.Errorf("work %s: %w", name, err)
	}
	return w, nil
}

// Worker works on the tasks of a name until it is drained.
type Worker struct {
	f       *Fairlead
	name    string
	id      string
	slots   int
	timeout time.Duration // 0: the task's own
	lease   time.Duration
	fn      func(ctx context.Context, a *Attempt, input []byte) ([]byte, error)

	sub      *nats.Subscription
	cancels  *cancels
	beats    *beats
	ctx      context.Context // of all attempts
	cancel   context.CancelCauseFunc
	received chan struct{}  // closed when the last attempt has been received
	working  sync.WaitGroup // attempts that run, and whose results are to be told
	ending   sync.Once

	saying  sync.Mutex
	leaving bool // it has said that it goes; guarded by saying

	mu    sync.Mutex
	book  *workbook     // guarded by mu, with the next ones
	space chan struct{} // closed when there is room again for those that wait
	again context.Context
	lost  context.CancelFunc // of again
}

func (f *Fairlead) work(name string, o WorkOptions, fn func(context.Context, *Attempt, []byte) ([]byte, error)) (*Worker, error) {
	if err := wire.CheckTaskName("name", name); err != nil {
		return nil, err
	}
	subject, err := f.subject(f.opts.Namespace.Task(name), nil)
	if err != nil {
		return nil, err
	}
	lease := cmp.Or(max(o.Lease, 0), DefaultTaskLease)
	if lease < MinTaskLease || lease > MaxTaskLease {
		return nil, wire.InvalidField("lease", "from "+MinTaskLease.String()+" to "+MaxTaskLease.String())
	}
	w := &Worker{
		f: f, name: name, id: rand.Text(), slots: cmp.Or(max(o.Concurrency, 0), DefaultTaskConcurrency),
		timeout: max(o.Timeout, 0), lease: lease, fn: fn,
		received: make(chan struct{}), space: make(chan struct{}),
	}
	w.again, w.lost = context.WithCancel(context.Background())
	w.book = newWorkbook(w.slots)
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	if w.cancels, err = f.hearCancels(); err != nil {
		w.cancel(nil)
		return nil, err
	}
	if err := w.subscribe(subject, cmp.Or(o.Queue, DefaultQueue)); err != nil {
		w.cancel(nil)
		return nil, err
	}
	if f.nc.IsConnected() {
		// Where it breaks meanwhile, it subscribes again when it is back.
		_ = f.nc.FlushTimeout(f.opts.Timeout)
	}
	return w, nil
}

func (w *Worker) subscribe(subject, queue string) error {
	f := w.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	var err error
	if w.beats, err = newBeats(w); err != nil {
		return err
	}
	w.sub, err = f.nc.QueueSubscribe(subject, queue, w.receive)
	if err != nil {
		_ = w.beats.sub.Unsubscribe()
		return failed(err)
	}
	var once sync.Once
	w.sub.SetClosedHandler(func(string) { once.Do(func() { close(w.received) }) })
	if !w.sub.IsValid() { // it may have closed before it could say so
		return failed(nats.ErrConnectionClosed)
	}
	f.open[w] = struct{}{}
	go w.beats.run()
	return nil
}

// hello says that the worker is there, or that it goes: from then on no more than
// that.
func (w *Worker) hello(leaving bool) {
	w.saying.Lock() // also while it is sent: what it says last counts
	defer w.saying.Unlock()
	w.leaving = w.leaving || leaving
	data, err := json.Marshal(wire.TaskHello{Names: []string{w.name}, Worker: w.id, Slots: w.slots, Leaving: w.leaving})
	if err == nil {
		_ = w.f.nc.Publish(w.f.opts.Namespace.Svc("tasks", "hello"), data) // a hint, which is repeated
	}
}

// Drain stops taking attempts, as [Fairlead.Drain] does with everything: those
// that have come are worked on, and their results acknowledged. Heartbeats go on
// meanwhile. When ctx ends first the contexts of those that run end, with
// UNAVAILABLE for their cause, and what has not ended by then is left to other
// workers: at once where the service hears of it, else when the lease is over. For
// the task that is a crash. It must not be called by the worker's own function,
// which it waits for.
func (w *Worker) Drain(ctx context.Context) error { return w.drain(ctx) }

func (w *Worker) drain(ctx context.Context) error {
	w.hello(true)
	if err := w.sub.Drain(); err != nil {
		w.halt()
		return fmt.Errorf("drain %s: %w", w.sub.Subject, failed(err))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-w.received
		w.working.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		w.halt()
		<-done
		return fmt.Errorf("drain %s: %w", w.sub.Subject, ctx.Err())
	}
	w.forget()
	ctx, cancel := w.f.within(ctx)
	defer cancel()
	if err := w.f.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("drain %s: %w", w.sub.Subject, failed(err))
	}
	return nil
}

// end ends the contexts of all attempts.
func (w *Worker) end(cause error) { w.cancel(cause) }

// halt ends the contexts of all attempts and waits for them.
func (w *Worker) halt() {
	w.end(errStopped)
	w.hello(true)
	_ = w.sub.Unsubscribe() // it fails only where the connection is closed, and the subscription with it
	<-w.received
	w.working.Wait()
	w.forget()
}

func (w *Worker) forget() {
	w.ending.Do(func() {
		w.end(nil)
		w.beats.close()
		w.mu.Lock()
		w.lost()
		w.mu.Unlock()
		w.f.mu.Lock()
		defer w.f.mu.Unlock()
		delete(w.f.open, w)
	})
}
