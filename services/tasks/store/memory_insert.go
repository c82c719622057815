package store

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Insert implements [Store].
func (m *Memory) Insert(_ context.Context, o Owner, tasks []New) ([]Inserted, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Inserted, len(tasks))
	for i := range tasks {
		n := &tasks[i]
		keys := keysOf(n.Name, n.IdempotencyKey, n.UniqueKey)
		if id, ok := m.holder(keys); ok {
			out[i] = Inserted{ID: id, Existing: true}
			continue
		}
		for _, k := range keys {
			m.keys[k] = heldKey{task: n.ID}
		}
		r := m.record(o, n)
		m.live[n.ID] = r
		out[i] = Inserted{ID: n.ID, Running: r.state == wire.TaskRunning}
	}
	return out, nil
}

// holder returns who has the first of keys that somebody has.
func (m *Memory) holder(keys []taskKey) (wire.TaskID, bool) {
	for _, k := range keys {
		if h, ok := m.keys[k]; ok && !h.free(m.now()) {
			return h.task, true
		}
	}
	return wire.TaskID{}, false
}

func (m *Memory) record(o Owner, n *New) *record {
	now := m.now()
	r := &record{
		id: n.ID, name: n.Name, state: wire.TaskPending, priority: n.Priority,
		input: clone(n.Input), metadata: clone(n.Metadata), trace: n.Trace,
		idempotencyKey: n.IdempotencyKey, uniqueKey: n.UniqueKey, timeout: n.Timeout,
		created: now, runAt: now.Add(max(n.Delay, 0)),
	}
	if !n.RunAt.IsZero() {
		r.runAt = n.RunAt
	}
	if n.claimed() {
		r.state, r.owner, r.fence, r.attempt = wire.TaskRunning, o, 1, 1
		r.started, r.deadline = now, now.Add(n.attemptTimeout())
	}
	return r
}

// Step implements [Store].
func (m *Memory) Step(_ context.Context, ref Ref, step string, result []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.running(ref)
	if r == nil {
		return nil, ErrState
	}
	if stored, ok := r.steps[step]; ok {
		return clone(stored), nil
	}
	if result == nil {
		return nil, nil
	}
	if r.steps == nil {
		r.steps = map[string][]byte{}
	}
	r.steps[step] = clone(result)
	return clone(result), nil
}

// Clean implements [Store].
func (m *Memory) Clean(_ context.Context, n int) (more bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for id, r := range m.done {
		if r.expires.After(now) {
			continue
		}
		if n--; n < 0 {
			return true, nil
		}
		delete(m.done, id)
	}
	for k, h := range m.keys {
		if h.free(now) {
			delete(m.keys, k)
		}
	}
	for o, until := range m.owners {
		if until.Before(now.Add(-ownerKept)) {
			delete(m.owners, o)
		}
	}
	return false, nil
}

// kept ends a record: it is kept for as long as that, and its keys with it where
// it is committed.
func (m *Memory) kept(r *record, state wire.TaskState, retention time.Duration) {
	now := m.now()
	delete(m.live, r.id)
	m.done[r.id] = r
	r.stopped()
	r.state, r.finished, r.expires, r.progress = state, now, now.Add(retention), nil
	for _, k := range r.keys() {
		if m.keys[k].task != r.id {
			continue
		}
		if state == wire.TaskCommitted && k.kind == idempotencyKey {
			m.keys[k] = heldKey{task: r.id, expires: r.expires}
		} else {
			delete(m.keys, k)
		}
	}
	if state == wire.TaskCommitted {
		r.input, r.steps = nil, nil
	}
}
