package replay

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// merger folds concurrent reads of one topic: those that come while one is
// under way share the next look, and every message is read once for all.
type merger struct {
	mu      sync.Mutex
	waiting map[string][]*reading // by topic; the key is there while it is read
	work    sync.WaitGroup
}

type reading struct {
	q    Query
	done chan struct{}
	page *wire.ReplayPage
	err  error
}

const (
	// mergeMost bounds how many queries share a look, so that the first answers
	// of a storm don't wait for the last.
	mergeMost = 256
	// lookWait bounds one look.
	lookWait = 10 * time.Second
)

func (m *merger) since(ctx context.Context, s *stream, q Query) (*wire.ReplayPage, error) {
	r := &reading{q: q, done: make(chan struct{})}
	m.mu.Lock()
	if m.waiting == nil {
		m.waiting = map[string][]*reading{}
	}
	waiting, busy := m.waiting[q.Topic]
	m.waiting[q.Topic] = append(waiting, r)
	if !busy {
		// On a goroutine of its own: whoever asked first may give up, the
		// others still want their answers.
		m.work.Go(func() { m.run(s, q.Topic) })
	}
	m.mu.Unlock()
	select {
	case <-r.done:
		return r.page, r.err
	case <-ctx.Done():
		return nil, away(ctx.Err())
	}
}

// run answers the queries of a topic until none waits.
func (m *merger) run(s *stream, topic string) {
	for {
		m.mu.Lock()
		batch := m.waiting[topic]
		if len(batch) == 0 {
			delete(m.waiting, topic)
			m.mu.Unlock()
			return
		}
		m.waiting[topic] = append([]*reading(nil), batch[min(len(batch), mergeMost):]...)
		m.mu.Unlock()
		batch = batch[:min(len(batch), mergeMost)]

		queries := make([]Query, len(batch))
		for i, r := range batch {
			queries[i] = r.q
		}
		ctx, cancel := context.WithTimeout(context.Background(), lookWait)
		pages, err := s.sinceAll(ctx, topic, queries)
		cancel()
		for i, r := range batch {
			if r.err = err; err == nil {
				r.page = pages[i]
			}
			close(r.done)
		}
	}
}

// folded shares the answer to a question between all who ask while it is on its
// way: whoever comes later gets the next one, which is newer than their asking.
type folded[T any] struct {
	mu   sync.Mutex
	busy bool
	next *answer[T]
	work sync.WaitGroup
}

type answer[T any] struct {
	done  chan struct{}
	value T
	err   error
}

func (f *folded[T]) get(ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	f.mu.Lock()
	if f.next == nil {
		f.next = &answer[T]{done: make(chan struct{})}
	}
	mine := f.next
	if !f.busy {
		f.busy = true
		f.work.Go(func() { f.run(ask) })
	}
	f.mu.Unlock()
	select {
	case <-mine.done:
		return mine.value, mine.err
	case <-ctx.Done():
		var none T
		return none, away(ctx.Err())
	}
}

func (f *folded[T]) run(ask func(context.Context) (T, error)) {
	for {
		f.mu.Lock()
		mine := f.next
		f.next = nil
		f.busy = mine != nil
		f.mu.Unlock()
		if mine == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), lookWait)
		mine.value, mine.err = ask(ctx)
		cancel()
		close(mine.done)
	}
}
