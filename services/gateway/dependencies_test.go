package gateway

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// unanswered returns errors of questions that nobody answered: nobody was there,
// or was silent.
func unanswered(t *testing.T) (nobody, silence error) {
	t.Helper()
	nc, err := nats.Connect(natsdev.Test(t).ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if _, err := nc.Subscribe("silent", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	ask := func(subject string, wait time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		_, err := bus.Call[struct{}, struct{}](ctx, nc, subject, struct{}{})
		return err
	}
	nobody, silence = ask("nobody", patience), ask("silent", 10*time.Millisecond)
	if wire.CodeOf(nobody) != wire.Unavailable || wire.CodeOf(silence) != wire.DeadlineExceeded {
		t.Fatalf("got %v and %v", nobody, silence)
	}
	return nobody, silence
}

func TestWhatCountsAsAway(t *testing.T) {
	t.Parallel()
	nobody, silence := unanswered(t)
	began := time.Now()
	never := func(*dependency) {}
	heardSince := func(d *dependency) { d.heard.Store(began.Add(time.Millisecond)) }
	heardBefore := func(d *dependency) { d.heard.Store(began.Add(-time.Millisecond)) }
	for name, c := range map[string]struct {
		what  string
		err   error
		given func(*dependency)
		want  breaker.Outcome
	}{
		"an answer":                       {"replay", nil, never, breaker.Success},
		"a refusal":                       {"replay", wire.Errorf(wire.InvalidArgument, "no"), never, breaker.Success},
		"an answer that is UNAVAILABLE":   {"replay", wire.Errorf(wire.Unavailable, "no leader"), never, breaker.Success},
		"one of who is there to decide":   {"ratelimit", wire.Errorf(wire.Unavailable, "no leader"), never, breaker.Failure},
		"a refusal of who decides":        {"ratelimit", wire.Errorf(wire.NotFound, "no"), never, breaker.Success},
		"a reply that can't be read":      {"replay", errors.New("decode"), never, breaker.Success},
		"nobody there":                    {"presence", nobody, heardSince, breaker.Failure},
		"silence":                         {"presence", silence, heardBefore, breaker.Failure},
		"silence while others have heard": {"presence", silence, heardSince, breaker.Neither},
		"NATS is away":                    {"presence", nobody, func(d *dependency) { d.g.link.lost = true }, breaker.Neither},
		"NATS has just come back":         {"presence", nobody, func(d *dependency) { now := time.Now(); d.g.link.since.Store(&now) }, breaker.Neither},
		"NATS has been back": {"presence", nobody, func(d *dependency) {
			then := time.Now().Add(-settleFor - time.Second)
			d.g.link.since.Store(&then)
		}, breaker.Failure},
	} {
		g := &Service{link: &link{ever: true, down: map[*nats.Conn]bool{}}}
		g.dependencies = newDependencies(g)
		g.dependencies.each(func(d *dependency) {
			if d.what != c.what {
				return
			}
			_ = d.breaker.Do(func() error { return nil }, func(error) breaker.Outcome { return breaker.Success })
			c.given(d)
			if got := d.judge(began, c.err); got != c.want {
				t.Errorf("%s: got %d, want %d", name, got, c.want)
			}
		})
	}
}

// A gateway on its own does not miss what it never had.
func TestAServiceThatNeverWasIsNotMissed(t *testing.T) {
	t.Parallel()
	nobody, _ := unanswered(t)
	g := &Service{link: &link{ever: true, down: map[*nats.Conn]bool{}}}
	g.dependencies = newDependencies(g)
	d := g.dependencies.presence
	for range 3 * breaker.Failures {
		q, err := d.ask()
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		q.done(nobody)
	}
	if d.suspect.Load() || !d.healthy() {
		t.Error("it is missed")
	}
	q, err := d.ask()
	if err != nil {
		t.Fatal(err)
	}
	q.done(nil)
	for range breaker.Failures {
		if q, err = d.ask(); err != nil {
			t.Fatalf("refused: %v", err)
		}
		q.done(nobody)
	}
	if _, err := d.ask(); wire.CodeOf(err) != wire.Unavailable || d.healthy() {
		t.Errorf("it was there, and is not missed: %v", err)
	}
	if n := d.flying.Load(); n != 0 {
		t.Errorf("%d questions are under way, want none", n)
	}
}
