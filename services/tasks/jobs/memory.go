package jobs

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Memory is a [Store] in the memory of one process, with which it ends. It looks
// through all its jobs for each claim: it is for small queues.
type Memory struct {
	now func() time.Time

	mu   sync.Mutex // guards what is below
	last wire.JobID
	jobs map[wire.JobID]*job
}

// NewMemory returns an empty store that goes by now.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, jobs: map[wire.JobID]*job{}}
}

// Enqueue is [Store.Enqueue].
func (m *Memory) Enqueue(_ context.Context, jobs []Draft) ([]wire.JobID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	ids := make([]wire.JobID, len(jobs))
	for i, n := range jobs {
		m.last++
		ids[i] = m.last
		m.jobs[m.last] = &job{
			id: m.last, queue: n.Queue, vis: now.Add(n.Delay), maxAttempts: n.MaxAttempts,
			createdAt: now, payload: bytes.Clone(n.Payload),
		}
	}
	return ids, nil
}

// Claim is [Store.Claim].
func (m *Memory) Claim(_ context.Context, c Claim) (out Claimed, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var ready []*job
	for _, j := range m.jobs {
		if j.queue == c.Queue && !j.vis.After(now) {
			ready = append(ready, j)
		}
	}
	slices.SortFunc(ready, func(a, b *job) int { return cmp.Or(a.vis.Compare(b.vis), cmp.Compare(a.id, b.id)) })
	total := 0
	for i, j := range ready[:min(len(ready), c.Most)] {
		if total += len(j.payload); i > 0 && total > c.Bytes {
			break
		}
		if !j.take(now, c.Visibility) {
			out.Dead++
			continue
		}
		out.Jobs = append(out.Jobs, wire.Job{
			ID: j.id, Claim: j.claim, Queue: j.queue, Payload: bytes.Clone(j.payload), Attempts: j.attempts, CreatedAt: j.createdAt,
		})
	}
	return out, nil
}

// Complete is [Store.Complete].
func (m *Memory) Complete(_ context.Context, refs []wire.JobRef) (lost []int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var done []wire.JobID // removed at the end: one that is named twice is not lost
	for i, r := range refs {
		if j, ok := m.jobs[r.ID]; ok && (r.Claim == 0 || j.of(r.Claim)) {
			done = append(done, r.ID)
		} else {
			lost = append(lost, i)
		}
	}
	for _, id := range done {
		delete(m.jobs, id)
	}
	return lost, nil
}

// Fail is [Store.Fail].
func (m *Memory) Fail(_ context.Context, refs []wire.JobRef, by time.Duration) (out Back, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	done := map[*job]bool{}
	for i, r := range refs {
		j, ok := m.jobs[r.ID]
		if !ok || !j.of(r.Claim) {
			out.Lost = append(out.Lost, i)
			continue
		}
		done[j] = true
	}
	for j := range done {
		if j.release(now, by) {
			out.Dead++
		}
		if !j.vis.After(now) && !slices.Contains(out.Queues, j.queue) {
			out.Queues = append(out.Queues, j.queue)
		}
	}
	return out, nil
}

// Extend is [Store.Extend].
func (m *Memory) Extend(_ context.Context, refs []wire.JobRef, by time.Duration) (lost []int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for i, r := range refs {
		if j, ok := m.jobs[r.ID]; ok && j.of(r.Claim) {
			j.vis = now.Add(by)
		} else {
			lost = append(lost, i)
		}
	}
	return lost, nil
}

// Pending is [Store.Pending].
func (m *Memory) Pending(_ context.Context, queue string) (n int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, j := range m.jobs {
		if (queue == "" || j.queue == queue) && j.waiting(now) {
			n++
		}
	}
	return n, nil
}

// Clear is [Store.Clear].
func (m *Memory) Clear(_ context.Context, queue string) (n int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, j := range m.jobs {
		if queue == "" || j.queue == queue {
			delete(m.jobs, id)
			n++
		}
	}
	return n, nil
}

// Due is [Store.Due].
func (m *Memory) Due(_ context.Context, queues []string) (due []Due, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, q := range queues {
		var first *job
		for _, j := range m.jobs {
			if j.queue == q && (first == nil || j.vis.Before(first.vis)) {
				first = j
			}
		}
		if first != nil {
			due = append(due, Due{q, first.vis.Sub(now)})
		}
	}
	return due, nil
}
