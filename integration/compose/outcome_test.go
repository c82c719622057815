package compose

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// least is how many publishes have to be acknowledged in each second of a fault.
	least = 50
	// stalls is in how many seconds there may be fewer all the same: a machine that is
	// shared stops for a moment by itself, its disk too.
	stalls = 2
)

// outcome is what one fault came to.
type outcome struct {
	what       string
	lasted     time.Duration // from its beginning until everything was right again
	acks       int           // acknowledged publishes meanwhile
	bySecond   []int         // as many of them in each whole second of it, of one at least
	longest    time.Duration // the longest that one of them took
	lost       int
	twice      int
	left       int // users who were seen to leave, though nobody did
	tasks      int // that had been asked for until it was over, and ended since the last one
	tasksTwice int
	over       int                      // granted above the limits
	after      map[string]time.Duration // from the end of what was done until each part was right again
}

// fewest is how many publishes were acknowledged in the worst second.
func (o outcome) fewest() int {
	if len(o.bySecond) == 0 {
		return 0
	}
	return slices.Min(o.bySecond)
}

// slowest returns which part was right again last, and after how long.
func (o outcome) slowest() (part string, after time.Duration) {
	for p, d := range o.after {
		if d > after || d == after && p < part {
			part, after = p, d
		}
	}
	return part, after
}

// bounds are what a fault may cost. They are far above what it costs here, and far
// below what would be taken for broken.
type bounds struct {
	longest time.Duration // that one publish may wait for its acknowledgement
	after   time.Duration // that everything may take to be right again
	halts   bool          // meanwhile nobody can publish: what is away is NATS itself
}

// beyond says what of an outcome is worse than it may be.
func (o outcome) beyond(b bounds) (wrong []string) {
	if o.longest > b.longest {
		wrong = append(wrong, fmt.Sprintf("a publish waited for %s, and %s is the most", seconds(o.longest), seconds(b.longest)))
	}
	if part, after := o.slowest(); after > b.after {
		wrong = append(wrong, fmt.Sprintf("%s was right after %s, and %s is the most", part, seconds(after), seconds(b.after)))
	}
	still, excused := 0, stalls
	for _, acks := range o.bySecond {
		if acks < least {
			still++
		}
	}
	if b.halts { // for as long as somebody had to wait, no longer
		excused = int(o.longest.Seconds()) + stalls
	}
	if still > excused || len(o.bySecond) == 0 {
		wrong = append(wrong, fmt.Sprintf("acknowledged in one second after the other: %v; fewer than %d are excused in %d of them", o.bySecond, least, excused))
	}
	return wrong
}

// flow is when publishes were acknowledged.
type flow struct {
	mu sync.Mutex
	at []time.Time
}

func (f *flow) note(at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = append(f.at, at)
}

// bySecond counts the acknowledgements in each whole second between two times.
func (f *flow) bySecond(from, to time.Time) []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := make([]int, to.Sub(from)/time.Second)
	for _, at := range f.at {
		if i := int(at.Sub(from) / time.Second); !at.Before(from) && i < len(counts) {
			counts[i]++
		}
	}
	return counts
}

func TestTheCheckerOfOutcomes(t *testing.T) {
	t.Parallel()
	const s = time.Second
	allowed, halting := bounds{longest: 5 * s, after: 10 * s}, bounds{longest: 5 * s, after: 10 * s, halts: true}
	for _, c := range []struct {
		name string
		o    outcome
		b    bounds
		want string
	}{
		{"as it should be", outcome{bySecond: []int{120, 50, 90}, longest: 5 * s, after: map[string]time.Duration{"tasks": 10 * s}}, allowed, ""},
		{"one waits for too long", outcome{bySecond: []int{120}, longest: 5100 * time.Millisecond}, allowed, "a publish waited for 5.1 s, and 5.0 s is the most"},
		{"a part comes back too late", outcome{bySecond: []int{120}, after: map[string]time.Duration{"tasks": 1 * s, "presence": 32 * s}}, allowed, "presence was right after 32.0 s, and 10.0 s is the most"},
		{"a moment in which the machine stops", outcome{bySecond: []int{120, 0, 49, 240}, longest: 1 * s}, allowed, ""},
		{"seconds in which few can publish, made up for in the next", outcome{bySecond: []int{120, 49, 0, 1, 400}, longest: 1 * s}, allowed, "acknowledged in one second after the other: [120 49 0 1 400]; fewer than 50 are excused in 2 of them"},
		{"a second in which nobody can, where it has to be", outcome{bySecond: []int{120, 0, 3, 400}, longest: 1900 * time.Millisecond}, halting, ""},
		{"more such seconds than anybody waited for", outcome{bySecond: []int{0, 0, 3, 0, 400}, longest: 1900 * time.Millisecond}, halting, "acknowledged in one second after the other: [0 0 3 0 400]; fewer than 50 are excused in 3 of them"},
		{"no second", outcome{}, halting, "acknowledged in one second after the other: []; fewer than 50 are excused in 2 of them"},
	} {
		if got := strings.Join(c.o.beyond(c.b), "; "); got != c.want {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, got, c.want)
		}
	}
}

func TestAcknowledgementsBySecond(t *testing.T) {
	t.Parallel()
	var f flow
	began := time.Unix(1000, 0)
	for _, ms := range []int{-1, 0, 999, 1000, 2999, 3000, 3400, 3600} {
		f.note(began.Add(time.Duration(ms) * time.Millisecond))
	}
	for lasted, want := range map[time.Duration]string{3500 * time.Millisecond: "[2 1 1]", 999 * time.Millisecond: "[]", 2 * time.Second: "[2 1]"} {
		if got := fmt.Sprint(f.bySecond(began, began.Add(lasted))); got != want {
			t.Errorf("%s: got %s, want %s", lasted, got, want)
		}
	}
}
