package runner

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// begin starts a replica that may not get ready.
func (r *rig) begin(of store.Store, id string) *Runner {
	r.Helper()
	p := New(Config{Store: of, NATS: r.connect("dispatch"), Peers: r.connect("peers"), ID: id, OwnerLease: testLease})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	r.Cleanup(func() {
		cancel()
		if err := await(r, "the replica to stop", done); err != nil {
			r.Errorf("Run: %v", err)
		}
	})
	return p
}

// A replica that does not know yet how names are run does not run them as if nothing
// were registered, and takes no failure for the last one.
func TestPoliciesThatWereNotRead(t *testing.T) {
	r := newRig(t)
	first := r.replica()
	register(t, first, store.Policy{Name: "work", MaxAttempts: 5})
	attempts := r.attempts("work")
	id := r.enqueue(first, "work")
	msg := await(t, "the attempt", attempts)

	away := newTap(r.memory)
	var known atomic.Bool
	away.on(func(call string) error {
		if call == "Policies" && !known.Load() {
			return errAway
		}
		return nil
	})
	p := r.begin(away, "second")
	eventually(t, "it to hear", func() bool { return p.replies.heard.Load() && away.count("Policies") > 0 })
	if p.Ready() == nil {
		t.Error("it is ready")
	}
	r.kill(first)
	r.fail(msg, wire.Errorf(wire.Unavailable, "try again"))
	eventually(t, "the failure to be heard", func() bool { return p.looks.depth() == 1 })
	known.Store(true)
	eventually(t, "another attempt", func() bool { return r.task(id).Fence > 1 })
	if task := r.task(id); task.State == wire.TaskFailed || task.Failures != 1 {
		t.Errorf("%s after %d failures of 5", task.State, task.Failures)
	}
	eventually(t, "it to be ready", func() bool { return p.Ready() == nil })
}

// A replica that can't tell which replies are genuine takes none away from those that
// can.
func TestRepliesBeforeTheSecret(t *testing.T) {
	r := newRig(t)
	first, other := r.replica(), r.replica()
	attempts := r.attempts("work")
	blind := r.begin(noSecret{r.memory}, "blind")
	eventually(t, "it to be heard", func() bool { return other.live.alive("blind", time.Now()) })
	id := r.enqueue(first, "work", func(n *store.New) { n.Timeout = time.Hour })
	msg := await(t, "the attempt", attempts)
	r.kill(first)
	for range 20 { // one in two of them would be its own
		r.reply(msg, "1")
	}
	r.until(id, wire.TaskCommitted)
	if got := blind.metrics.forged.Load(); got != 0 || blind.Ready() == nil {
		t.Errorf("%d replies were taken for forged, ready: %v", got, blind.Ready())
	}
}

type noSecret struct{ store.Store }

func (noSecret) Secret(context.Context) ([]byte, error) { return nil, errAway }
