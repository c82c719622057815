package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// watched is a store that tells of each claim, and counts looks for what is due.
type watched struct {
	Store
	claims chan Claimed
	mu     sync.Mutex
	looks  int
}

func (w *watched) Claim(ctx context.Context, c Claim) (Claimed, error) {
	got, err := w.Store.Claim(ctx, c)
	select {
	case w.claims <- got:
	default:
	}
	return got, err
}

func (w *watched) Due(ctx context.Context, queues []string) ([]Due, error) {
	w.mu.Lock()
	w.looks++
	w.mu.Unlock()
	return w.Store.Due(ctx, queues)
}

// replica runs one on a store until the test ends.
func replica(t *testing.T, id string, store Store, peers *nats.Conn) *Service {
	t.Helper()
	s := New(Config{Store: store, Peers: peers, Namespace: wire.DefaultNamespace, ID: id})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// wait claims with a wait, in a goroutine.
func wait(t *testing.T, s *Service, req wire.JobClaim) <-chan []wire.Job {
	got := make(chan []wire.Job, 1)
	go func() {
		out, err := s.Claim(soon(t), req)
		if err != nil {
			t.Error(err)
		}
		got <- out.Jobs
	}()
	return got
}

func receive[T any](t *testing.T, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(20 * time.Second):
		t.Fatalf("waited for %s", what)
	}
	return v
}

func enqueue(t *testing.T, s *Service, req wire.JobEnqueue) wire.JobEnqueued {
	t.Helper()
	out, err := s.Enqueue(soon(t), req)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A claim waits on one replica for what is enqueued on another, for what is
// delayed, and for what somebody gives back, without asking all the time.
func TestClaimWaits(t *testing.T) {
	pool := database(t)
	server := natsdev.Test(t)
	var conns []*nats.Conn
	for range 2 {
		nc, err := nats.Connect(server.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		conns = append(conns, nc)
	}
	w := &watched{Store: NewPostgres(pool), claims: make(chan Claimed, 1000)}
	here, there := replica(t, "here", w, conns[0]), replica(t, "there", NewPostgres(pool), conns[1])
	for _, c := range []struct {
		name  string
		begin func(queue string)
	}{
		{"enqueued here", func(q string) { enqueue(t, here, wire.JobEnqueue{Queue: q}) }},
		{"enqueued there", func(q string) { enqueue(t, there, wire.JobEnqueue{Queue: q}) }},
		{"delayed", func(q string) { enqueue(t, there, wire.JobEnqueue{Queue: q, JobNew: wire.JobNew{Delay: "300ms"}}) }},
		{"stored by nobody we hear", func(q string) {
			if _, err := w.Enqueue(soon(t), []Draft{{Queue: q, Payload: []byte("1")}}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		q := strings.ReplaceAll(c.name, " ", "-")
		got := wait(t, here, wire.JobClaim{Queue: q, Wait: "15s"})
		receive(t, "the first look", w.claims)
		c.begin(q)
		if jobs := receive(t, c.name, got); len(jobs) != 1 || jobs[0].Queue != q {
			t.Errorf("%s: got %v, want a job", c.name, jobs)
		}
		for len(w.claims) > 0 {
			<-w.claims
		}
	}
	// What fails is had at once by the next one.
	enqueue(t, here, wire.JobEnqueue{Queue: "failing"})
	job := receive(t, "a job", wait(t, here, wire.JobClaim{Queue: "failing"}))[0]
	got := wait(t, here, wire.JobClaim{Queue: "failing", Wait: "15s"})
	receive(t, "the first look", w.claims)
	if lost, err := there.Fail(soon(t), wire.JobRefs{Jobs: refs(job)}); err != nil || len(lost.Lost) > 0 {
		t.Errorf("Fail = %v, %v", lost, err)
	}
	if jobs := receive(t, "what failed", got); len(jobs) != 1 || jobs[0].Attempts != 2 {
		t.Errorf("what failed: got %v", jobs)
	}
	// Nobody waits: nothing is looked for. Many wait: it is looked for all at once.
	var waiting []<-chan []wire.Job
	for i := range 50 {
		waiting = append(waiting, wait(t, here, wire.JobClaim{Queue: fmt.Sprint("empty", i), Wait: "2s"}))
	}
	w.mu.Lock()
	before := w.looks
	w.mu.Unlock()
	for _, got := range waiting {
		if jobs := receive(t, "the end of a wait", got); len(jobs) != 0 {
			t.Errorf("got %v of an empty queue", jobs)
		}
	}
	w.mu.Lock()
	looks := w.looks - before
	w.mu.Unlock()
	if looks > 60 {
		t.Errorf("%d looks in about two seconds of 50 waiting, want few", looks)
	}
}

// Many who wait get each job once, whichever replica it was enqueued on.
func TestManyWait(t *testing.T) {
	m := &watched{Store: NewMemory(time.Now), claims: make(chan Claimed, 10_000)}
	s := replica(t, "one", m, nil)
	const waiters = 40
	var got []<-chan []wire.Job
	for range waiters {
		got = append(got, wait(t, s, wire.JobClaim{Queue: "q", Wait: "20s"}))
	}
	for range waiters {
		receive(t, "a first look", m.claims)
	}
	many := wire.JobEnqueue{Queue: "q", Jobs: make([]wire.JobNew, waiters)}
	if out := enqueue(t, s, many); len(out.IDs) != waiters {
		t.Fatalf("ids: %v", out.IDs)
	}
	seen := map[wire.JobID]bool{}
	for _, g := range got {
		for _, j := range receive(t, "a job", g) {
			seen[j.ID] = true
		}
	}
	if len(seen) != waiters {
		t.Errorf("%d jobs, want %d", len(seen), waiters)
	}
}

func TestHaltEndsWaiting(t *testing.T) {
	m := &watched{Store: NewMemory(time.Now), claims: make(chan Claimed, 10)}
	s := replica(t, "one", m, nil)
	got := wait(t, s, wire.JobClaim{Queue: "q", Wait: "10m"})
	receive(t, "the first look", m.claims)
	s.Halt()
	s.Halt()
	if jobs := receive(t, "the end", got); len(jobs) != 0 {
		t.Errorf("got %v", jobs)
	}
	if n := s.lines.waiting(); n != 0 {
		t.Errorf("%d wait, want none", n)
	}
}

// Whoever is woken and leaves without a look leaves it to the next one.
func TestLines(t *testing.T) {
	l := newLines(3)
	var all []*waiter
	for range 3 {
		w, err := l.join("q", "")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	if _, err := l.join("q", ""); !errors.Is(err, wire.ErrResourceExhausted) {
		t.Errorf("one too many: %v, want RESOURCE_EXHAUSTED", err)
	}
	if woken := l.wake("other", 1); woken != 0 {
		t.Errorf("woken in another queue: %d", woken)
	}
	l.wake("q", 1)
	l.leave(all[0])
	select {
	case <-all[1].wake:
	default:
		t.Error("the second is not woken")
	}
	if woken := l.wake("q", 5); woken != 2 {
		t.Errorf("woken: %d, want 2", woken)
	}
	l.leave(all[1])
	l.leave(all[1])
	l.leave(all[2])
	if l.waiting() != 0 || len(l.queues) != 0 {
		t.Errorf("left: %d waiting, %d queues", l.waiting(), len(l.queues))
	}
}

// What one of a group's writes can't store keeps none of the others out; those who
// complete at the same time hear each of their own.
func TestGroups(t *testing.T) {
	pool := database(t)
	s := replica(t, "one", NewPostgres(pool), nil)
	deep := strings.Repeat("[", 9990) + strings.Repeat("]", 9990)
	var group sync.WaitGroup
	ids := make(chan wire.JobID, 100)
	for i := range 60 {
		group.Go(func() {
			req := wire.JobEnqueue{Queue: "q", JobNew: wire.JobNew{Payload: fmt.Appendf(nil, "%d", i)}}
			if i == 30 {
				req.Payload = []byte(deep) // more than some databases take
			}
			out, err := s.Enqueue(soon(t), req)
			if err != nil && i != 30 {
				t.Error(err)
			}
			if err == nil {
				ids <- out.ID
			}
		})
	}
	group.Wait()
	if len(ids) < 59 {
		t.Errorf("%d jobs were stored, want 59", len(ids))
	}
	out, err := s.Claim(soon(t), wire.JobClaim{Queue: "q", Batch: 100})
	if err != nil {
		t.Fatal(err)
	}
	for i, j := range out.Jobs {
		group.Go(func() {
			req := wire.JobRefs{Jobs: []wire.JobRef{{ID: j.ID, Claim: j.Claim}, {ID: j.ID + 1<<40, Claim: 1}}}
			if i%2 == 0 {
				req.Jobs = []wire.JobRef{{ID: j.ID, Claim: j.Claim + 2}}
			}
			got, err := s.Complete(soon(t), req)
			if want := fmt.Sprint([]wire.JobID{req.Jobs[len(req.Jobs)-1].ID}); err != nil || fmt.Sprint(got.Lost) != want {
				t.Errorf("Complete(%v): lost %v, %v, want %s", req.Jobs, got.Lost, err, want)
			}
		})
	}
	group.Wait()
}

func TestWhatIsRefused(t *testing.T) {
	s := New(Config{Store: NewMemory(time.Now)})
	ctx := t.Context()
	large := []byte(`"` + strings.Repeat("x", wire.MaxJobPayload) + `"`)
	for i, c := range []struct {
		field string
		do    func() error
	}{
		{"queue", func() error { _, err := s.Enqueue(ctx, wire.JobEnqueue{}); return err }},
		{"queue", func() error { _, err := s.Claim(ctx, wire.JobClaim{Queue: "a\n"}); return err }},
		{"queue", func() error { _, err := s.Pending(ctx, wire.JobQueue{Queue: strings.Repeat("q", 129)}); return err }},
		{"payload", func() error {
			_, err := s.Enqueue(ctx, wire.JobEnqueue{Queue: "q", JobNew: wire.JobNew{Payload: large}})
			return err
		}},
		{"delay", func() error {
			_, err := s.Enqueue(ctx, wire.JobEnqueue{Queue: "q", JobNew: wire.JobNew{Delay: "-1s"}})
			return err
		}},
		{"jobs[1].maxAttempts", func() error {
			_, err := s.Enqueue(ctx, wire.JobEnqueue{Queue: "q", Jobs: []wire.JobNew{{}, {MaxAttempts: -1}}})
			return err
		}},
		{"jobs", func() error { _, err := s.Enqueue(ctx, wire.JobEnqueue{Queue: "q", Jobs: []wire.JobNew{}}); return err }},
		{"batch", func() error { _, err := s.Claim(ctx, wire.JobClaim{Queue: "q", Batch: 1001}); return err }},
		{"visibility", func() error { _, err := s.Claim(ctx, wire.JobClaim{Queue: "q", Visibility: "0s"}); return err }},
		{"wait", func() error { _, err := s.Claim(ctx, wire.JobClaim{Queue: "q", Wait: "1h"}); return err }},
		{"jobs[0].id", func() error { _, err := s.Complete(ctx, wire.JobRefs{Jobs: []wire.JobRef{{}}}); return err }},
		{"by", func() error { _, err := s.Fail(ctx, wire.JobRefs{By: "soon"}); return err }},
		{"by", func() error { _, err := s.Extend(ctx, wire.JobRefs{By: "0s"}); return err }},
	} {
		var coded *wire.Error
		if err := c.do(); !errors.As(err, &coded) || coded.Code != wire.InvalidArgument || coded.Details["field"] != c.field {
			t.Errorf("%d: a wrong %s: %v", i, c.field, err)
		}
	}
	for what, do := range map[string]func(context.Context, wire.JobRefs) (wire.JobLost, error){"complete": s.Complete, "fail": s.Fail, "extend": s.Extend} {
		if got, err := do(ctx, wire.JobRefs{}); err != nil || got.Lost == nil || len(got.Lost) != 0 {
			t.Errorf("%s of nothing: %v, %v, want an empty list", what, got, err)
		}
	}
}
