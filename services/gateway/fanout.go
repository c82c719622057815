package gateway

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// shardQueue is how many messages may wait for a shard. Above it nats.go
	// drops and reports a slow consumer.
	shardQueue = 64 << 10
	// linger is how long a subscription outlives its last listener, so that a
	// page that reloads doesn't cost an UNSUB and a SUB.
	linger = 2 * time.Second
	// flushWait bounds how long a subscribe waits for the server.
	flushWait = 5 * time.Second
)

type subscription = nats.Subscription

// fanout owns the gateway's NATS subscriptions: one per interest, delivered
// into the channels of its shards.
type fanout struct {
	nc     *nats.Conn
	hub    *hub
	shards []*shard
	live   *liveness
	// deliver handles a message of an interest. It runs on the shard's
	// goroutine and must not block.
	deliver func(*interest, *nats.Msg)
	// prepare subscribes a new interest.
	prepare func(*interest) error
	// answered handles what comes to the inbox of a shard, as deliver does.
	answered func(*nats.Msg)
	now      func() time.Time

	probed atomic.Int64 // unix ns when the last round of probes was published
	rtt    atomic.Int64 // ns from there until a shard heard one
}

// shard is one channel of messages and the goroutine that drains it.
type shard struct {
	number int
	ch     chan *nats.Msg
	probe  atomic.Pointer[subscription]
	inbox  string // for answers that keep their order with the shard's messages
	answer atomic.Pointer[subscription]
	heard  atomic.Int64 // unix ns when the last probe came through
	stale  atomic.Uint64
	block  atomic.Pointer[func()] // test seam: called before each message; nil in production
}

func newFanout(nc *nats.Conn, shards int, deliver func(*interest, *nats.Msg)) *fanout {
	f := &fanout{nc: nc, hub: newHub(shards), deliver: deliver, now: time.Now}
	f.live = newLiveness(nc)
	f.prepare = func(in *interest) error {
		_, err := f.listen(in, "")
		return err
	}
	for i := range shards {
		f.shards = append(f.shards, &shard{number: i, ch: make(chan *nats.Msg, shardQueue)})
	}
	return f
}

// subscribeProbes gives every shard a subscription of its own, through which
// the gateway hears itself (health.go).
func (f *fanout) subscribeProbes(ns wire.Namespace, gateway string) error {
	for _, s := range f.shards {
		subject, err := ns.Probe(gateway, strconv.Itoa(s.number))
		if err != nil {
			return err
		}
		sub, err := f.nc.ChanSubscribe(subject, s.ch)
		if err != nil {
			return fmt.Errorf("subscribe probe: %w", err)
		}
		s.probe.Store(sub)
	}
	return nil
}

// subscribeInboxes gives every shard an inbox.
func (f *fanout) subscribeInboxes() error {
	for _, s := range f.shards {
		s.inbox = bus.NewInbox(f.nc)
		sub, err := f.nc.ChanSubscribe(s.inbox, s.ch)
		if err != nil {
			return fmt.Errorf("subscribe inbox: %w", err)
		}
		s.answer.Store(sub)
	}
	return nil
}

// run drains a shard until ctx is done. Everything in it is bounded work: the
// messages of all its topics wait behind it.
func (f *fanout) run(ctx context.Context, s *shard) {
	done := ctx.Done()
	for {
		select {
		case <-done:
			return
		case msg := <-s.ch:
			if block := s.block.Load(); block != nil {
				(*block)()
			}
			if msg.Sub == s.probe.Load() {
				now := f.now().UnixNano()
				s.heard.Store(now)
				f.rtt.Store(now - f.probed.Load())
				continue
			}
			if msg.Sub == s.answer.Load() {
				f.answered(msg)
				continue
			}
			in := f.hub.find(s.number, msg.Sub.Subject)
			if in == nil || in.sub.Load() != msg.Sub && in.log.Load() != msg.Sub {
				s.stale.Add(1)
				continue
			}
			f.deliver(in, msg)
		}
	}
}

// pending returns how many messages wait for the shards.
func (f *fanout) pending() (n int64) {
	for _, s := range f.shards {
		n += int64(len(s.ch))
	}
	return n
}

// acquire returns the interest of a subject, subscribed but perhaps not yet
// live on the server ([fanout.waitLive] says). The caller releases it, unless
// there is an error.
func (f *fanout) acquire(k kind, subject, topic string) (*interest, error) {
	in, made := f.hub.acquire(k, subject, topic)
	if made {
		if in.err = f.prepare(in); in.err != nil {
			f.hub.drop(in)
		}
	} else {
		in.setup.Lock()
	}
	err := in.err
	in.setup.Unlock()
	if err != nil {
		f.release(in)
		return nil, err
	}
	return in, nil
}

// listen subscribes an interest by a subject, its own where alias is empty, in
// place of the one that it is subscribed by. Whatever is on its way from that
// one is stale from now on.
func (f *fanout) listen(in *interest, alias string) (old *subscription, err error) {
	subject := in.subject
	if alias != "" {
		subject = alias
	}
	f.hub.listen(in, alias)
	old = in.sub.Load()
	return old, f.subscribe(in, subject, &in.sub)
}

// subscribe subscribes an interest by a subject that it is found by.
func (f *fanout) subscribe(in *interest, subject string, slot *atomic.Pointer[subscription]) error {
	sub, err := f.nc.ChanSubscribe(subject, f.shards[in.shard].ch)
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", subject, err)
	}
	in.live.Store(false)
	slot.Store(sub)
	return nil
}

func (f *fanout) release(in *interest) {
	if f.hub.release(in, f.now()) {
		// A connection that is closed has no subscriptions left to end.
		_ = f.unsubscribe(in)
	}
}

// unsubscribe ends the subscription of an interest that is out of the hub.
func (f *fanout) unsubscribe(in *interest) error {
	in.flip.Lock() // a change of rules under way subscribes it, or finds it closed
	defer in.flip.Unlock()
	in.close()
	return errors.Join(f.end(in.sub.Load()), f.end(in.log.Load()))
}

// end ends a subscription; nil is none.
func (f *fanout) end(sub *subscription) error {
	if sub == nil {
		return nil
	}
	if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
		return fmt.Errorf("unsubscribe %s: %w", sub.Subject, err)
	}
	return nil
}

// waitLive returns when the server has the subscription of every interest that
// was acquired before.
func (f *fanout) waitLive(ctx context.Context, interests ...*interest) error {
	for _, in := range interests {
		if !in.live.Load() {
			if err := f.live.wait(ctx); err != nil {
				return err
			}
			for _, in := range interests {
				in.live.Store(true)
			}
			return nil
		}
	}
	return nil
}

// sweep ends the subscriptions that nobody wants any more.
func (f *fanout) sweep() error {
	var errs []error
	for _, in := range f.hub.sweep(f.now(), linger) {
		errs = append(errs, f.unsubscribe(in))
	}
	return errors.Join(errs...)
}

// liveness folds the flushes of all who wait for the server to have what they
// sent, subscriptions or messages, into one round trip at a time: whoever comes
// while one is under way shares the next.
type liveness struct {
	nc   *nats.Conn
	wake chan struct{}

	mu   sync.Mutex
	next *flush
}

type flush struct {
	done chan struct{}
	err  error // read after done
}

func newLiveness(nc *nats.Conn) *liveness {
	return &liveness{nc: nc, wake: make(chan struct{}, 1)}
}

// wait returns when a round trip that began after the call is over.
func (l *liveness) wait(ctx context.Context) error {
	l.mu.Lock()
	if l.next == nil {
		l.next = &flush{done: make(chan struct{})}
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	mine := l.next
	l.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run makes the round trips until ctx is done; who still waits then is told.
func (l *liveness) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			l.round(ctx.Err())
			return
		case <-l.wake:
			l.round(nil)
		}
	}
}

func (l *liveness) round(err error) {
	l.mu.Lock()
	mine := l.next
	l.next = nil
	l.mu.Unlock()
	if mine == nil {
		return
	}
	if err == nil {
		err = l.nc.FlushTimeout(flushWait)
	}
	mine.err = err
	close(mine.done)
}
