package cron

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory is a [Store] in the memory of one process, with which it ends.
type Memory struct {
	now     func() time.Time
	enqueue func(s Schedule, tick time.Time)

	mu       sync.Mutex // guards what is below; held while tasks are enqueued
	revision int64
	all      map[string]Schedule
}

// NewMemory returns an empty store that goes by now, and hands each tick that is
// fired to enqueue.
func NewMemory(now func() time.Time, enqueue func(s Schedule, tick time.Time)) *Memory {
	return &Memory{now: now, enqueue: enqueue, all: map[string]Schedule{}}
}

// Set is [Store.Set].
func (m *Memory) Set(_ context.Context, s Schedule, most int, next func(time.Time) time.Time) (Schedule, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, there := m.all[s.Name]
	if !there && len(m.all) >= most {
		return Schedule{}, ErrFull
	}
	s.LastAt = old.LastAt
	if there && !old.Paused && old.Spec == s.Spec && old.TZ == s.TZ {
		s.NextAt = old.NextAt
	} else {
		s.NextAt = next(m.now())
	}
	m.revision++
	s.Revision = m.revision
	m.all[s.Name] = s
	return s, nil
}

// List is [Store.List].
func (m *Memory) List(_ context.Context, after string, limit int) (list []Schedule, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.all)) {
		if name > after && len(list) < limit {
			list = append(list, m.all[name])
		}
	}
	return list, nil
}

// Delete is [Store.Delete].
func (m *Memory) Delete(_ context.Context, name string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, there := m.all[name]
	delete(m.all, name)
	return there, nil
}

// Due is [Store.Due].
func (m *Memory) Due(_ context.Context, limit int) (Found, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := Found{Now: m.now(), In: -1}
	for _, s := range m.all {
		switch in := s.NextAt.Sub(f.Now); {
		case s.Paused:
		case in <= 0:
			f.Due = append(f.Due, s)
		case f.In < 0 || in < f.In:
			f.In = in
		}
	}
	slices.SortFunc(f.Due, func(a, b Schedule) int { return cmp.Or(a.NextAt.Compare(b.NextAt), cmp.Compare(a.Name, b.Name)) })
	f.Due = f.Due[:min(len(f.Due), limit)]
	return f, nil
}

// Fire is [Store.Fire].
func (m *Memory) Fire(_ context.Context, fires []Fire) (moved []int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for i, f := range fires {
		s, there := m.all[f.Name]
		if !there || s.Paused || s.Revision != f.Revision || !s.NextAt.Equal(f.Due) || s.NextAt.After(now) {
			continue
		}
		s.NextAt = f.Next
		for _, tick := range f.Ticks {
			s.LastAt = tick
			m.enqueue(s, tick)
		}
		m.all[f.Name] = s
		moved = append(moved, i)
	}
	return moved, nil
}

// Count is [Store.Count].
func (m *Memory) Count(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.all)), nil
}
