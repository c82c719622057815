package outbox

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Config is fixed for the life of an [Outbox]. Zero fields take their default.
type Config struct {
	// Flushers is the number of goroutines that write; GOMAXPROCS.
	Flushers int
	// QueueBytes bounds what may be queued for one connection, not counting the
	// write under way; 1 MiB. An empty queue takes one frame of any size.
	QueueBytes int
	// FrameBytes bounds a JSON array made of several frames, and what several
	// WebSocket messages of a connection without arrays share a write for;
	// 64 KiB. A larger frame is sent alone.
	FrameBytes int
	// Heartbeat is the silence after which a peer is pinged; after two it is
	// closed with 4408; 25 s.
	Heartbeat time.Duration
	// CloseGrace bounds a closing handshake, from the call of Close to the
	// peer's answer; 10 s. Past it the connection is reset.
	CloseGrace time.Duration
	// ReadLimit is the largest message [Conn.Read] keeps, in bytes; 1,000,000.
	ReadLimit int64
	// OnSlow, if set, is called once per connection that is closed for not
	// keeping up, on a goroutine of its own, with the bytes that were queued.
	OnSlow func(c *Conn, queued int)
}

// ErrStopped is returned by [Outbox.Upgrade] once Run is ending.
var ErrStopped = errors.New("outbox: stopped")

// Outbox owns the flushers, the sweeper and the open connections. Its methods
// may be called concurrently.
type Outbox struct {
	cfg      Config
	flushers []*flusher
	start    time.Time
	clock    atomic.Int64 // now() of the last sweep: a coarse clock for the hot path
	next     atomic.Uint32
	slow     atomic.Uint64

	// finish gets the rest of a write that the kernel did not take, with c
	// marked blocked. Tests replace it.
	finish func(c *Conn, rest *chunk)

	mu      sync.Mutex
	running bool
	stopped bool
	tasks   sync.WaitGroup // short-lived goroutines; Add under mu

	queues   sync.Pool // *queue, empty
	chunks   sync.Pool // *chunk, empty
	reads    sync.Pool // *[readSize]byte
	messages sync.Pool // *[]byte, empty
}

// New returns an Outbox that accepts connections at once and serves them while
// [Outbox.Run] runs.
func New(cfg Config) *Outbox {
	cfg.Flushers = cmp.Or(cfg.Flushers, runtime.GOMAXPROCS(0))
	cfg.QueueBytes = cmp.Or(cfg.QueueBytes, 1<<20)
	cfg.FrameBytes = cmp.Or(cfg.FrameBytes, 64<<10)
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, 25*time.Second)
	cfg.CloseGrace = cmp.Or(cfg.CloseGrace, 10*time.Second)
	cfg.ReadLimit = cmp.Or(cfg.ReadLimit, 1_000_000)
	o := &Outbox{
		cfg:      cfg,
		start:    time.Now(),
		queues:   sync.Pool{New: func() any { return new(queue) }},
		chunks:   sync.Pool{New: func() any { return new(chunk) }},
		reads:    sync.Pool{New: func() any { return new([readSize]byte) }},
		messages: sync.Pool{New: func() any { b := make([]byte, 0, readSize); return &b }},
	}
	o.finish = o.finishLater
	for range cfg.Flushers {
		o.flushers = append(o.flushers, newFlusher(o))
	}
	return o
}

// Run serves connections until ctx is done, then resets those still open and
// returns nil once every goroutine of the Outbox has ended. It may be called
// once. The callers' reading goroutines end too, as their connections do, but
// are not waited for.
func (o *Outbox) Run(ctx context.Context) error {
	o.mu.Lock()
	if o.running {
		o.mu.Unlock()
		return errors.New("outbox: Run called twice")
	}
	o.running = true
	o.mu.Unlock()

	stop := make(chan struct{})
	for _, f := range o.flushers {
		o.tasks.Go(func() { f.run(stop) })
	}
	o.sweepUntil(ctx.Done())

	o.mu.Lock()
	o.stopped = true
	o.mu.Unlock()
	close(stop)
	for _, f := range o.flushers {
		for _, c := range f.open(nil) {
			c.Abort()
		}
	}
	o.tasks.Wait()
	return nil
}

// spawn runs fn on a goroutine that Run waits for, unless Run is ending.
func (o *Outbox) spawn(fn func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped {
		return false
	}
	o.tasks.Go(fn)
	return true
}

// register pins c to a flusher.
func (o *Outbox) register(c *Conn) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped {
		return ErrStopped
	}
	c.fl.add(c)
	return nil
}

// now is the time since the Outbox was made, in nanoseconds, monotonic.
func (o *Outbox) now() int64 { return int64(time.Since(o.start)) }
