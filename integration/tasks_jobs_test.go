package integration

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func refsOf(jobs ...wire.Job) string {
	refs := make([]wire.JobRef, len(jobs))
	for i, j := range jobs {
		refs[i] = wire.JobRef{ID: j.ID, Claim: j.Claim}
	}
	data, _ := json.Marshal(refs) // numbers only
	return string(data)
}

// A queue of jobs from one end to the other, as any NATS client drives it.
func TestJobs(t *testing.T) {
	t.Parallel()
	s := anyBareTasks(t, 2)
	queue := unique("q")
	claim := func(body string) []wire.Job {
		t.Helper()
		return askTasks[wire.JobClaimed](s, "job.claim", body).Jobs
	}
	ends := func(endpoint, body string, lost int) {
		t.Helper()
		if got := askTasks[wire.JobLost](s, "job."+endpoint, body); len(got.Lost) != lost {
			t.Errorf("%s %s: lost %v, want %d", endpoint, body, got.Lost, lost)
		}
	}
	id := askTasks[wire.JobEnqueued](s, "job.enqueue", `{"queue":"`+queue+`","payload":{"a":  1},"maxAttempts":3}`).ID
	first := claim(`{"queue":"` + queue + `","visibility":"50ms"}`)[0]
	if first.ID != id || string(first.Payload) != `{"a":  1}` || first.Attempts != 1 || first.Queue != queue {
		t.Errorf("got %+v, want job %d as it was enqueued", first, id)
	}
	second := claim(`{"queue":"` + queue + `","wait":"5s"}`)[0] // when the first claim is over
	if second.ID != id || second.Attempts != 2 || second.Claim == first.Claim {
		t.Errorf("got %+v after %+v", second, first)
	}
	for _, endpoint := range []string{"complete", "fail", "extend"} {
		ends(endpoint, `{"jobs":`+refsOf(first)+`}`, 1)
	}
	ends("extend", `{"jobs":`+refsOf(second)+`,"by":"1m"}`, 0)
	ends("fail", `{"jobs":`+refsOf(second)+`,"by":"100ms"}`, 0)
	if got := askTasks[wire.JobCount](s, "job.pending", `{"queue":"`+queue+`"}`); got.Count != 1 {
		t.Errorf("pending: %d, want 1", got.Count)
	}
	third := claim(`{"queue":"` + queue + `","wait":"5s"}`)[0]
	ends("fail", fmt.Sprintf(`{"jobs":[{"id":"%d"}]}`, third.ID), 0) // whoever has it
	dead := claim(`{"queue":"` + queue + `.dead","wait":"5s"}`)
	if len(dead) != 1 || dead[0].ID != id || dead[0].Attempts != 4 {
		t.Fatalf("dead: %+v, want the job", dead)
	}
	ends("complete", `{"jobs":`+refsOf(dead...)+`}`, 0)
	ends("complete", fmt.Sprintf(`{"jobs":[{"id":%d}]}`, id), 1)
	if got := askTasks[wire.JobEnqueued](s, "job.enqueue", `{"queue":"`+queue+`","jobs":[{"payload":1},{"delay":"1h"}]}`); len(got.IDs) != 2 {
		t.Errorf("ids: %v, want two", got.IDs)
	}
	if got := askTasks[wire.JobCount](s, "job.clear", `{"queue":"`+queue+`"}`); got.Count != 2 {
		t.Errorf("cleared %d, want 2", got.Count)
	}
	if got := claim(`{"queue":"` + queue + `","batch":10}`); len(got) != 0 {
		t.Errorf("claimed %v of nothing", got)
	}
}

// Workers that wait for jobs complete each exactly once, while a replica is killed:
// what it had claimed for somebody comes back.
func TestJobsWhileReplicaDies(t *testing.T) {
	t.Parallel()
	s := bareTasks(t, 3)
	const jobs = 300
	var mu sync.Mutex
	completed := map[wire.JobID]int{}
	done := func() int { mu.Lock(); defer mu.Unlock(); return len(completed) }
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for done() < jobs {
				var got wire.JobClaimed
				m, err := s.nc.Request("fl.svc.tasks.job.claim", []byte(`{"queue":"work","batch":5,"visibility":"2s","wait":"500ms"}`), 2*time.Second)
				if err != nil || json.Unmarshal(m.Data, &got) != nil || len(got.Jobs) == 0 {
					continue // the replica that had the request may be gone
				}
				var lost wire.JobLost
				m, err = s.nc.Request("fl.svc.tasks.job.complete", []byte(`{"jobs":`+refsOf(got.Jobs...)+`}`), 2*time.Second)
				if err != nil || wire.ParseErrorHeader(m.Header, m.Data) != nil || json.Unmarshal(m.Data, &lost) != nil {
					mu.Lock()
					for _, j := range got.Jobs {
						completed[j.ID] += 0 // not known: counted where it comes again
					}
					mu.Unlock()
					continue
				}
				gone := map[wire.JobID]bool{}
				for _, id := range lost.Lost {
					gone[id] = true
				}
				mu.Lock()
				for _, j := range got.Jobs {
					if !gone[j.ID] {
						completed[j.ID]++
					}
				}
				mu.Unlock()
			}
		})
	}
	for i := range jobs / 10 {
		data, err := json.Marshal(wire.JobEnqueue{Queue: "work", Jobs: make([]wire.JobNew, 10)})
		must(t, err)
		eventually(t, "jobs are taken", func() (any, bool) {
			m, err := s.nc.Request("fl.svc.tasks.job.enqueue", data, 2*time.Second)
			return err, err == nil && wire.ParseErrorHeader(m.Header, m.Data) == nil
		})
		if i == jobs/20 {
			s.replicas[1].kill()
		}
	}
	workers.Wait()
	for id, n := range completed {
		if n > 1 {
			t.Errorf("job %d was completed %d times", id, n)
		}
	}
	// An answer to enqueue that was lost has left more than were wanted.
	eventually(t, "the queue is empty", func() (any, bool) {
		var got wire.JobClaimed
		if err := s.raw("job.claim", `{"queue":"work","batch":100}`, &got); err != nil {
			return err, false
		}
		if len(got.Jobs) > 0 {
			return s.raw("job.complete", `{"jobs":`+refsOf(got.Jobs...)+`}`, nil), false
		}
		n, err := s.look(`select count(*) from fairlead.job`)
		return n, err == nil && n == 0
	})
}
