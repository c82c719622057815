package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// deciding is a ratelimit service that decides as it is told to.
type deciding struct {
	*locals
	err   atomic.Pointer[wire.Error] // instead of an answer
	mute  atomic.Bool                // no answer
	asked atomic.Int64
}

func (d *deciding) decide(ctx context.Context) error {
	d.asked.Add(1)
	if d.mute.Load() {
		<-ctx.Done()
		return wire.AsError(ctx.Err())
	}
	if err := d.err.Load(); err != nil {
		return err
	}
	return nil
}

func (d *deciding) Remembered(limits.Ask) (limits.Answer, bool) { return limits.Answer{}, false }

func (d *deciding) Consume(ctx context.Context, a limits.Ask, n int64) (limits.Answer, error) {
	if err := d.decide(ctx); err != nil {
		return limits.Answer{}, err
	}
	return d.take(a, n, time.Now()), nil
}

func (d *deciding) ConsumeAll(ctx context.Context, asks []limits.Ask) (bool, []limits.Answer, error) {
	if err := d.decide(ctx); err != nil {
		return false, nil, err
	}
	granted, answers := d.takeAll(asks, time.Now())
	return granted, answers, nil
}

// limiting is a limiter, what it asks, what it logs and the events it tells.
func limiting() (l *limiter, d *deciding, log *bytes.Buffer, events *[]string) {
	log, events = &bytes.Buffer{}, &[]string{}
	tell := func(_ *taker, a limits.Ask, _ limits.Answer) { *events = append(*events, a.Limit.Name+" "+a.Key) }
	l = newLimiter(slog.New(slog.NewTextHandler(log, nil)), func() bool { return true }, tell)
	d = &deciding{locals: newLocals()}
	l.service = d
	return l, d, log, events
}

func (l *limiter) once(t *testing.T, limit *rules.Limit, cost int64) *wire.Error {
	t.Helper()
	_, err := l.take(t.Context(), &taker{}, limits.Ask{Limit: limit, Key: "ann", Cost: cost}, 1)
	return err
}

func TestRefusalsSayWhatTheLimitIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, _, events := limiting()
		of := limit(5, 2, time.Second)
		if err := l.once(t, of, 5); err != nil {
			t.Fatal(err)
		}
		err := l.once(t, of, 3)
		want := map[string]any{"limit": "some", "cost": int64(3), "capacity": 5, "remaining": int64(0)}
		if err == nil || err.Code != wire.ResourceExhausted || err.RetryAfter != 1500*time.Millisecond || !same(err.Details, want) || err.Message != "the limit some is used up" {
			t.Errorf("got %+v, want 1.5 s to wait and %v", err, want)
		}
		err = l.once(t, of, 10)
		want = map[string]any{"limit": "some", "cost": int64(10), "capacity": 5}
		if err == nil || err.RetryAfter != wire.Never || !same(err.Details, want) {
			t.Errorf("above the capacity: got %+v, want never and %v", err, want)
		}
		of.Block = time.Minute
		l.once(t, of, 3)
		if err = l.once(t, of, 1); err == nil || err.Message != "banned by the limit some" || err.RetryAfter != time.Minute {
			t.Errorf("banned: got %+v", err)
		}
		if len(*events) != 1 || (*events)[0] != "some ann" {
			t.Errorf("got the events %v, want one", *events)
		}
		if l.granted.Load() != 1 || l.refused.Load() != 4 {
			t.Errorf("counted %d granted and %d refused, want 1 and 4", l.granted.Load(), l.refused.Load())
		}
	})
}

func same(a, b map[string]any) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

// While the service says nothing each operation waits 50 ms, and then its limit's
// failMode counts. The log has one line of the outage, and one of its end.
func TestFailModes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d, log, _ := limiting()
		closed, open, local := limit(2, 1, time.Hour), limit(2, 1, time.Hour), limit(2, 1, time.Hour)
		open.FailMode, local.FailMode = rules.FailOpen, rules.FailLocal
		d.mute.Store(true)
		for i := range 3 {
			began := time.Now()
			err := l.once(t, closed, 1)
			if err == nil || err.Code != wire.Unavailable || err.Details["limit"] != "some" || err.Details["outcome"] != "none" {
				t.Errorf("closed: got %+v, want UNAVAILABLE of some", err)
			}
			if took := time.Since(began); took != decideWithin {
				t.Errorf("closed: took %s, want %s", took, decideWithin)
			}
			if err := l.once(t, open, 1); err != nil {
				t.Errorf("open: got %v", err)
			}
			if err := l.once(t, local, 1); (err == nil) != (i < 2) {
				t.Errorf("local: the call %d got %v, want 2 granted", i, err)
			}
		}
		if c, o, n := l.undecided[0].Load(), l.undecided[1].Load(), l.undecided[2].Load(); c != 3 || o != 3 || n != 3 {
			t.Errorf("counted %d closed, %d open, %d local, want 3 of each", c, o, n)
		}
		d.mute.Store(false)
		time.Sleep(outageCalm)
		for range 2 {
			if err := l.once(t, local, 1); err != nil {
				t.Errorf("when it decides again: got %v", err)
			}
		}
		if n, back := strings.Count(log.String(), "does not decide"), strings.Count(log.String(), "decides again"); n != 1 || back != 1 || !strings.Contains(log.String(), "undecided=9") {
			t.Errorf("the log has %d and %d lines, want one of each, with 9 undecided:\n%s", n, back, log)
		}
	})
}

func TestSeveralLimitsFailTogether(t *testing.T) {
	l, d, _, _ := limiting()
	d.err.Store(wire.ErrUnavailable)
	closed, open, local := limit(2, 1, time.Hour), limit(2, 1, time.Hour), limit(2, 1, time.Hour)
	open.FailMode, local.FailMode = rules.FailOpen, rules.FailLocal
	open.Name, local.Name = "open", "local"
	asks := func(of ...*rules.Limit) (asks []limits.Ask) {
		for _, limit := range of {
			asks = append(asks, limits.Ask{Limit: limit, Key: "ann", Cost: 2})
		}
		return asks
	}
	for _, c := range []struct {
		name string
		of   []limits.Ask
		want error
	}{
		{"one that is closed", asks(open, local, closed), wire.ErrUnavailable},
		{"none that is closed", asks(open, local), nil},
		{"its own count used up", asks(open, local), wire.ErrResourceExhausted},
		{"only open ones", asks(open, open), nil},
	} {
		err := l.takeAll(t.Context(), &taker{}, c.of)
		if (err == nil) != (c.want == nil) || err != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestSeveralLimitsAreRefusedByTheLongestWait(t *testing.T) {
	l, _, _, _ := limiting()
	quick, slow := limit(2, 1, time.Second), limit(2, 1, time.Hour)
	quick.Name, slow.Name = "quick", "slow"
	asks := []limits.Ask{{Limit: quick, Key: "ann", Cost: 2}, {Limit: slow, Key: "ann", Cost: 2}}
	if err := l.takeAll(t.Context(), &taker{}, asks); err != nil {
		t.Fatal(err)
	}
	if err := l.takeAll(t.Context(), &taker{}, asks); err == nil || err.Details["limit"] != "slow" || err.RetryAfter < time.Hour {
		t.Errorf("got %+v, want the refusal of slow", err)
	}
	asks[0].Cost = 3
	if err := l.takeAll(t.Context(), &taker{}, asks); err == nil || err.Details["limit"] != "quick" || err.RetryAfter != wire.Never {
		t.Errorf("a sum above a capacity: got %+v, want never of quick", err)
	}
}

// A replica that has not read the rules yet is asked again; one that does not
// come to know the limit is not waited for each time.
func TestALimitThatTheServiceDoesNotKnowYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d, _, _ := limiting()
		of := limit(5, 1, time.Hour)
		d.err.Store(wire.ErrNotFound)
		time.AfterFunc(20*time.Millisecond, func() { d.err.Store(nil) })
		if err := l.once(t, of, 1); err != nil || d.asked.Load() < 2 {
			t.Errorf("known after 20 ms: got %v with %d questions", err, d.asked.Load())
		}
		d.err.Store(wire.ErrNotFound)
		began := time.Now()
		for range 10 {
			if err := l.once(t, of, 1); err == nil || err.Code != wire.Unavailable {
				t.Errorf("never known: got %v, want UNAVAILABLE", err)
			}
		}
		if took := time.Since(began); took != decideWithin {
			t.Errorf("10 that are never known took %s, want one to wait for %s", took, decideWithin)
		}
	})
}

// Once the breaker is broken nobody waits; a refusal that is remembered does not
// mend it, an answer does.
func TestABrokenBreakerAnswersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d, _, _ := limiting()
		l.guard = breaker.New(breaker.Config{Name: "ratelimit"})
		of := limit(5, 1, time.Hour)
		d.mute.Store(true)
		for range breaker.Failures {
			l.once(t, of, 1)
		}
		asked, began := d.asked.Load(), time.Now()
		for range 100 {
			if err := l.once(t, of, 1); err == nil || err.Code != wire.Unavailable {
				t.Fatalf("got %v, want UNAVAILABLE", err)
			}
		}
		if took, n := time.Since(began), d.asked.Load()-asked; took > 0 || n > 0 {
			t.Errorf("100 operations took %s and asked %d times, want none", took, n)
		}
		d.mute.Store(false)
		time.Sleep(breaker.Delay)
		if err := l.once(t, of, 1); err != nil || l.guard.State() != breaker.Healthy {
			t.Errorf("when the service is back: got %v, %s", err, l.guard.State())
		}
		d.mute.Store(true)
		l.up = func() bool { return false }
		for range 2 * breaker.Failures {
			l.once(t, of, 1)
		}
		if l.guard.State() != breaker.Healthy {
			t.Error("the service is given up because NATS is away")
		}
	})
}

func BenchmarkTake(b *testing.B) {
	l, _, _, _ := limiting()
	ask := limits.Ask{Limit: limit(1_000_000_000, 1_000_000_000, time.Second), Key: "ann", Cost: 1}
	by := &taker{}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.take(b.Context(), by, ask, 1); err != nil {
			b.Fatal(err)
		}
	}
}
