package integration

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// A thousand times somebody joins or leaves while a thousand times somebody
// begins to watch: whatever moment a state was made at, the diffs that follow
// are those that it lacks.
func TestStatesAndDiffsFitTogether(t *testing.T) {
	t.Parallel()
	const members, joins, watchers, looks = 10, 50, 10, 100 // a join and a leave each time
	s := anyPresence(t, 2, 2)
	topic := unique("now")
	nc := s.worker()
	stays := joining(t, s.as(0, "stays"), topic, "")
	stays.sees("stays")

	connected := func(prefix string, n int) []*client.Client {
		all := make([]*client.Client, n)
		for i := range all {
			all[i] = s.as(i, fmt.Sprint(prefix, i))
		}
		return all
	}
	movers, lookers := connected("mover", members), connected("looker", watchers)
	for _, c := range movers {
		subscribe(t, c, topic)
	}
	var steady []*witness
	for i := range 4 {
		steady = append(steady, witnessing(t, s.as(i, "eye"), topic, "watch"))
	}
	truth := roll{"stays": ""}
	var mu sync.Mutex
	var moving, looking errgroup.Group
	var moved, seen, followed atomic.Int64
	var last [watchers]*witness
	for i, c := range movers {
		moving.Go(func() error {
			for n := 0; ; n++ {
				if _, err := c.Request(within(t), "presence.join", map[string]any{"topic": topic, "data": n}); err != nil {
					return err
				}
				done := n >= joins && seen.Load() >= watchers*looks
				if done && i%2 == 0 { // half of them stay
					mu.Lock()
					truth[fmt.Sprint("mover", i)] = fmt.Sprint(n)
					mu.Unlock()
					return nil
				}
				if _, err := c.Request(within(t), "presence.leave", map[string]any{"topic": topic}); err != nil || done {
					return err
				}
				moved.Add(2)
			}
		})
	}
	for i, c := range lookers {
		looking.Go(func() error {
			for n := range looks {
				w, err := attest(within(t), t, c, topic, "watch", "")
				if err != nil {
					return err
				}
				first := int64(0)
				if err := w.view.Wait(within(t), func(m client.Members) bool {
					if first == 0 {
						first = m.Rev
					}
					return m.Rev > 0 && (n%3 > 0 || m.Rev > first) // every third one stays for a diff
				}); err != nil {
					return err
				}
				if !w.view.Now().Has("stays") {
					return fmt.Errorf("a state lacks who was there all the time: %v", w.view.Now().Names())
				}
				if w.view.Now().Rev > first {
					followed.Add(1)
				}
				seen.Add(1)
				if err := w.sub.Unsubscribe(within(t)); err != nil {
					return err
				}
				if err := w.view.Err(); err != nil {
					return fmt.Errorf("look %d: %w", n, err)
				}
			}
			var err error
			last[i], err = attest(within(t), t, c, topic, "watch", "")
			return err
		})
	}
	must(t, looking.Wait())
	must(t, moving.Wait())
	settles(t, nc, topic, truth, append(steady, last[:]...)...)
	t.Logf("%d joins and leaves; %d states, %d of them with diffs behind them", moved.Load(), seen.Load(), followed.Load())
	if moved.Load() < 2*members*joins || followed.Load() < watchers*looks/4 {
		t.Errorf("%d joins and leaves, %d states with diffs: that proves little", moved.Load(), followed.Load())
	}
}
