package runner

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// Config is what a [Runner] is made of.
type Config struct {
	Store store.Store
	// NATS carries attempts and what their workers say, Peers what is said to other
	// replicas and to who watches. They may be one connection; the caller closes them
	// after [Runner.Run].
	NATS, Peers *nats.Conn
	Namespace   wire.Namespace // "": [wire.DefaultNamespace]
	ID          string         // of the replica: one token of a subject, its own for each start
	Guard       *bus.Guard     // nil: inboxes only
	Log         *slog.Logger   // nil: nothing is logged
	// Retention is how long what has ended is kept, unless its policy says: 7 days
	// when 0. OwnerLease is how long a replica that says nothing keeps its attempts:
	// 15 s. CancelGrace is the time that a worker has to end what is cancelled: 10 s.
	Retention, OwnerLease, CancelGrace time.Duration
}

const (
	// mostInserts and mostEnds bound what waits to be written.
	mostInserts = 16_384
	mostEnds    = 65_536
	mostReads   = 65_536
	// claimers is how many claims are under way at a time.
	claimers = 4
	// stopWait bounds what a replica that stops waits for the store.
	stopWait = 5 * time.Second
)

// Runner runs tasks. Its methods may be called concurrently, as soon as Run has
// been called; what they need the store for waits or is UNAVAILABLE until then.
type Runner struct {
	cfg   Config
	store store.Store
	nats  *nats.Conn
	peers *nats.Conn
	ns    wire.Namespace
	log   *slog.Logger

	metrics  metrics
	policies policies
	tokens   atomic.Pointer[tokens] // nil until the store was asked
	replies  replies
	stopping atomic.Bool // nothing is claimed any more
	stopped  atomic.Bool // nobody writes batches any more

	owner    ownership
	lanes    *lanes
	table    *table
	live     *replicas
	held     *holding
	waiters  *waiters
	board    *board
	wakes    *names
	subjects subjects
	alarm    alarm
	blind    trouble // of looks at what is due; by the one goroutine that does

	inserts *batch[*insertion]
	ends    *batch[*ending]
	backs   *batch[*ending]
	looks   *batch[*look]
	reads   *batch[*reading]

	claims  chan string   // names; each at most once
	tries   chan string   // names that nobody served; each at most once
	watched chan struct{} // of capacity 1: something is due sooner
}

// New returns a runner that does nothing yet.
func New(cfg Config) *Runner {
	cfg.Namespace = cmp.Or(cfg.Namespace, wire.DefaultNamespace)
	cfg.Retention = cmp.Or(cfg.Retention, 7*24*time.Hour)
	cfg.OwnerLease = cmp.Or(cfg.OwnerLease, 15*time.Second)
	cfg.CancelGrace = cmp.Or(cfg.CancelGrace, 10*time.Second)
	if cfg.Peers == nil {
		cfg.Peers = cfg.NATS
	}
	if cfg.Guard == nil {
		cfg.Guard = &bus.Guard{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Runner{
		cfg: cfg, store: cfg.Store, nats: cfg.NATS, peers: cfg.Peers, ns: cfg.Namespace, log: cfg.Log,
		lanes: newLanes(), table: newTable(), live: newReplicas(cfg.ID), held: newHolding(),
		waiters: newWaiters(), board: newBoard(), wakes: newNames(),
		subjects: newSubjects(cfg.Namespace, cfg.ID),
		claims:   make(chan string, maxLanes), tries: make(chan string, 2*probesPerSecond), watched: make(chan struct{}, 1),
	}
	r.owner.poked = make(chan struct{}, 1)
	r.alarm.rung = make(chan struct{}, 1)
	r.inserts = newBatch(cfg.Log, "insert tasks", mostInserts, r.insert)
	r.inserts.size = (*insertion).size
	r.ends = newBatch(cfg.Log, "end tasks", mostEnds, r.writeEnds)
	r.ends.size = (*ending).size
	r.backs = newBatch(cfg.Log, "give tasks back", mostEnds, r.writeBacks)
	r.backs.size = (*ending).size
	r.looks = newBatch(cfg.Log, "look at attempts", mostEnds, r.lookAll)
	r.looks.size = (*look).size
	r.reads = newBatch(cfg.Log, "read tasks", mostReads, r.readAll)
	r.reads.size = (*reading).size
	return r
}

// Ready returns nil while the replica claims and dispatches.
func (r *Runner) Ready() error {
	switch {
	case r.stopping.Load():
		return errors.New("the replica stops")
	case !r.informed():
		return errors.New("the store has not been asked for its secret and the policies yet")
	case !r.nats.IsConnected():
		return errors.New("NATS is away")
	}
	if _, ok := r.owner.held(time.Now()); !ok {
		return errors.New("the replica has no lease in the store")
	}
	return nil
}

// able returns the owner as which the replica may claim and dispatch now; false:
// it may not.
func (r *Runner) able() (store.Owner, bool) {
	if r.stopping.Load() || !r.informed() || !r.nats.IsConnected() {
		return 0, false
	}
	return r.owner.held(time.Now())
}

// informed reports whether the replica knows what it has to of the store to run
// tasks, and hears workers.
func (r *Runner) informed() bool { return r.replies.heard.Load() && r.policies.known() }

// Run claims and runs tasks until ctx ends. Then it takes no more, gives those
// that run to the other replicas, commits what it has heard, and returns.
func (r *Runner) Run(ctx context.Context) error {
	work, halt := context.WithCancel(context.WithoutCancel(ctx))
	defer halt()
	group, work := errgroup.WithContext(work)
	// claiming ends before work does.
	claiming, noMore := context.WithCancel(work)
	defer noMore()
	claimed := make(chan struct{})
	going := func(fn func(context.Context)) { group.Go(func() error { fn(work); return nil }) }

	subs, err := r.subscribe()
	if err != nil {
		return err
	}
	for range flushers {
		going(r.inserts.run)
		going(r.ends.run)
		going(r.backs.run)
		going(r.looks.run)
		going(r.reads.run)
	}
	group.Go(func() error { defer close(claimed); return r.claimAll(claiming) })
	for _, fn := range []func(context.Context){r.keepSecret, r.keepOwner, r.watch, r.announce, r.keepHeld, r.spread, r.tellWakes} {
		going(fn)
	}
	r.sweeps(going)

	<-ctx.Done()
	r.stopping.Store(true)
	noMore()
	<-claimed
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWait)
	defer cancel()
	r.handOver(bounded, subs)
	halt()
	err = group.Wait()
	r.stopped.Store(true)
	r.refuseRest()
	return err
}

// handOver gives what the replica has to the others, in an order in which none of
// it is nobody's and nothing that was heard is lost.
func (r *Runner) handOver(ctx context.Context, subs subscriptions) {
	r.inserts.empty(ctx) // they may have begun as running ones
	r.leave(ctx)         // the others take what is said from now on
	r.surrender(ctx)
	subs = append(subs, r.replies.close()...)
	subs.end(r.nats.IsConnected())
	for subs.handling(ctx) || r.looks.depth()+r.ends.depth()+r.backs.depth() > 0 {
		if clock.Sleep(ctx, 2*time.Millisecond) != nil {
			r.log.Warn("stopped before everything was written", "ends", r.ends.depth(), "back", r.backs.depth())
			return
		}
	}
}

// refuseRest answers who still waits for a flusher.
func (r *Runner) refuseRest() {
	for _, in := range r.inserts.close() {
		in.tell(store.Inserted{}, errStops)
	}
	for _, x := range r.looks.close() {
		r.answer(x.from, errStops)
	}
	for _, e := range append(r.ends.close(), r.backs.close()...) {
		r.answer(e.from, errStops)
	}
	for _, x := range r.reads.close() {
		if x.done != nil {
			x.done <- read{err: errStops}
		}
	}
}

// errStops is what is said when the replica has stopped.
var errStops = wire.Errorf(wire.Unavailable, "the replica stops: ask another one").With("outcome", "unknown")

// away says what an error of the store means for who asked.
func away(err error) error {
	var coded *wire.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &coded):
		return coded
	case errors.Is(err, store.ErrNotFound):
		return wire.Errorf(wire.NotFound, "no such task")
	case errors.Is(err, context.Canceled):
		return wire.Errorf(wire.Cancelled, "cancelled")
	}
	return (&wire.Error{Code: wire.Unavailable, Message: "the store does not answer", RetryAfter: time.Second}).
		With("what", "postgres").With("outcome", "unknown")
}

// unsent reports whether an error says that the store was not even asked.
func unsent(err error) bool {
	var coded *wire.Error
	return errors.As(err, &coded) && coded.Details["outcome"] == "none"
}

// keepSecret asks the store for the secret of the tokens, with which the replica can
// hear what is said to others.
func (r *Runner) keepSecret(ctx context.Context) {
	for {
		secret, err := r.store.Secret(ctx)
		if err == nil {
			r.tokens.Store(newTokens(secret))
			if err = r.hearReplies(); err == nil {
				r.owner.poke()
				return
			}
			r.log.Warn("replies are not heard", "error", err)
		}
		if clock.Sleep(ctx, 250*time.Millisecond) != nil {
			return
		}
	}
}
