package compose

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// takeBurst is how many a worker takes of a limit at a time.
const takeBurst = 8

// take is one verdict about a bucket: somewhere between asked and told, by the
// clock of this machine.
type take struct {
	asked, told time.Duration // since the beginning
	granted     bool
}

// bucket is what one key of a limit has given, as far as it was told.
type bucket struct {
	key      string
	capacity int
	refill   float64 // tokens in a second

	mu    sync.Mutex
	takes []take
}

// clockError is by how much the service may take the NATS server's time wrong;
// it is refilled early for that long, once. One token more may hide in it, two do
// not: the bucket is asked for more than there is all the time, so what is given
// too much adds up.
const clockError = 250 * time.Millisecond

func (b *bucket) note(v take) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takes = append(b.takes, v)
}

// shut says what is wrong with a bucket that has granted nothing to whoever asked
// since a time: it is refilled, so that would be a limit that nobody gets past.
func (b *bucket) shut(since time.Duration) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	refused := 0
	for _, v := range slices.Backward(b.takes) {
		switch {
		case v.told < since: // and what is before it was asked before it was told
			return fmt.Sprintf("%s: %d refusals, and nothing granted", b.key, refused)
		case v.asked >= since && v.granted:
			return ""
		case v.asked >= since:
			refused++
		}
	}
	return fmt.Sprintf("%s: %d refusals, and nothing granted", b.key, refused)
}

// exceeded returns by how much more was granted than the limit allows in the
// worst stretch of time, and a line about it; "" where it never was. A grant counts for a
// stretch that it was asked and told in, so none is counted that may have been
// before or after it.
func (b *bucket) exceeded() (over int, line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var granted []take
	for _, v := range b.takes {
		if v.granted {
			granted = append(granted, v)
		}
	}
	slices.SortFunc(granted, func(a, b take) int { return int(a.told - b.told) })
	for i := range granted {
		from := granted[i].asked
		n := 0
		for _, v := range granted {
			if v.asked < from {
				continue
			}
			n++
			most := b.capacity + int((v.told-from+clockError).Seconds()*b.refill)
			if n-most > over {
				over = n - most
				line = fmt.Sprintf("%s: %d granted within %s, and %d is the most", b.key, n, (v.told - from).Round(time.Millisecond), most)
			}
		}
	}
	return over, line
}

func TestTheCheckerOfLimits(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	at := func(granted bool, moments ...int) (takes []take) { // in ms; each takes 2
		for _, m := range moments {
			takes = append(takes, take{time.Duration(m) * ms, time.Duration(m+2) * ms, granted})
		}
		return takes
	}
	for _, c := range []struct {
		name  string
		takes []take
		want  string
	}{
		{"a full bucket", at(true, 1, 2, 3), ""},
		{"one more than a full bucket", at(true, 1, 2, 3, 4), "ann: 4 granted within 5ms, and 3 is the most"},
		{"refusals count for nothing", append(at(true, 1, 2, 3), at(false, 4, 5, 6)...), ""},
		{"what was refilled", at(true, 1, 2, 3, 1001, 2001), ""},
		{"more than was refilled", at(true, 1, 2, 3, 1001, 1002, 2001, 2002), "ann: 7 granted within 2.003s, and 5 is the most"},
		{"more than a full bucket after a long time", at(true, 60_001, 60_002, 60_003, 60_004), "ann: 4 granted within 5ms, and 3 is the most"},
		{"one that may have been before", append([]take{{0, 60_002 * ms, true}}, at(true, 60_001, 60_002, 60_003)...), ""},
		{"in another order", at(true, 4, 1, 3, 2), "ann: 4 granted within 5ms, and 3 is the most"},
	} {
		b := &bucket{key: "ann", capacity: 3, refill: 1}
		for _, v := range c.takes {
			b.note(v)
		}
		over, line := b.exceeded()
		if line != c.want || (over > 0) != (c.want != "") {
			t.Errorf("%s: got %d, %q, want %q", c.name, over, line, c.want)
		}
	}
}

// A limit that refuses everybody is never exceeded.
func TestTheCheckerOfLimitsThatAreShut(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for _, c := range []struct {
		name  string
		takes []take
		want  string
	}{
		{"one is granted", []take{{11 * s, 12 * s, false}, {12 * s, 13 * s, true}, {13 * s, 14 * s, false}}, ""},
		{"the last before that was", []take{{8 * s, 9 * s, true}, {11 * s, 12 * s, false}, {12 * s, 13 * s, false}}, "ann: 2 refusals, and nothing granted"},
		{"one was asked before that", []take{{9 * s, 11 * s, true}, {11 * s, 12 * s, false}}, "ann: 1 refusals, and nothing granted"},
		{"two at a time", []take{{11 * s, 12 * s, true}, {9 * s, 13 * s, false}}, ""},
		{"nobody answers", []take{{8 * s, 9 * s, true}}, "ann: 0 refusals, and nothing granted"},
		{"nobody ever answered", nil, "ann: 0 refusals, and nothing granted"},
	} {
		b := &bucket{key: "ann"}
		for _, v := range c.takes {
			b.note(v)
		}
		if got := b.shut(10 * s); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// Two that decide about one bucket at once, and know nothing of each other, give
// more than there is: that shows, whoever asks.
func TestTheCheckerOfLimitsWithTwoWhoAsk(t *testing.T) {
	t.Parallel()
	for what, decides := range map[string]int{"one decides": 1, "two decide": 2} {
		b := &bucket{key: "ann", capacity: 10, refill: 5}
		var asking sync.WaitGroup
		left := make([]int, decides)
		var mu sync.Mutex
		for i := range left {
			left[i] = b.capacity
		}
		for who := range 2 {
			asking.Go(func() {
				for range takeBurst {
					mu.Lock()
					given := left[who%decides] > 0
					left[who%decides]--
					mu.Unlock()
					b.note(take{time.Second, time.Second + time.Millisecond, given})
				}
			})
		}
		asking.Wait()
		if over, line := b.exceeded(); (over > 1) != (decides == 2) {
			t.Errorf("%s: %d above the limit: %s", what, over, line)
		}
	}
}
