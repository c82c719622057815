package gateway

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// replaying stands for a replica of the replay service on whose topics nothing
// was ever published.
func replaying(t *testing.T, nc *nats.Conn) (leave func()) {
	t.Helper()
	sub, err := nc.Subscribe("fl.svc.replay.>", func(msg *nats.Msg) {
		reply := `{"messages":[],"seq":0}`
		if strings.HasSuffix(msg.Subject, ".ping") {
			reply = `{}`
		}
		_ = msg.Respond([]byte(reply)) // the test may be over
	})
	if err != nil {
		t.Fatal(err)
	}
	settled(t, nc)
	return func() {
		t.Helper()
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		settled(t, nc)
	}
}

// A crowd that resumes while the only replica starts loses nothing: how often
// their questions are asked again breaks no breaker.
func TestACrowdWaitsForAReplicaThatStarts(t *testing.T) {
	t.Parallel()
	r := startGateway(t, natsdev.Test(t), withRules(wildcardRules))
	nc := r.bus()
	req := wire.ReplaySinceRequest{Topic: "chat.x", After: 1, Limit: 10}
	leave := replaying(t, nc)
	if _, err := r.g.since(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	leave()
	asked, err := nc.SubscribeSync("fl.svc.replay.never") // until it is there nothing is
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = asked.Unsubscribe() }()
	began := time.Now()
	var crowd sync.WaitGroup
	for range 2 * breaker.Failures {
		crowd.Go(func() {
			if _, err := r.g.patient(context.Background(), req); err != nil {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
		})
	}
	<-time.After(300 * time.Millisecond) // of which the replica is away
	if !r.g.dependencies.replay.healthy() {
		t.Error("their questions broke the breaker")
	}
	replaying(t, nc)
	crowd.Wait()
}

// A resume waits for a service that has just gone, not for one that has been away.
func TestNobodyWaitsForAServiceThatHasBeenAway(t *testing.T) {
	t.Parallel()
	g := &Service{link: &link{ever: true, down: map[*nats.Conn]bool{}}}
	g.dependencies = newDependencies(g)
	d := g.dependencies.replay
	for range breaker.Failures {
		_ = d.breaker.Do(func() error { return nil }, func(error) breaker.Outcome { return breaker.Failure })
	}
	d.lost.Store(time.Now().Add(-2 * resumePatience))
	d.broken.Store(time.Now()) // again
	began := time.Now()
	d.await(t.Context())
	if took := time.Since(began); took > resumePatience/2 {
		t.Errorf("waited %s for what has been away", took)
	}
	d.lost.Store(time.Now().Add(-resumePatience + 100*time.Millisecond))
	began = time.Now()
	d.await(t.Context())
	if took := time.Since(began); took < 50*time.Millisecond || took > resumePatience {
		t.Errorf("waited %s for what has just gone, want 100ms", took)
	}
}

// A service that answers a probe and nothing else is not back each time.
func TestAServiceThatDoesNotDecideIsNotBack(t *testing.T) {
	t.Parallel()
	g := &Service{link: &link{ever: true, down: map[*nats.Conn]bool{}}}
	g.dependencies = newDependencies(g)
	g.connections = newConnections()
	d := g.dependencies.ratelimit
	decided := false
	d.decided = func(time.Time) bool { return decided }
	d.told = true
	now := time.Now()
	fail := func() {
		for range breaker.Failures {
			_ = d.breaker.Do(func() error { return nil }, func(error) breaker.Outcome { return breaker.Failure })
		}
	}
	for range 3 { // healthy by a probe, broken by those who need it
		d.breaker.Heal()
		d.tell(now)
		now = now.Add(lastsAfter - time.Millisecond)
		if d.tell(now); !d.told {
			t.Fatal("it is said to be back")
		}
		fail()
		d.tell(now)
	}
	d.breaker.Heal()
	d.tell(now)
	if d.tell(now.Add(lastsAfter)); d.told {
		t.Error("it has been healthy for long, and is not said to be back")
	}
	d.told, d.well, decided = true, time.Time{}, true
	if d.tell(now); d.told {
		t.Error("it decides, and is not said to be back")
	}
}
