package fairlead

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// beatsPerLease is how many heartbeats a lease has room for: two may be lost.
	beatsPerLease = 3
	// ticksPerLease is how often it is looked which attempts need one.
	ticksPerLease = 2 * beatsPerLease
	// firstBeat is about how long an attempt lasts before its first one, which makes
	// the promise: what ends sooner costs none.
	firstBeat = 200 * time.Millisecond
	// progressEvery is the least time between two progresses of an attempt.
	progressEvery = 200 * time.Millisecond
)

// life is what is known of whether the service still counts on an attempt.
type life struct {
	beatAt     time.Time // when the last beat was sent, before the first: the receipt
	progressAt time.Time // when the last progress was sent
	// trusted is when the last beat that was acknowledged was sent, before the first
	// acknowledgement: the first beat. Zero before: no lease has been promised.
	trusted time.Time
}

// due reports whether a beat is to be sent, looked at every tick.
func (l *life) due(now time.Time, lease time.Duration) bool {
	if l.trusted.IsZero() {
		return now.Sub(l.beatAt) >= min(firstBeat/2, lease/ticksPerLease)
	}
	return now.Sub(l.beatAt) >= lease/beatsPerLease-lease/ticksPerLease/2
}

// over reports whether the lease may be over before the next tick: the service
// began it later than it is counted here, so that this side gives up first.
func (l *life) over(now time.Time, lease time.Duration) bool {
	return !l.trusted.IsZero() && now.Sub(l.trusted) >= lease-lease/ticksPerLease
}

// sent keeps that a beat is sent.
func (l *life) sent(now time.Time) {
	l.beatAt = now
	if l.trusted.IsZero() {
		l.trusted = now
	}
}

// acknowledged keeps that the service has heard a beat that was sent then.
func (l *life) acknowledged(sent time.Time) {
	if sent.After(l.trusted) {
		l.trusted = sent
	}
}

// beats keeps the attempts of a worker alive, those that wait too, and sends
// their progress: one goroutine and one subscription for all of them.
type beats struct {
	w       *Worker
	inbox   string // of the acknowledgements, up to the attempt
	sub     *nats.Subscription
	started time.Time // the times in the inboxes count from here
	wake    chan struct{}
	done    chan struct{} // closed to end it
	ended   chan struct{} // closed when it has

	mu       sync.Mutex
	progress []*Attempt // that have some to send; guarded by mu
}

// newBeats subscribes; run begins.
func newBeats(w *Worker) (*beats, error) {
	b := &beats{
		w: w, inbox: w.f.nc.NewInbox() + ".", started: time.Now(),
		wake: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{}),
	}
	var err error
	b.sub, err = w.f.nc.Subscribe(b.inbox+"*.*.*", b.answered)
	if err != nil {
		return nil, failed(err)
	}
	return b, nil
}

// run works until close.
func (b *beats) run() {
	defer close(b.ended)
	nc := b.w.f.nc
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)
	tick := time.NewTicker(min(firstBeat, b.w.lease/ticksPerLease))
	defer tick.Stop()
	hello := time.NewTicker(helloEvery)
	defer hello.Stop()
	again := time.NewTimer(time.Hour) // for the progress that comes too soon
	defer again.Stop()
	var later []*Attempt
	b.w.hello(false)
	for {
		select {
		case <-b.done:
			return
		case <-hello.C:
			b.w.hello(false)
		case <-tick.C:
			b.tick(time.Now(), false)
		case _, open := <-connected:
			if !open { // the connection is closed
				connected = nil
				continue
			}
			b.w.hello(false)
			b.tick(time.Now(), true)
			b.w.retold()
		case <-again.C:
			if later = b.tell(later); len(later) > 0 {
				again.Reset(progressEvery / 4)
			}
		case <-b.wake:
			b.mu.Lock()
			fresh := b.progress
			b.progress = nil
			b.mu.Unlock()
			if rest := b.tell(fresh); len(rest) > 0 {
				if later = append(later, rest...); len(later) == len(rest) {
					again.Reset(progressEvery / 4)
				}
			}
		}
	}
}

// close ends it and waits for it.
func (b *beats) close() {
	close(b.done)
	<-b.ended
	_ = b.sub.Unsubscribe() // it fails only where the connection is closed, and the subscription with it
}

// progressed has an attempt's progress sent; a.mu is held.
func (b *beats) progressed(a *Attempt) {
	b.mu.Lock()
	b.progress = append(b.progress, a)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// tell sends the progress of attempts, and returns those that have sent some too
// short a time ago.
func (b *beats) tell(of []*Attempt) (later []*Attempt) {
	now := time.Now()
	for _, a := range of {
		a.mu.Lock()
		soon := now.Sub(a.life.progressAt) < progressEvery
		if a.progress == nil { // the function has returned meanwhile
			a.mu.Unlock()
			continue
		}
		a.mu.Unlock()
		if soon {
			later = append(later, a)
			continue
		}
		b.beat(a, now)
	}
	return later
}

// tick sends the beats that are due, or all of them, and gives up what has not
// been acknowledged for a lease.
func (b *beats) tick(now time.Time, all bool) {
	connected := b.w.f.nc.IsConnected()
	for _, a := range b.w.alive(now) {
		a.mu.Lock()
		over, due := a.life.over(now, b.w.lease), all || a.life.due(now, b.w.lease)
		a.mu.Unlock()
		if over {
			a.lose(false)
		}
		if due && connected {
			b.beat(a, now)
		}
	}
}

// beat says that an attempt is worked on, or waits its turn here, and how far it
// is.
func (b *beats) beat(a *Attempt, now time.Time) {
	a.mu.Lock()
	if a.refused {
		a.mu.Unlock()
		return
	}
	a.life.sent(now)
	progress := a.progress
	if a.progress = nil; progress != nil {
		a.life.progressAt = now
	}
	a.mu.Unlock()
	msg := sign(a, b.w.lease, progress)
	msg.Reply = b.inbox + a.id.String() + "." + strconv.FormatInt(a.fence, 10) + "." + strconv.FormatInt(int64(now.Sub(b.started)), 10)
	_ = b.w.f.nc.PublishMsg(msg) // where it can't, nothing acknowledges it
}

// goodbye says that nothing more will be heard of an attempt that has not ended:
// its lease is over at once, and another worker may have it.
func (b *beats) goodbye(a *Attempt) {
	a.mu.Lock()
	said := a.refused || !time.Now().Before(a.deadline)
	a.refused = true // no beat follows
	a.mu.Unlock()
	if !said {
		_ = b.w.f.nc.PublishMsg(sign(a, time.Millisecond, nil)) // else the lease runs out
	}
}

// sign makes a sign of life of an attempt, which promises the next one.
func sign(a *Attempt, within time.Duration, progress []byte) *nats.Msg {
	return &nats.Msg{Subject: a.reply, Data: progress, Header: nats.Header{
		wire.HeaderTaskProgress: {"1"},
		wire.HeaderTaskLease:    {strconv.FormatInt(within.Milliseconds(), 10)},
	}}
}

// answered takes what the service says to a beat.
func (b *beats) answered(msg *nats.Msg) {
	rest, ok := strings.CutPrefix(msg.Subject, b.inbox)
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 3 {
		return
	}
	id, err := wire.ParseTaskID("id", parts[0])
	if err != nil {
		return
	}
	fence, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return
	}
	since, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return
	}
	a := b.w.find(id, fence)
	if a == nil {
		return
	}
	switch err := replyError(msg); {
	case a.gaveUp(err), errors.Is(err, wire.ErrNotFound):
		a.lose(true)
	case wire.HeaderValue(msg.Header, "Status") != "": // nobody was there to hear it
	default: // also where Postgres is away: then nobody gives it up either
		a.mu.Lock()
		a.life.acknowledged(b.started.Add(time.Duration(since)))
		a.mu.Unlock()
	}
}
