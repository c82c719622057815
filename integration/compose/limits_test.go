package compose

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

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
// it is refilled early for that long, once.
const clockError = 250 * time.Millisecond

func (b *bucket) note(v take) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takes = append(b.takes, v)
}

// latest is when the last question was asked that had an answer.
func (b *bucket) latest() (asked time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.takes) > 0 {
		asked = b.takes[len(b.takes)-1].asked
	}
	return asked
}

// said returns how many verdicts there were, and how many of them granted.
func (b *bucket) said() (all, granted int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, v := range b.takes {
		if v.granted {
			granted++
		}
	}
	return len(b.takes), granted
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
		if got, want := b.latest(), c.takes[len(c.takes)-1].asked; got != want {
			t.Errorf("%s: the latest was asked at %s, want %s", c.name, got, want)
		}
		if all, granted := b.said(); all != len(c.takes) || granted > all || strings.HasPrefix(c.name, "refusals") && granted != 3 {
			t.Errorf("%s: said %d and granted %d", c.name, all, granted)
		}
	}
}
