package store

import (
	"cmp"
	"context"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// End implements [Store].
func (m *Memory) End(_ context.Context, ends []End) ([]Outcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Outcome, len(ends))
	for i, e := range ends {
		r := m.running(e.Ref)
		if r == nil {
			continue
		}
		r.count(e.Failed, e.Crashed)
		r.result = clone(e.Result)
		if e.Error != nil {
			r.err = cloneError(e.Error)
		}
		state := e.State
		if !r.killAt.IsZero() && (state == wire.TaskFailed || state == wire.TaskDead) {
			state = wire.TaskCancelled
		}
		m.kept(r, state, e.Retention)
		out[i] = Outcome{Done: true, State: state, Kept: r.outcome()}
	}
	return out, nil
}

// Back implements [Store].
func (m *Memory) Back(_ context.Context, backs []Back) ([]Outcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Outcome, len(backs))
	for i, b := range backs {
		r := m.running(b.Ref)
		if r == nil {
			continue
		}
		r.count(b.Failed, b.Crashed)
		if b.Error != nil {
			r.err = cloneError(b.Error)
		}
		r.fence++
		if b.Unstarted {
			r.attempt--
		}
		if r.killAt.IsZero() {
			r.pending(m.now().Add(max(b.After, 0)))
		} else {
			m.kept(r, wire.TaskCancelled, b.Retention)
		}
		out[i] = Outcome{Done: true, State: r.state, Kept: r.outcome()}
	}
	return out, nil
}

// outcome is what is told of a record that has ended, nil where it has not.
func (r *record) outcome() *Kept {
	if !r.state.Ended() {
		return nil
	}
	return &Kept{
		Created: r.created, RunAt: r.runAt, Started: r.started, Finished: r.finished, Fence: r.fence, Attempt: r.attempt,
		UniqueKey: r.uniqueKey, Error: cloneError(r.err),
	}
}

// keptFor is for how long a record is kept: as its name says, if it says so.
func (m *Memory) keptFor(r *record, retention time.Duration) time.Duration {
	return cmp.Or(m.policies[r.name].Retention, retention)
}

func (r *record) count(failed, crashed bool) {
	if failed {
		r.failures++
	}
	if crashed {
		r.crashes++
	}
}

// pending has a record wait.
func (r *record) pending(at time.Time) {
	r.stopped()
	r.state, r.runAt, r.started = wire.TaskPending, at, time.Time{}
}

// Cancel implements [Store].
func (m *Memory) Cancel(_ context.Context, id wire.TaskID, grace, retention time.Duration) (*wire.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.find(id)
	switch {
	case r == nil:
		return nil, ErrNotFound
	case r.state == wire.TaskPending:
		m.kept(r, wire.TaskCancelled, m.keptFor(r, retention))
	case r.state == wire.TaskRunning:
		if r.killAt.IsZero() {
			r.killAt = m.now().Add(grace)
		}
	case r.state != wire.TaskCancelled:
		return r.task(true), ErrState
	}
	return r.task(true), nil
}

// Kill implements [Store].
func (m *Memory) Kill(_ context.Context, n int, retention time.Duration) (refs []Ref, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.live {
		if len(refs) == n {
			break
		}
		if r.killAt.IsZero() || r.killAt.After(m.now()) {
			continue
		}
		refs = append(refs, Ref{ID: r.id, Fence: r.fence, Owner: r.owner})
		r.fence++
		m.kept(r, wire.TaskCancelled, m.keptFor(r, retention))
	}
	return refs, nil
}

// Takeover implements [Store].
func (m *Memory) Takeover(_ context.Context, id wire.TaskID) (*wire.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.find(id)
	if r == nil {
		return nil, ErrNotFound
	}
	if r.state != wire.TaskRunning || !r.killAt.IsZero() {
		return r.task(true), ErrState
	}
	r.fence++
	r.pending(m.now())
	return r.task(true), nil
}

// Retry implements [Store].
func (m *Memory) Retry(_ context.Context, id wire.TaskID) (*wire.Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.find(id)
	if r == nil {
		return nil, ErrNotFound
	}
	if !retries(r.state) {
		return r.task(true), ErrState
	}
	var free []taskKey
	for _, k := range r.keys() {
		switch h, held := m.keys[k]; {
		case !held || h.free(m.now()):
			free = append(free, k)
		case k.kind == uniqueKey:
			return nil, errTaken(h.task)
		}
	}
	for _, k := range free {
		m.keys[k] = heldKey{task: id}
	}
	delete(m.done, id)
	m.live[id] = r
	r.failures, r.crashes, r.result, r.finished, r.expires = 0, 0, nil, time.Time{}, time.Time{}
	r.pending(m.now())
	return r.task(true), nil
}
