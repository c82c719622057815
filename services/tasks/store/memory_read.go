package store

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// find returns a task that lives or is kept.
func (m *Memory) find(id wire.TaskID) *record {
	if r := m.live[id]; r != nil {
		return r
	}
	if r := m.done[id]; r != nil && r.expires.After(m.now()) {
		return r
	}
	return nil
}

// all calls yield for each task.
func (m *Memory) all(yield func(*record)) {
	for _, r := range m.live {
		yield(r)
	}
	for id := range m.done {
		if r := m.find(id); r != nil {
			yield(r)
		}
	}
}

// task returns the task as callers see it; whole says with what it works on and
// has led to.
func (r *record) task(whole bool) *wire.Task {
	t := &wire.Task{
		ID: r.id.String(), Name: r.name, State: r.state, Attempt: r.attempt, Failures: r.failures, Crashes: r.crashes,
		Fence: r.fence, Priority: r.priority, Error: cloneError(r.err), Progress: clone(r.progress), Metadata: clone(r.metadata),
		IdempotencyKey: r.idempotencyKey, UniqueKey: r.uniqueKey, CancelAsked: !r.killAt.IsZero(),
		CreatedAt: r.created, RunAt: r.runAt, StartedAt: r.started, FinishedAt: r.finished,
	}
	if whole {
		t.Input, t.Result = clone(r.input), clone(r.result)
	}
	return t
}

// Get implements [Store].
func (m *Memory) Get(_ context.Context, ids []wire.TaskID) ([]*wire.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*wire.Task, len(ids))
	for i, id := range ids {
		if r := m.find(id); r != nil {
			out[i] = r.task(true)
		}
	}
	return out, nil
}

// Peek implements [Store].
func (m *Memory) Peek(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error) {
	tasks, err := m.Get(ctx, ids)
	for _, t := range tasks {
		if t != nil {
			t.Input = nil
		}
	}
	return tasks, err
}

// List implements [Store].
func (m *Memory) List(_ context.Context, q Query) ([]wire.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []*record
	m.all(func(r *record) {
		if (q.Name == "" || q.Name == r.name) && (q.State == "" || q.State == r.state) &&
			(q.Before == wire.TaskID{} || bytes.Compare(r.id[:], q.Before[:]) < 0) {
			found = append(found, r)
		}
	})
	slices.SortFunc(found, func(a, b *record) int { return bytes.Compare(b.id[:], a.id[:]) })
	page := make([]wire.Task, 0, min(len(found), q.Limit))
	for _, r := range found[:min(len(found), q.Limit)] {
		page = append(page, *r.task(false))
	}
	return page, nil
}

// Counts implements [Store].
func (m *Memory) Counts(_ context.Context, name string) (c wire.TaskCounts, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := map[wire.TaskState]int64{}
	m.all(func(r *record) {
		if name == "" || name == r.name {
			counts[r.state]++
		}
	})
	return countsOf(counts), nil
}

// Depth implements [Store].
func (m *Memory) Depth(context.Context) (due int64, oldest time.Duration, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, r := range m.live {
		if r.state != wire.TaskPending || r.runAt.After(now) {
			continue
		}
		due = min(due+1, wire.TaskCountCap)
		oldest = max(oldest, now.Sub(r.runAt))
	}
	return due, oldest, nil
}
