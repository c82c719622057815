package gateway

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// pacing is a ratelimit service that needs a millisecond for each question, one
// after the other. It leaves out those whose time is over.
type pacing struct {
	deciding
	turn turn
	now  atomic.Int64 // questions that wait
	most atomic.Int64
}

func (p *pacing) Consume(ctx context.Context, a limits.Ask, n int64) (limits.Answer, error) {
	p.most.Store(max(p.most.Load(), p.now.Add(1)))
	defer p.now.Add(-1)
	if err := p.turn.lock(ctx); err != nil {
		return limits.Answer{}, wire.AsError(err)
	}
	defer p.turn.Unlock()
	if err := clock.Sleep(ctx, time.Millisecond); err != nil {
		return limits.Answer{}, wire.AsError(err)
	}
	return p.deciding.Consume(ctx, a, n)
}

// A batch that takes from more buckets than are decided about in time has some of
// its messages undecided, by their failMode. It costs others nothing.
func TestABatchOfManyBucketsIsNobodysOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d, log, _ := limiting()
		b := &pacing{deciding: deciding{locals: d.locals}}
		l.service, l.guard = b, breaker.New(breaker.Config{Name: "ratelimit"})
		closed, open := limit(5, 1, time.Hour), limit(5, 1, time.Hour)
		open.FailMode = rules.FailOpen
		for round := range 10 {
			messages := make([]outgoing, 1000)
			all := make([]fold, len(messages))
			for i := range all {
				of := closed
				if i%2 == 1 {
					of = open
				}
				all[i] = fold{limits.Ask{Limit: of, Key: fmt.Sprint(round, " ", i), Cost: 1}, []*outgoing{&messages[i]}}
			}
			began := time.Now()
			var batch sync.WaitGroup
			batch.Go(func() { l.takeEach(t.Context(), &taker{}, all) })
			synctest.Wait() // its first questions are out
			if err := l.once(t, limit(1000, 1, time.Hour), 1); err != nil {
				t.Fatalf("another's message: %v", err)
			}
			batch.Wait()
			if took := time.Since(began); took != decideWithin {
				t.Errorf("the batch took %s, want %s", took, decideWithin)
			}
			var undecided int
			for i := range messages {
				if err := messages[i].refused; err != nil {
					undecided++
					if i%2 == 1 || err.Code != wire.Unavailable || err.Details["limit"] != "some" {
						t.Fatalf("message %d of a batch: got %+v, want UNAVAILABLE of those with failMode closed", i, err)
					}
				}
			}
			if undecided == 0 || undecided > 490 {
				t.Errorf("%d of 500 were undecided, want some of them", undecided)
			}
			if l.guard.State() != breaker.Healthy {
				t.Fatal("it switches the limiter off for everybody")
			}
		}
		if most := b.most.Load(); most > spendAtOnce+1 {
			t.Errorf("%d questions at a time, want at most %d of a batch and another's", most, spendAtOnce)
		}
		if strings.Contains(log.String(), "does not decide") {
			t.Errorf("the log tells of an outage:\n%s", log)
		}
	})
}

// What fails at the same time fails once; a service that stays away is given up
// all the same.
func TestOneHiccupIsOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d, _, _ := limiting()
		l.guard = breaker.New(breaker.Config{Name: "ratelimit"})
		of := limit(1000, 1, time.Hour)
		crowd := func() {
			var all sync.WaitGroup
			for range 4 * breaker.Failures {
				all.Go(func() { l.once(t, of, 1) })
			}
			all.Wait()
		}
		d.mute.Store(true)
		crowd()
		d.mute.Store(false)
		if err := l.once(t, of, 1); err != nil || l.guard.State() != breaker.Healthy {
			t.Errorf("behind a hiccup of 50 ms: got %v, %s", err, l.guard.State())
		}
		d.err.Store(wire.ErrUnavailable) // answered at once
		crowd()
		d.err.Store(nil)
		if err := l.once(t, of, 1); err != nil || l.guard.State() != breaker.Healthy {
			t.Errorf("behind a moment without a replica: got %v, %s", err, l.guard.State())
		}
		d.mute.Store(true)
		for range breaker.Failures {
			crowd()
		}
		if l.guard.State() != breaker.Broken {
			t.Error("a service that stays away is not given up")
		}
	})
}

// Silence to one question says nothing while others are answered.
func TestSilenceToOneQuestionIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d, log, _ := limiting()
		l.guard = breaker.New(breaker.Config{Name: "ratelimit"})
		of := limit(1000, 1, time.Hour)
		for range 3 * breaker.Failures {
			d.mute.Store(true)
			var silent sync.WaitGroup
			silent.Go(func() { l.once(t, of, 1) })
			synctest.Wait()
			time.Sleep(time.Millisecond)
			d.mute.Store(false)
			if err := l.once(t, of, 1); err != nil {
				t.Fatal(err)
			}
			silent.Wait()
		}
		if l.guard.State() != breaker.Healthy || log.Len() > 0 {
			t.Errorf("got %s, and the log says %q", l.guard.State(), log)
		}
	})
}

// Who goes away while a limit is asked about for him is not an outage.
func TestWhoGoesAwayIsNoOutage(t *testing.T) {
	for name, with := range map[string]func(*deciding){
		"while nobody answers":               func(d *deciding) { d.mute.Store(true) },
		"while nobody knows the limit":       func(d *deciding) { d.err.Store(wire.ErrNotFound) },
		"before it was asked":                nil,
		"while nobody answers about several": func(d *deciding) { d.mute.Store(true) },
	} {
		synctest.Test(t, func(t *testing.T) {
			l, d, log, _ := limiting()
			of := limit(5, 1, time.Hour)
			of.FailMode = rules.FailOpen
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if with == nil {
				cancel()
			} else {
				with(d)
				time.AfterFunc(10*time.Millisecond, cancel)
			}
			ask := limits.Ask{Limit: of, Key: "ann", Cost: 1}
			var err *wire.Error
			if strings.Contains(name, "several") {
				err = l.takeAll(ctx, &taker{}, []limits.Ask{ask, {Limit: of, Key: "bob", Cost: 1}})
			} else {
				_, err = l.take(ctx, &taker{}, ask, 1)
			}
			if err == nil || err.Code != wire.Unavailable {
				t.Errorf("%s: got %v, want UNAVAILABLE: nobody waits for it", name, err)
			}
			if log.Len() > 0 || l.outage.total.Load() != 0 || l.undecided[rules.FailOpen].Load() != 0 || l.unread.Load() != 0 {
				t.Errorf("%s: it counts as an outage: %s", name, log)
			}
		})
	}
}

// A limit with `shadow` refuses nobody, whoever is away.
func TestALimitWithShadowNeverRefuses(t *testing.T) {
	l, d, _, _ := limiting()
	d.err.Store(wire.ErrUnavailable)
	shadow, other := limit(2, 1, time.Hour), limit(2, 1, time.Hour)
	shadow.Shadow, other.Name, other.FailMode = true, "other", rules.FailOpen
	for range 5 {
		if err := l.once(t, shadow, 1); err != nil {
			t.Errorf("got %v", err)
		}
		if err := l.takeAll(t.Context(), &taker{}, []limits.Ask{{Limit: shadow, Key: "ann", Cost: 1}, {Limit: other, Key: "ann", Cost: 1}}); err != nil {
			t.Errorf("with another limit: got %v", err)
		}
	}
	shadow.FailMode = rules.FailLocal
	for range 5 {
		if err := l.once(t, shadow, 1); err != nil {
			t.Errorf("local: got %v", err)
		}
	}
	if n := l.shadowed.Load(); n != 3 {
		t.Errorf("local: %d were above the limit, want 3", n)
	}
}

// recalling answers from memory.
type recalling struct{ *deciding }

func (r recalling) Remembered(limits.Ask) (limits.Answer, bool) {
	return limits.Answer{Verdict: limits.Verdict{RetryAfter: time.Second}, Cached: true}, true
}

func (r recalling) ConsumeAll(_ context.Context, asks []limits.Ask) (bool, []limits.Answer, error) {
	answers := make([]limits.Answer, len(asks))
	answers[0].Cached, answers[0].RetryAfter = true, time.Second
	return false, answers, nil
}

// A refusal that is remembered does not say that the service is back.
func TestARememberedRefusalMendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d, _, _ := limiting()
		l.guard = breaker.New(breaker.Config{Name: "ratelimit"})
		d.mute.Store(true)
		of := limit(5, 1, time.Hour)
		for range breaker.Failures {
			l.once(t, of, 1)
		}
		time.Sleep(breaker.Delay)
		l.service = recalling{d}
		if err := l.takeAll(t.Context(), &taker{}, []limits.Ask{{Limit: of, Key: "ann", Cost: 1}, {Limit: of, Key: "bob", Cost: 1}}); err == nil || err.Code != wire.ResourceExhausted {
			t.Errorf("got %v, want the refusal", err)
		}
		if l.guard.State() == breaker.Healthy {
			t.Error("it made the breaker healthy")
		}
	})
}

// Nor does it take the one question that would show that the service is back, and
// it is said though nobody may be asked.
func TestARememberedRefusalTakesNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d, _, _ := limiting()
		l.guard = breaker.New(breaker.Config{Name: "ratelimit"})
		d.mute.Store(true)
		of := limit(5, 1, time.Hour)
		of.FailMode = rules.FailOpen
		for range breaker.Failures {
			l.once(t, of, 1)
		}
		l.service = recalling{d}
		if err := l.once(t, of, 1); err == nil || err.Code != wire.ResourceExhausted {
			t.Errorf("while nobody is asked: got %v, want the refusal", err)
		}
		time.Sleep(breaker.Delay)
		if err := l.once(t, of, 1); err == nil || err.Code != wire.ResourceExhausted {
			t.Errorf("got %v, want the refusal", err)
		}
		l.service = d
		d.mute.Store(false)
		if err := l.once(t, of, 1); err != nil || l.guard.State() != breaker.Healthy {
			t.Errorf("got %v, %s, want it asked and found healthy", err, l.guard.State())
		}
	})
}
