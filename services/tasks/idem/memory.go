package idem

import (
	"bytes"
	"context"
	"sync"
	"time"
)

// Memory is a [Store] in the memory of one process, with which it ends.
type Memory struct {
	now func() time.Time

	mu    sync.Mutex // guards slots
	slots map[string]*slot
}

// NewMemory returns an empty store that goes by now.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, slots: map[string]*slot{}}
}

// Acquire is [Store.Acquire].
func (m *Memory) Acquire(_ context.Context, key string, want Want) (Found, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if s := m.slots[key]; s.live(now) {
		f := s.found(want.Token, now)
		f.Result = bytes.Clone(f.Result)
		return f, nil
	}
	s := taken(want, now)
	m.slots[key] = &s
	return s.found(want.Token, now), nil
}

// Commit is [Store.Commit].
func (m *Memory) Commit(_ context.Context, key, token string, result []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.slots[key].commit(token, result, m.now())
	return err
}

// Abort is [Store.Abort].
func (m *Memory) Abort(_ context.Context, key, token string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.slots[key].abortable(token, m.now()); err != nil {
		return err
	}
	delete(m.slots, key)
	return nil
}

// Purge is [Store.Purge].
func (m *Memory) Purge(_ context.Context, key string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	live := m.slots[key].live(m.now())
	delete(m.slots, key)
	if live {
		return 1, nil
	}
	return 0, nil
}

// Clear is [Store.Clear].
func (m *Memory) Clear(context.Context) (n int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, s := range m.slots {
		if s.live(now) {
			n++
		}
	}
	clear(m.slots)
	return n, nil
}

// Clean is [Store.Clean].
func (m *Memory) Clean(_ context.Context, n int) (removed int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for key, s := range m.slots {
		if removed == int64(n) {
			break
		}
		if !s.live(now) {
			delete(m.slots, key)
			removed++
		}
	}
	return removed, nil
}
