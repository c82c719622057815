package breaker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// Failures is how many calls in a row have to fail where [Config] does not
	// say.
	Failures = 5
	// Delay is how long a broken backend is left alone where [Config] does not
	// say.
	Delay = time.Second
)

// Config describes the breaker of one backend.
type Config struct {
	// Name is the backend: `details.what` of the errors.
	Name string
	// Failures is how many calls in a row have to fail; 0 is [Failures].
	Failures int
	// Delay is how long a broken backend is left alone; 0 is [Delay].
	Delay time.Duration
	// OnChange hears every change of the state, in order, from [Breaker.Run]. No
	// call waits for it, and its panic ends nothing; of changes that nobody took
	// the oldest are forgotten. May be nil.
	OnChange func(from, to State)
}

// Breaker guards the calls to one backend. Its methods may be called
// concurrently.
type Breaker struct {
	name     string
	delay    time.Duration
	changes  *changes
	state    atomic.Int32
	term     atomic.Uint64 // of the state: it grows with every change
	spotless atomic.Bool   // healthy, and the last call succeeded
	answered atomic.Bool   // a call has succeeded

	mu      sync.Mutex // around the circuit: it unlocks itself for its listener
	circuit circuit
}

// circuit counts failures and keeps the state.
type circuit interface {
	TryAcquirePermit() bool // given back by either of the next two
	RecordSuccess()
	RecordFailure()
	Open()
	Close()
	RemainingDelay() time.Duration // 0 unless it is open
}

// New returns the breaker of a backend, healthy.
func New(cfg Config) *Breaker {
	if cfg.Failures <= 0 {
		cfg.Failures = Failures
	}
	if cfg.Delay <= 0 {
		cfg.Delay = Delay
	}
	b := &Breaker{name: cfg.Name, delay: cfg.Delay, changes: newChanges(cfg.OnChange)}
	b.circuit = newCircuit(uint(cfg.Failures), cfg.Delay, b.changed)
	return b
}

// changed notes a change; mu is held.
func (b *Breaker) changed(from, to State) {
	b.spotless.Store(false)
	b.term.Add(1)
	b.state.Store(int32(to))
	b.changes.add(change{from, to})
}

// State returns the state. A broken breaker whose delay is over stays broken
// until somebody asks for a call.
func (b *Breaker) State() State { return State(b.state.Load()) }

// Answered reports whether a call has ever succeeded.
func (b *Breaker) Answered() bool { return b.answered.Load() }

// Allow asks to call the backend. Whoever is allowed to says how it went by
// [Pass.Done], exactly once. The error is a *wire.Error UNAVAILABLE with the
// time after which to try again; nothing was sent then.
func (b *Breaker) Allow() (Pass, error) {
	// The term is read first: a change in between makes the pass an old one.
	if term := b.term.Load(); b.State() == Healthy {
		return Pass{b, term}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.circuit.TryAcquirePermit() {
		return Pass{b, b.term.Load()}, nil
	}
	return Pass{}, b.refusal()
}

// Refusal returns what [Breaker.Allow] says while it refuses, without asking for
// anything.
func (b *Breaker) Refusal() *wire.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusal()
}

func (b *Breaker) refusal() *wire.Error {
	left := b.circuit.RemainingDelay()
	if b.State() == Probing {
		left = b.delay / 10 // the probe is out: its answer may be there any moment
	}
	return (&wire.Error{
		Code: wire.Unavailable, Message: b.name + " does not answer", RetryAfter: max(left, time.Millisecond),
	}).With("what", b.name).With("outcome", "none")
}

// Pass is the leave to call a backend once.
type Pass struct {
	of   *Breaker
	term uint64
}

// Done says how the call went. One that began before the last change of the state
// decides nothing about what is now: a probe does.
func (p Pass) Done(how Outcome) {
	b := p.of
	if b == nil || how == Success && b.spotless.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.term != b.term.Load() {
		return
	}
	switch how {
	case Success:
		b.answered.Store(true)
		b.circuit.RecordSuccess()
		b.spotless.Store(b.State() == Healthy)
	case Failure:
		b.spotless.Store(false)
		b.circuit.RecordFailure()
	case Neither:
		if b.State() == Probing {
			b.circuit.Open() // it was the probe, and nobody knows more than before
		}
	}
}

// Heal makes the breaker healthy: somebody has found the backend to answer without
// asking the breaker.
func (b *Breaker) Heal() {
	if b.State() == Healthy {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.circuit.Close()
}

// Do calls fn if the breaker allows it; judge says how it went. The error is the
// breaker's, see [Breaker.Allow], or fn's. A panic of fn is a failure.
func (b *Breaker) Do(fn func() error, judge func(error) Outcome) error {
	pass, err := b.Allow()
	if err != nil {
		return err
	}
	how := Failure
	defer func() { pass.Done(how) }()
	err = fn()
	how = judge(err)
	return err
}
