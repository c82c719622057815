package gateway

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// joined returns who listens to an interest.
func joined(in *interest) map[*connection]int {
	got := map[*connection]int{}
	in.each(func(c *connection) { got[c]++ })
	return got
}

func TestInterestJoinAndLeave(t *testing.T) {
	h := newHub(3)
	in, made := h.acquire(kindTopic, "fl.topic.a", "a")
	if !made {
		t.Fatal("not made")
	}
	in.setup.Unlock()
	want := map[*connection]int{}
	members := map[*connection]*member{}
	random := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		if len(want) == 0 || random.IntN(2) == 0 && len(want) < 50 {
			c := &connection{}
			answered := false
			members[c] = in.join(c, func() { answered = true })
			if !answered {
				t.Fatal("joined without an answer")
			}
			want[c] = 1
			continue
		}
		for c, m := range members {
			in.leave(m)
			delete(members, c)
			delete(want, c)
			break
		}
		if got := joined(in); len(got) != len(want) {
			t.Fatalf("%d listen, want %d", len(got), len(want))
		}
	}
	for c, n := range joined(in) {
		if n != 1 || want[c] != 1 {
			t.Errorf("a connection listens %d times, want %d", n, want[c])
		}
	}
}

func TestInterestLingersUnlessAUsers(t *testing.T) {
	h := newHub(3)
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		kind     kind
		subject  string
		lingers  bool
		wantsNew bool
	}{
		{kindTopic, "fl.topic.a", true, false},
		{kindPattern, "fl.topic.a.*", true, false},
		{kindUser, "fl.user.ann", false, true},
		{kindConn, "fl.conn.c", true, false},
	} {
		in, _ := h.acquire(c.kind, c.subject, "a")
		in.setup.Unlock()
		if ended := h.release(in, now); ended == c.lingers {
			t.Errorf("%s: ended at once: %t", c.subject, ended)
		}
		again, made := h.acquire(c.kind, c.subject, "a")
		if made != c.wantsNew {
			t.Errorf("%s: made anew: %t", c.subject, made)
		}
		if made {
			again.setup.Unlock()
		}
		if gone := h.sweep(now.Add(time.Hour), linger); len(gone) != 0 {
			t.Errorf("%s: swept while it was wanted", c.subject)
		}
		h.release(again, now)
		if gone := h.sweep(now.Add(linger-1), linger); len(gone) != 0 {
			t.Errorf("%s: swept within the linger", c.subject)
		}
		if gone := h.sweep(now.Add(linger), linger); len(gone) == 1 != c.lingers {
			t.Errorf("%s: swept %d", c.subject, len(gone))
		}
		if n := h.size(); n != 0 {
			t.Errorf("%s: %d are left", c.subject, n)
		}
	}
}

// An interest whose subscription failed is tried anew, and its holders can
// still give it back.
func TestInterestThatFailedIsTriedAnew(t *testing.T) {
	h := newHub(1)
	in, _ := h.acquire(kindTopic, "fl.topic.a", "a")
	h.drop(in)
	in.setup.Unlock()
	again, made := h.acquire(kindTopic, "fl.topic.a", "a")
	if !made || again == in {
		t.Fatal("the failed one was handed out")
	}
	again.setup.Unlock()
	h.release(in, time.Now())
	if gone := h.sweep(time.Now().Add(time.Hour), linger); len(gone) != 0 || h.find(0, "fl.topic.a") != again {
		t.Error("the failed one took the new one away")
	}
}

// Whatever races, an interest is there while somebody holds it.
func TestHubRaces(t *testing.T) {
	h := newHub(4)
	subjects := []string{"fl.topic.a", "fl.topic.b", "fl.user.u", "fl.conn.c"}
	kinds := []kind{kindTopic, kindTopic, kindUser, kindConn}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 2000 {
				i := rand.IntN(len(subjects))
				in, made := h.acquire(kinds[i], subjects[i], "")
				if made {
					in.setup.Unlock()
				}
				m := in.join(&connection{}, nil)
				if h.find(h.shard(subjects[i]), subjects[i]) != in {
					t.Error("held, and not to be found")
				}
				in.leave(m)
				h.release(in, time.Now())
				h.sweep(time.Now().Add(time.Hour), linger)
			}
		})
	}
	group.Wait()
	h.sweep(time.Now().Add(2*time.Hour), linger)
	if n := h.size(); n != 0 {
		t.Errorf("%d are left", n)
	}
}
