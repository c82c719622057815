package jobs

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// rig is an empty store and a way to let time go by.
type rig struct {
	Store
	pass func(time.Duration)
}

func TestMemory(t *testing.T) {
	testStore(t, func(*testing.T) rig {
		var mu sync.Mutex
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		return rig{
			NewMemory(func() time.Time { mu.Lock(); defer mu.Unlock(); return now }),
			func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) },
		}
	})
}

// In Postgres everything becomes older instead.
func TestPostgres(t *testing.T) {
	pool := database(t)
	testStore(t, func(t *testing.T) rig {
		if _, err := pool.Exec(t.Context(), `truncate fairlead.job`); err != nil {
			t.Fatal(err)
		}
		return rig{NewPostgres(pool), func(d time.Duration) {
			if _, err := pool.Exec(t.Context(), `update fairlead.job set vis = vis - $1 * interval '1 ms'`, d.Milliseconds()); err != nil {
				t.Fatal(err)
			}
		}}
	})
}

func (r rig) add(t *testing.T, queue string, n int, change func(*Draft)) []wire.JobID {
	t.Helper()
	var jobs []Draft
	for i := range n {
		d := Draft{Queue: queue, Payload: fmt.Appendf(nil, "%d", i)}
		if change != nil {
			change(&d)
		}
		jobs = append(jobs, d)
	}
	ids, err := r.Enqueue(soon(t), jobs)
	if err != nil || len(ids) != n {
		t.Fatalf("Enqueue = %v, %v, want %d ids", ids, err, n)
	}
	return ids
}

func (r rig) claim(t *testing.T, queue string, n int) []wire.Job {
	t.Helper()
	got, err := r.Claim(soon(t), Claim{Queue: queue, Most: n, Bytes: 1 << 20, Visibility: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return got.Jobs
}

func idsOf(jobs []wire.Job) (ids []wire.JobID) {
	for _, j := range jobs {
		ids = append(ids, j.ID)
	}
	return ids
}

func ref(j wire.Job) wire.JobRef { return wire.JobRef{ID: j.ID, Claim: j.Claim} }

func refs(jobs ...wire.Job) (list []wire.JobRef) {
	for _, j := range jobs {
		list = append(list, ref(j))
	}
	return list
}

// lost fails unless just these refs were lost.
func lost(t *testing.T, what string, got []int, err error, want ...int) {
	t.Helper()
	slices.Sort(got)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s: lost %v, %v, want %v", what, got, err, want)
	}
}

func (r rig) pending(t *testing.T, queue string, want int64) {
	t.Helper()
	if got, err := r.Pending(soon(t), queue); err != nil || got != want {
		t.Errorf("Pending(%s) = %d, %v, want %d", queue, got, err, want)
	}
}

func testStore(t *testing.T, open func(*testing.T) rig) {
	t.Run("jobs come in their order, byte for byte, to one claim each", func(t *testing.T) {
		r := open(t)
		ids := r.add(t, "q", 5, func(d *Draft) { d.Payload = fmt.Appendf(d.Payload[:0], `{"z": 1,  "a":"\u0000<%s"}`, d.Payload) })
		other := r.add(t, "other", 1, nil)
		got := r.claim(t, "q", 3)
		if !slices.Equal(idsOf(got), ids[:3]) || !slices.IsSorted(ids) {
			t.Errorf("first: %v, want %v", idsOf(got), ids[:3])
		}
		if j := got[0]; string(j.Payload) != `{"z": 1,  "a":"\u0000<0"}` || j.Attempts != 1 || j.Queue != "q" || j.CreatedAt.IsZero() || j.Claim == 0 {
			t.Errorf("got %+v", j)
		}
		if got := r.claim(t, "q", 10); !slices.Equal(idsOf(got), ids[3:]) {
			t.Errorf("then: %v, want %v", idsOf(got), ids[3:])
		}
		if got := r.claim(t, "q", 10); len(got) != 0 {
			t.Errorf("at last: %v, want none", got)
		}
		if got := r.claim(t, "other", 10); !slices.Equal(idsOf(got), other) {
			t.Errorf("the other queue: %v, want %v", idsOf(got), other)
		}
	})
	t.Run("a claim whose visibility is over is another's, and its number says so", func(t *testing.T) {
		r := open(t)
		r.add(t, "q", 1, nil)
		first := r.claim(t, "q", 1)[0]
		r.pass(59 * time.Second)
		if got := r.claim(t, "q", 1); len(got) != 0 {
			t.Fatalf("while it is claimed: %v", got)
		}
		r.pass(2 * time.Second)
		second := r.claim(t, "q", 1)[0]
		if second.ID != first.ID || second.Claim == first.Claim || second.Attempts != 2 {
			t.Errorf("got %+v after %+v", second, first)
		}
		l, err := r.Complete(soon(t), refs(first))
		lost(t, "complete of the first", l, err, 0)
		b, err := r.Fail(soon(t), refs(first), 0)
		lost(t, "fail of the first", b.Lost, err, 0)
		l, err = r.Extend(soon(t), refs(first), time.Hour)
		lost(t, "extend of the first", l, err, 0)
		if got := r.claim(t, "q", 1); len(got) != 0 {
			t.Errorf("freed by one who had lost it: %v", got)
		}
		// Both at once: each hears of its own.
		l, err = r.Complete(soon(t), []wire.JobRef{ref(first), ref(second), ref(second)})
		lost(t, "complete of both", l, err, 0)
		l, err = r.Complete(soon(t), refs(second))
		lost(t, "complete again", l, err, 0)
	})
	t.Run("a claim that is over counts as long as nobody else has claimed", func(t *testing.T) {
		r := open(t)
		r.add(t, "q", 2, nil)
		got := r.claim(t, "q", 2)
		r.pass(time.Hour)
		l, err := r.Extend(soon(t), refs(got[0]), time.Minute)
		lost(t, "extend", l, err)
		l, err = r.Complete(soon(t), refs(got[1]))
		lost(t, "complete", l, err)
		r.pass(58 * time.Second)
		if got := r.claim(t, "q", 2); len(got) != 0 {
			t.Errorf("before the extension is over: %v", got)
		}
	})
	t.Run("what failed comes back after a while, and its claim does not count any more", func(t *testing.T) {
		r := open(t)
		ids := r.add(t, "q", 2, nil)
		got := r.claim(t, "q", 2)
		b, err := r.Fail(soon(t), refs(got[0]), 0)
		lost(t, "fail", b.Lost, err)
		if !slices.Equal(b.Queues, []string{"q"}) {
			t.Errorf("queues with something to claim: %v, want q", b.Queues)
		}
		b, err = r.Fail(soon(t), refs(got[1]), time.Minute)
		lost(t, "fail by a minute", b.Lost, err)
		if len(b.Queues) != 0 {
			t.Errorf("queues with something to claim: %v, want none", b.Queues)
		}
		for _, what := range []func() ([]int, error){
			func() ([]int, error) { return r.Complete(soon(t), refs(got...)) },
			func() ([]int, error) { return r.Extend(soon(t), refs(got...), 0) },
			func() ([]int, error) { b, err := r.Fail(soon(t), refs(got...), 0); return b.Lost, err },
			// The number that a job has while nobody has it is nobody's.
			func() ([]int, error) {
				return r.Complete(soon(t), []wire.JobRef{{ID: ids[0], Claim: got[0].Claim + 1}, {ID: ids[1], Claim: got[1].Claim + 1}})
			},
		} {
			l, err := what()
			lost(t, "after fail", l, err, 0, 1)
		}
		again := r.claim(t, "q", 5)
		if !slices.Equal(idsOf(again), ids[:1]) || again[0].Attempts != 2 {
			t.Errorf("at once: %+v, want the first with 2 attempts", again)
		}
		r.pass(61 * time.Second)
		if got := r.claim(t, "q", 5); len(got) < 1 || !slices.Contains(idsOf(got), ids[1]) {
			t.Errorf("after a minute: %v, want the second", idsOf(got))
		}
	})
	t.Run("a ref without a claim means whoever has the job", func(t *testing.T) {
		r := open(t)
		ids := r.add(t, "q", 3, nil)
		b, err := r.Fail(soon(t), []wire.JobRef{{ID: ids[0]}, {ID: 1 << 40}}, 0)
		lost(t, "fail of one that nobody has, and of none", b.Lost, err, 0, 1)
		l, err := r.Extend(soon(t), []wire.JobRef{{ID: ids[0]}}, time.Hour)
		lost(t, "extend of one that nobody has", l, err, 0)
		r.claim(t, "q", 2)
		b, err = r.Fail(soon(t), []wire.JobRef{{ID: ids[0]}}, 0)
		lost(t, "fail", b.Lost, err)
		l, err = r.Extend(soon(t), []wire.JobRef{{ID: ids[1]}}, time.Hour)
		lost(t, "extend", l, err)
		l, err = r.Complete(soon(t), []wire.JobRef{{ID: ids[1]}, {ID: ids[2]}, {ID: 1 << 40}})
		lost(t, "complete", l, err, 2)
		r.pending(t, "q", 1)
	})
	t.Run("a job is claimed no more often than it may, then it is dead", func(t *testing.T) {
		r := open(t)
		ids := r.add(t, "q", 2, func(d *Draft) { d.MaxAttempts = 2 })
		r.claim(t, "q", 2)
		r.pass(2 * time.Minute)
		second := r.claim(t, "q", 2)
		b, err := r.Fail(soon(t), refs(second[0]), time.Hour) // at once, since there is no next attempt
		lost(t, "the last fail", b.Lost, err)
		if b.Dead != 1 || !slices.Equal(b.Queues, []string{"q" + wire.DeadQueue}) {
			t.Errorf("got %+v, want one dead", b)
		}
		r.pass(2 * time.Minute)
		got, err := r.Claim(soon(t), Claim{Queue: "q", Most: 5, Bytes: 1 << 20, Visibility: time.Minute})
		if err != nil || len(got.Jobs) != 0 || got.Dead != 1 {
			t.Errorf("the third claim: %+v, %v, want one dead", got, err)
		}
		l, err := r.Complete(soon(t), refs(second...))
		lost(t, "complete of the dead", l, err, 0, 1)
		dead := r.claim(t, "q"+wire.DeadQueue, 5)
		if slices.Sort(ids); len(dead) != 2 || dead[0].Attempts != 3 {
			t.Errorf("the dead: %+v, want both", dead)
		}
		r.pass(2 * time.Minute)
		if again := r.claim(t, "q"+wire.DeadQueue, 5); len(again) != 2 {
			t.Errorf("the dead again: %+v, want both", again)
		}
	})
	t.Run("a delayed job waits", func(t *testing.T) {
		r := open(t)
		ids := r.add(t, "q", 1, func(d *Draft) { d.Delay = time.Minute })
		soonest := r.add(t, "q", 1, nil)
		due, err := r.Due(soon(t), []string{"q", "none"})
		if err != nil || len(due) != 1 || due[0].Queue != "q" || due[0].In > 0 {
			t.Errorf("Due = %v, %v, want q now", due, err)
		}
		if got := r.claim(t, "q", 5); !slices.Equal(idsOf(got), soonest) {
			t.Errorf("at once: %v, want %v", idsOf(got), soonest)
		}
		r.pending(t, "q", 1)
		r.pass(30 * time.Second)
		due, err = r.Due(soon(t), []string{"q"})
		if err != nil || len(due) != 1 || due[0].In <= 0 || due[0].In > 30*time.Second {
			t.Errorf("Due = %v, %v, want q within 30s", due, err)
		}
		r.pass(31 * time.Second)
		if got := r.claim(t, "q", 5); !slices.Contains(idsOf(got), ids[0]) {
			t.Errorf("after a minute: %v, want %v", idsOf(got), ids)
		}
	})
	t.Run("a claim takes as many bytes as fit, and one job at least", func(t *testing.T) {
		r := open(t)
		r.add(t, "q", 4, func(d *Draft) { d.Payload = []byte(`"` + strings.Repeat("x", 998) + `"`) })
		for _, c := range []struct{ bytes, want int }{{2500, 2}, {10, 1}, {10000, 1}} {
			got, err := r.Claim(soon(t), Claim{Queue: "q", Most: 10, Bytes: c.bytes, Visibility: time.Minute})
			if err != nil || len(got.Jobs) != c.want {
				t.Errorf("%d bytes: %d jobs, %v, want %d", c.bytes, len(got.Jobs), err, c.want)
			}
		}
	})
	t.Run("pending counts what nobody has, clear removes all", func(t *testing.T) {
		r := open(t)
		r.add(t, "a", 3, nil)
		r.add(t, "b", 2, func(d *Draft) { d.Delay = time.Hour })
		r.claim(t, "a", 1)
		r.pending(t, "a", 2)
		r.pending(t, "b", 2)
		r.pending(t, "", 4)
		r.pass(2 * time.Minute)
		r.pending(t, "a", 3)
		for _, c := range []struct {
			queue string
			want  int64
		}{{"a", 3}, {"", 2}, {"", 0}} {
			if got, err := r.Clear(soon(t), c.queue); err != nil || got != c.want {
				t.Errorf("Clear(%s) = %d, %v, want %d", c.queue, got, err, c.want)
			}
		}
	})
	t.Run("many claimers get each job once", func(t *testing.T) {
		r := open(t)
		ids := r.add(t, "q", 400, nil)
		var mu sync.Mutex
		var got []wire.JobID
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for {
					jobs := r.claim(t, "q", 1+i*3)
					if len(jobs) == 0 {
						return
					}
					if i%2 == 0 {
						slices.Reverse(jobs)
					}
					if l, err := r.Complete(soon(t), refs(jobs...)); err != nil || len(l) > 0 {
						t.Errorf("complete: lost %v, %v", l, err)
						return
					}
					mu.Lock()
					got = append(got, idsOf(jobs)...)
					mu.Unlock()
				}
			})
		}
		group.Wait()
		if slices.Sort(got); !slices.Equal(got, ids) {
			t.Errorf("got %d jobs, want each of %d once", len(got), len(ids))
		}
	})
}
