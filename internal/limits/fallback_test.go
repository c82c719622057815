package limits

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// keyOf returns a key that a replica prefers, none of some.
func (a *asker) keyOf(t *testing.T, id string, but ...string) string {
	t.Helper()
	a.Client.mu.Lock()
	defer a.Client.mu.Unlock()
	for i := range 1000 {
		if key := fmt.Sprint("key", i); a.affinity.prefer(key, time.Now()) == id && !slices.Contains(but, key) {
			return key
		}
	}
	t.Fatalf("no key prefers %s", id)
	return ""
}

func TestAReplicaThatGoes(t *testing.T) {
	t.Parallel()
	for name, goes := range map[string]func(*peer){
		"stopped":             func(p *peer) { p.stop() },
		"silent":              func(p *peer) { p.mute(); p.hold() },
		"refusing":            func(p *peer) { p.mu.Lock(); p.refuses = true; p.mu.Unlock() },
		"leaving":             func(p *peer) { p.announce(true); p.stop() },
		"leaving, still here": func(p *peer) { p.announce(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natsdev.Test(t)
			limit := limitOf("gone", 10)
			shelf := newShelf(limit)
			one, two := newPeer(t, s, "one", shelf), newPeer(t, s, "two", shelf)
			a := newAsker(t, s, one, two)
			key := a.keyOf(t, "one")
			a.consume(t, limit, key, 1, 1)
			if n := len(one.requests()); n != 1 {
				t.Fatalf("got %d requests to the replica that is preferred, want 1", n)
			}
			before := len(two.requests())
			goes(one)
			if name == "leaving, still here" {
				eventually(t, "it to be left out", func() bool { return a.Counts().Replicas == 1 })
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			got, err := a.Consume(ctx, Ask{limit, key, 1}, 1)
			if err != nil || !got.Allowed {
				t.Fatalf("got %+v, %v", got, err)
			}
			if n := len(two.requests()) - before; n != 1 {
				t.Errorf("got %d requests to the other one, want 1", n)
			}
			if n := a.Counts().Replicas; name == "silent" && n != 1 {
				t.Errorf("%d replicas are known, want the one that answers", n)
			}
		})
	}
}

// Replicas that were heard and are not there do not hide those that are.
func TestManyReplicasAreGone(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("gone", 10)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s)
	for i := range 3 * triesMost {
		p.say(ns.LimitReplicas(), wire.LimitReplica{ID: fmt.Sprint("nobody", i)})
	}
	eventually(t, "the replicas", func() bool { return a.Counts().Replicas == 3*triesMost })
	if got := a.consume(t, limit, "k", 1, 1); !got.Allowed {
		t.Errorf("got %+v", got)
	}
	if n := a.Counts(); n.Fallbacks != triesMost-1 || n.Replicas != 2*triesMost+1 {
		t.Errorf("counts: %+v", n)
	}
}

func TestNobodyIsThere(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("nobody", 10)
	p := newPeer(t, s, "one", newShelf(limit))
	a := newAsker(t, s, p)
	p.stop()
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := a.Consume(ctx, Ask{limit, "k", 1}, 1)
		if coded := wire.AsError(err); coded.Code != wire.Unavailable || coded.Details["outcome"] != "none" || ctx.Err() != nil {
			t.Errorf("got %v, want UNAVAILABLE at once", err)
		}
		cancel()
	}
}

// A replica asks no third one where the second does not answer: it decides itself.
func TestAReplicaIsToldAtOnce(t *testing.T) {
	t.Parallel()
	s := natsdev.Test(t)
	limit := limitOf("self", 10)
	shelf := newShelf(limit)
	one, two := newPeer(t, s, "one", shelf), newPeer(t, s, "two", shelf)
	a := newAsker(t, s, one, two)
	a.Client.mu.Lock()
	a.cfg.Self, a.affinity.self = "two", "two"
	a.show()
	a.Client.mu.Unlock()
	key := a.keyOf(t, "one")
	if a.Mine(key) || !a.Mine(a.keyOf(t, "two")) {
		t.Error("a key is whose it is not")
	}
	one.mute()
	one.hold()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := a.Consume(ctx, Ask{limit, key, 1}, 1); !errors.Is(err, wire.ErrUnavailable) || ctx.Err() != nil {
		t.Errorf("got %v, want UNAVAILABLE before the time is over", err)
	}
	if n := len(two.requests()); n != 0 {
		t.Errorf("got %d requests to itself", n)
	}
	if !a.Mine(key) {
		t.Error("the silent one is still preferred")
	}
}
