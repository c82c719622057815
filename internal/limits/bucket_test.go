package limits

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func policy(capacity, refill int, per time.Duration) Policy {
	return PolicyOf(&rules.Limit{Capacity: capacity, Refill: refill, Per: per})
}

var start = time.UnixMilli(1_760_000_000_000)

func TestTake(t *testing.T) {
	p := policy(5, 2, time.Second)
	b, v := p.Take(Bucket{}, 5, start)
	if !v.Allowed || v.Remaining != 0 || v.Reset != 2500*time.Millisecond {
		t.Errorf("all of a full bucket: got %+v", v)
	}
	after, v := p.Take(b, 3, start)
	if v.Allowed || v.RetryAfter != 1500*time.Millisecond || after != b {
		t.Errorf("3 of none: got %+v, %+v", v, after)
	}
	if _, v = p.Take(b, 6, start); v.Allowed || v.RetryAfter != wire.Never {
		t.Errorf("above the capacity: got %+v", v)
	}
	if _, v = p.Take(b, 0, start); !v.Allowed {
		t.Errorf("nothing of none: got %+v", v)
	}
	if _, v = p.Take(b, 3, start.Add(1500*time.Millisecond)); !v.Allowed || v.Remaining != 0 {
		t.Errorf("when it said: got %+v", v)
	}
	if _, v = p.Take(b, 3, start.Add(1500*time.Millisecond-time.Microsecond)); v.Allowed {
		t.Errorf("a moment before: got %+v", v)
	}
}

// However often a bucket is polled, what it gives in the long run is what its
// policy says.
func TestPollingLosesNothing(t *testing.T) {
	for _, c := range []struct {
		capacity, refill  int
		per, every, total time.Duration
	}{
		{2, 1, time.Second, 100 * time.Millisecond, 20 * time.Second},
		{10, 3, time.Second, 7 * time.Millisecond, 20 * time.Second},
		{1000, 1_000_000, time.Second, 333 * time.Microsecond, 2 * time.Second}, // two million takes
		{4, 7, time.Minute, 999 * time.Millisecond, 100 * time.Minute},
		{1_000_000_000, 1, 365 * 24 * time.Hour, 170 * time.Minute, 10 * 365 * 24 * time.Hour},
	} {
		p := policy(c.capacity, c.refill, c.per)
		b := Bucket{Missing: p.Capacity * p.share, Share: p.share, At: start.UnixMicro()}
		granted := int64(0)
		for at := time.Duration(0); at <= c.total; at += c.every {
			for {
				after, v := p.Take(b, 1, start.Add(at))
				b = after
				if !v.Allowed {
					break
				}
				granted++
			}
		}
		want := float64(c.total) / float64(c.per) * float64(c.refill)
		if got := float64(granted); got < want*0.99-1 || got > want {
			t.Errorf("%+v: got %v tokens, want %v", c, got, want)
		}
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	p := policy(5, 10, time.Second)
	b, _ := p.Take(Bucket{}, 3, start)
	b, v := p.Take(b, 1, start.Add(-5*time.Second))
	if !v.Allowed || v.Remaining != 1 {
		t.Errorf("got %+v, want allowed with 1", v)
	}
	if _, v = p.Take(b, 1, start); v.Remaining != 0 {
		t.Errorf("got %+v, want nothing given twice", v)
	}
}

func TestBans(t *testing.T) {
	p := PolicyOf(&rules.Limit{Capacity: 2, Refill: 1, Per: time.Second, Block: 10 * time.Second})
	b, _ := p.Take(Bucket{}, 2, start)
	if same, v := p.Take(b, 3, start); v.Banned || same != b {
		t.Errorf("a cost above the capacity bans: %+v", v)
	}
	b, v := p.Take(b, 1, start)
	if !v.Banned || v.Allowed || v.RetryAfter != 10*time.Second || v.Reset != 10*time.Second {
		t.Errorf("got %+v, want a ban of 10s", v)
	}
	later, v := p.Take(b, 1, start.Add(9*time.Second))
	if !v.Banned || v.RetryAfter != time.Second || later != b {
		t.Errorf("got %+v, want the same ban with a second left", v)
	}
	if _, v = p.Take(b, 1, start.Add(10*time.Second)); !v.Allowed || v.Remaining != 1 {
		t.Errorf("got %+v, want it over", v)
	}
}

func TestAPolicyThatChanges(t *testing.T) {
	p := policy(10, 1, time.Second)
	b, _ := p.Take(Bucket{}, 4, start)
	for _, q := range []Policy{policy(10, 60, time.Minute), policy(10, 1, 3*time.Second), policy(1_000_000_000, 1, 365*24*time.Hour)} {
		if v := q.Look(b, 1, start); v.Remaining != q.Capacity-4 {
			t.Errorf("got %+v, want 4 below %d", v, q.Capacity)
		}
	}
	small := policy(2, 1, time.Second)
	if v := small.Look(b, 1, start); v.Remaining != 0 || v.RetryAfter != time.Second {
		t.Errorf("got %+v, want an empty bucket of the smaller size", v)
	}
}

func TestRefund(t *testing.T) {
	p := policy(5, 1, time.Second)
	b, _ := p.Take(Bucket{}, 3, start)
	if v := p.Look(p.Refund(b, 2, start), 1, start); v.Remaining != 4 {
		t.Errorf("got %+v, want 4", v)
	}
	if v := p.Look(p.Refund(b, 200, start), 1, start); v.Remaining != 5 {
		t.Errorf("got %+v, want no more than the capacity", v)
	}
}
