package store

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Due implements [Store].
func (m *Memory) Due(_ context.Context, within time.Duration, most int) ([]Due, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	first := map[string]time.Time{}
	for _, r := range m.live {
		if r.state != wire.TaskPending || r.runAt.After(now.Add(within)) {
			continue
		}
		if at, ok := first[r.name]; !ok || r.runAt.Before(at) {
			first[r.name] = r.runAt
		}
	}
	var due []Due
	for name, at := range first { // in the order of a map: each name's turn comes
		if len(due) == most {
			break
		}
		due = append(due, Due{Name: name, In: max(at.Sub(now), 0)})
	}
	sortDue(due)
	return due, nil
}

// Claim implements [Store].
func (m *Memory) Claim(_ context.Context, o Owner, name string, n, concurrency int, deadline time.Duration) ([]Attempt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var due []*record
	running := 0
	for _, r := range m.live {
		switch {
		case r.name != name:
		case r.state == wire.TaskRunning:
			running++
		case !r.runAt.After(now):
			due = append(due, r)
		}
	}
	if concurrency > 0 {
		n = min(n, concurrency-running)
	}
	slices.SortFunc(due, func(a, b *record) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), a.runAt.Compare(b.runAt), bytes.Compare(a.id[:], b.id[:]))
	})
	due = due[:min(len(due), max(n, 0))]
	attempts := make([]Attempt, 0, len(due))
	for _, r := range due {
		r.state, r.owner, r.started = wire.TaskRunning, o, now
		r.fence++
		r.attempt++
		r.deadline = now.Add(cmp.Or(r.timeout, deadline))
		attempts = append(attempts, m.attempt(r))
	}
	return attempts, nil
}

// attempt returns the attempt that runs, as its supervisor needs it.
func (m *Memory) attempt(r *record) Attempt {
	a := Attempt{
		ID: r.id, Name: r.name, Fence: r.fence, Number: r.attempt, Failures: r.failures, Crashes: r.crashes,
		Priority: r.priority, Input: clone(r.input), IdempotencyKey: r.idempotencyKey, Metadata: clone(r.metadata),
		Trace: r.trace, Timeout: r.timeout, CancelAsked: !r.killAt.IsZero(), Started: r.started,
		Left: max(r.deadline.Sub(m.now()), 0),
	}
	if !r.beatBy.IsZero() {
		a.Lease = max(r.beatBy.Sub(m.now()), brokenLease)
	}
	return a
}

// adopted is attempt of one that is in a worker's hands.
func (m *Memory) adopted(r *record) Attempt {
	a := m.attempt(r)
	a.Input = nil
	return a
}

// Adopt implements [Store].
func (m *Memory) Adopt(_ context.Context, o Owner, refs []Ref) (attempts []Attempt, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	had := map[wire.TaskID]bool{}
	for _, ref := range refs {
		r := m.running(Ref{ID: ref.ID, Fence: ref.Fence})
		if r == nil || had[r.id] || r.owner != o && m.leased(r.owner) {
			continue
		}
		r.owner, had[r.id] = o, true
		attempts = append(attempts, m.adopted(r))
	}
	return attempts, nil
}

// Orphans implements [Store].
func (m *Memory) Orphans(_ context.Context, o Owner, n int) (attempts []Attempt, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.live {
		if len(attempts) == n {
			break
		}
		if r.state == wire.TaskRunning && !m.leased(r.owner) {
			r.owner = o
			attempts = append(attempts, m.adopted(r))
		}
	}
	return attempts, nil
}

// Owned implements [Store].
func (m *Memory) Owned(_ context.Context, o Owner) (refs []Ref, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.live {
		if r.state == wire.TaskRunning && r.owner == o {
			refs = append(refs, Ref{ID: r.id, Fence: r.fence, Owner: o})
		}
	}
	return refs, nil
}

// Attempt implements [Store].
func (m *Memory) Attempt(_ context.Context, id wire.TaskID, fence int64) (*Attempt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.running(Ref{ID: id, Fence: fence})
	if r == nil {
		return nil, nil
	}
	a := m.attempt(r)
	return &a, nil
}

// Beats implements [Store].
func (m *Memory) Beats(_ context.Context, beats []Beat) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range beats {
		r := m.running(b.Ref)
		if r == nil {
			continue
		}
		if b.Lease > 0 {
			r.beatBy = m.now().Add(b.Lease)
		}
		if b.Progress != nil {
			r.progress = clone(b.Progress)
		}
	}
	return nil
}
