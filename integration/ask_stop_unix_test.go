//go:build unix

package integration

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A replica that is told to stop takes no more asks and waits for what it has
// asked: none is lost, whatever is under way.
func TestAskWhileAReplicaStops(t *testing.T) {
	t.Parallel()
	s, replicas := presenceStack(t, 2, 2)
	nc := s.worker()
	echo(s.as(0, "ann"), "ann")
	slow := newGuest(t, s.url(1), "slow", "g")
	answers(t, nc, "ann", "1", `{"from":"ann","asked":1}`)
	has(t, nc, "slow", slow.conn)
	const thinking, askers = 20, 16
	got := make(chan answer, thinking)
	for i := range thinking { // on both replicas, by chance
		go func() { got <- askFor(nc, "fl.ask.slow", fmt.Sprint(i), patience) }()
	}
	refs := make([]string, thinking)
	for i := range refs {
		refs[i] = slow.next().Ref
	}
	var asked atomic.Int64
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for range askers {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := asked.Add(1)
				if a := askFor(nc, "fl.ask.ann", fmt.Sprint(n), patience); a.err != nil || a.body != fmt.Sprintf(`{"from":"ann","asked":%d}`, n) {
					t.Errorf("got %s", a)
					return
				}
			}
		})
	}
	reach := func(n int64) {
		eventually(t, "asks go on", func() (any, bool) { return asked.Load(), t.Failed() || asked.Load() >= n })
	}
	reach(200)
	replicas[0].signal()
	reach(asked.Load() + 400)
	for _, ref := range refs {
		slow.ok("reply", fmt.Sprintf(`"ref":%q,"data":"done"`, ref), "{}")
	}
	for range refs {
		if a := receive(t, got); a.body != `"done"` || a.code != "" {
			t.Errorf("got %s", a)
		}
	}
	if code := replicas[0].exit(patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
	reach(asked.Load() + 200)
	close(stop)
	asking.Wait()

	// The last one goes, and there is nobody to ask.
	go func() { got <- askFor(nc, "fl.ask.slow", "1", patience) }()
	slow.next()
	replicas[1].signal()
	if a := receive(t, got); a.code != wire.Unavailable {
		t.Errorf("got %s, want UNAVAILABLE of the replica that stops", a)
	}
	if code := replicas[1].exit(patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if a := askFor(nc, "fl.ask.ann", "1", patience); !a.none() {
		t.Errorf("got %s, want no responders", a)
	}
}
