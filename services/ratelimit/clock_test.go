package ratelimit

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

var noon = time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC)

// tell is a sample that took some time, of a server whose clock was skew ahead of
// noon plus the monotonic time.
func tell(sent, took, skew time.Duration) sample {
	return sample{sent: sent, stored: sent + took, at: noon.Add(skew + sent + took/2)}
}

func TestOffsetIsNotKnownBeforeASample(t *testing.T) {
	var o offset
	if at, err := o.at(0); err == nil {
		t.Errorf("got %s, want an error", at)
	}
	o.take(tell(time.Second, 600*time.Millisecond, 0))
	if at, err := o.at(2 * time.Second); err == nil {
		t.Errorf("after a sample that took 600ms: got %s, want an error", at)
	}
}

// Whatever the answers take, the time is as near to the server's as the estimate
// says, while the clocks part no faster than clocks do.
func TestOffsetKeepsItsError(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		rate := (r.Float64()*2 - 1) * 500e-6 // by which the server's clock is faster
		began := noon.Add(time.Duration(r.Int64N(int64(time.Hour))))
		server := func(elapsed time.Duration) time.Time {
			return began.Add(elapsed + time.Duration(rate*float64(elapsed)))
		}
		var o offset
		for now := time.Duration(0); now < 5*time.Minute; now += time.Duration(r.Int64N(int64(4 * time.Second))) {
			there, back := time.Duration(r.ExpFloat64()*float64(5*time.Millisecond)), time.Duration(r.ExpFloat64()*float64(5*time.Millisecond))
			o.take(sample{sent: now, stored: now + there + back, at: server(now + there)})
			now += there + back
			at, err := o.at(now)
			if err != nil {
				t.Fatalf("seed %d after %s: %v", seed, now, err)
			}
			if off := at.Sub(server(now)).Abs(); off > o.best.errAt(now) {
				t.Fatalf("seed %d after %s: %s away from the server, which is more than %s", seed, now, off, o.best.errAt(now))
			}
		}
	}
}

func TestOffsetKeepsTheBestSample(t *testing.T) {
	var o offset
	o.take(tell(0, 2*time.Millisecond, 0))
	o.take(tell(2*time.Second, 200*time.Millisecond, 0))
	if got := o.best.errAt(2200 * time.Millisecond); got > 3*time.Millisecond {
		t.Errorf("after a slow sample the error is %s, want that of the quick one before it", got)
	}
	later := 10 * time.Minute // what it knows of then is too long ago
	if at, err := o.at(later); err == nil {
		t.Errorf("ten minutes without a sample: got %s, want an error", at)
	}
	o.take(tell(later, 20*time.Millisecond, 0))
	if _, err := o.at(later + 20*time.Millisecond); err != nil {
		t.Errorf("after another one: %v", err)
	}
}

func TestOffsetIsInDoubtWhereTheClockWasSet(t *testing.T) {
	var o offset
	ms := time.Millisecond
	o.take(tell(0, ms, 0))
	o.take(tell(2*time.Second, ms, 5*time.Second))
	if at, err := o.at(2001 * ms); err == nil {
		t.Errorf("after one answer that says 5s more: got %s, want an error", at)
	}
	o.take(tell(2100*ms, ms, 0))
	if at, err := o.at(2101 * ms); err != nil || at.Sub(noon.Add(2101*ms)).Abs() > 2*ms {
		t.Errorf("an answer like those before it: got %s, %v", at, err)
	}
	o.take(tell(4*time.Second, ms, -time.Hour))
	o.take(tell(4100*ms, ms, -time.Hour))
	if at, err := o.at(4101 * ms); err != nil || at.Sub(noon.Add(4101*ms-time.Hour)).Abs() > 2*ms {
		t.Errorf("two answers that agree: got %s, %v, want an hour less", at, err)
	}
	o.take(tell(6*time.Second, ms, -time.Hour+100*ms))
	if at, err := o.at(6001 * ms); err != nil || at.Sub(noon.Add(6101*ms-time.Hour)).Abs() > 2*ms {
		t.Errorf("a small step: got %s, %v, want it followed", at, err)
	}
}

// leaseBucket holds a lease, stored by a server whose clock is its own.
type leaseBucket struct {
	clock func() time.Time

	mu   sync.Mutex
	away error
	held kv.Entry
}

func (b *leaseBucket) Put(_ context.Context, w kv.Write) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away != nil {
		return 0, b.away
	}
	b.held = kv.Entry{Key: w.Key, Value: w.Value, Revision: b.held.Revision + 1, At: b.clock(), Deleted: w.Delete}
	return b.held.Revision, nil
}

func (b *leaseBucket) Get(context.Context, string) (kv.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held, b.away
}

// Two replicas whose own clocks are 5 seconds apart, and neither right, agree
// about the time: it is the server's.
func TestReplicasOfWrongClocksAgree(t *testing.T) {
	began := time.Now()
	bucket := &leaseBucket{clock: func() time.Time { return noon.Add(time.Since(began)) }}
	var clocks [2]*serverClock
	for i := range clocks {
		skew := time.Duration(i) * 5 * time.Second
		clocks[i] = newServerClock(bucket, "replica", func() time.Duration { return time.Since(began) + skew })
		if !clocks[i].now().IsZero() || clocks[i].ready() == nil {
			t.Errorf("a time before the server said one: %s", clocks[i].now())
		}
		if _, err := clocks[i].renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := clocks[i].ready(); err != nil {
			t.Fatal(err)
		}
	}
	known := clocks[0].err() + clocks[1].err()
	first, second, right := clocks[0].now(), clocks[1].now(), bucket.clock()
	if apart := second.Sub(first); apart < -known || apart > known+right.Sub(first).Abs() {
		t.Errorf("they say %s and %s, which are known to %s together", first, second, known)
	}
	if off := right.Sub(first).Abs(); off > maxDisagreement {
		t.Errorf("%s away from the server", off)
	}
}

func TestClockIsLostWithItsBucket(t *testing.T) {
	began := time.Now()
	bucket := &leaseBucket{clock: func() time.Time { return noon.Add(time.Since(began)) }, away: errors.New("away")}
	c := newServerClock(bucket, "replica", elapsedSince())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.run(ctx) })
	eventually(t, "the clock to say that it is lost", c.lost)
	bucket.mu.Lock()
	bucket.away = nil
	bucket.mu.Unlock()
	c.look()
	eventually(t, "the clock to be ready", func() bool { return !c.lost() && c.ready() == nil })
	cancel()
	running.Wait()
	if !bucket.held.Deleted {
		t.Error("the lease is still there")
	}
}
