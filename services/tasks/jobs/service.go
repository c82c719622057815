package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Ask calls fn, which asks the store: for at most so long, or not at all while the
// store is known to be away. It gives the errors the code that callers are told.
type Ask func(ctx context.Context, wait time.Duration, fn func(context.Context) error) error

// Config is what the jobs of a replica need.
type Config struct {
	Store     Store
	Ask       Ask        // what asks the store goes through it; nil: it is asked as it is
	Peers     *nats.Conn // to the other replicas; nil: there are none
	Namespace wire.Namespace
	ID        string // of the replica
	Log       *slog.Logger
}

// Service answers for the jobs of one replica. Its methods may be called
// concurrently.
type Service struct {
	cfg      Config
	lines    *lines
	enqueues group[[]Draft, []wire.JobID]
	ends     group[[]wire.JobRef, []int]
	halted   chan struct{} // closed: nobody waits for jobs any more
	halt     sync.Once
	metrics  metrics
}

const (
	askWait  = 3 * time.Second
	scanWait = 10 * time.Second
	// writeRate is how many bytes a second a write of jobs is given more time for.
	writeRate = 4 << 20
	clearWait = time.Minute

	// lookEvery is how often it is looked for jobs while claims wait, whatever is
	// heard; leastPause is the least time between two looks. One who has found
	// nothing and waits is looked for after joinPause: the next job of its queue may
	// be due soon.
	lookEvery  = time.Second
	leastPause = 5 * time.Millisecond
	joinPause  = 50 * time.Millisecond

	maxWaiters = 4096
)

// New returns the jobs of a replica. It does nothing yet.
func New(cfg Config) *Service {
	if cfg.Ask == nil {
		cfg.Ask = func(ctx context.Context, wait time.Duration, fn func(context.Context) error) error {
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			return fn(ctx)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{cfg: cfg, lines: newLines(maxWaiters), halted: make(chan struct{})}
	s.enqueues = group[[]Draft, []wire.JobID]{
		write: s.writeJobs, alone: oneIsWrong, size: func(jobs []Draft) int { return len(jobs) }, wait: scanWait,
	}
	s.ends = group[[]wire.JobRef, []int]{
		write: s.writeEnds, alone: oneIsWrong, size: func(refs []wire.JobRef) int { return len(refs) }, wait: askWait,
	}
	return s
}

// oneIsWrong reports whether Postgres refused what is in one row: too deep, too
// large, no JSON to it.
func oneIsWrong(err error) bool {
	var state *pgconn.PgError
	return errors.As(err, &state) && len(state.Code) == 5 && slices.Contains([]string{"22", "23", "54"}, state.Code[:2])
}

// Run has claims that wait look for jobs when they are due, or others have some,
// until ctx is done: then nobody waits any more, and what was taken is written.
func (s *Service) Run(ctx context.Context) error {
	defer s.enqueues.close()
	defer s.ends.close()
	defer s.Halt()
	if s.cfg.Peers != nil {
		sub, err := s.cfg.Peers.Subscribe(s.cfg.Namespace.JobWakes(), s.heard)
		if err != nil {
			return fmt.Errorf("hear of jobs: %w", err)
		}
		defer func() { _ = sub.Unsubscribe() }() // the connection may be closed
	}
	// What comes now and is not heard of is found by looking, as long as anybody
	// waits.
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	for next := time.Now().Add(lookEvery); ; timer.Reset(time.Until(next)) {
		select {
		case <-s.lines.first:
			if soon := time.Now().Add(joinPause); soon.Before(next) {
				next = soon
			}
		case <-timer.C:
			next = time.Now().Add(s.look(ctx))
		case <-ctx.Done():
			return nil
		}
	}
}

// Halt ends all waiting, now and from now on: claims return what is there. It
// comes before the endpoints are drained.
func (s *Service) Halt() { s.halt.Do(func() { close(s.halted) }) }

// look wakes who waits in queues with jobs that can be claimed, and says when to
// look again.
func (s *Service) look(ctx context.Context) time.Duration {
	queues := s.lines.names()
	if len(queues) == 0 {
		return time.Hour // until somebody waits
	}
	s.metrics.looks.Add(1)
	var due []Due
	err := s.cfg.Ask(ctx, askWait, func(ctx context.Context) (err error) {
		due, err = s.cfg.Store.Due(ctx, queues)
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			s.cfg.Log.Debug("claims wait on without a look", "err", err)
		}
		return lookEvery
	}
	next := lookEvery
	for _, d := range due {
		if d.In <= 0 {
			s.lines.wake(d.Queue, 1) // who fills its batch wakes the next one
		} else {
			next = min(next, d.In)
		}
	}
	return max(next, leastPause)
}

// there says that there are n jobs more in a queue: who waits here looks, and
// where there are more jobs than that the other replicas hear of it.
func (s *Service) there(queue map[string]int) {
	var more []string
	for q, n := range queue {
		if s.lines.wake(q, n) < n {
			more = append(more, q)
		}
	}
	if len(more) > 0 {
		s.tell(wire.JobWake{Replica: s.cfg.ID, Queues: more})
	}
}

// tell gives the other replicas a hint.
func (s *Service) tell(w wire.JobWake) {
	if s.cfg.Peers == nil {
		return
	}
	data, err := json.Marshal(w)
	if err == nil {
		err = s.cfg.Peers.Publish(s.cfg.Namespace.JobWakes(), data)
	}
	if err != nil { // a hint: the others look by themselves
		s.cfg.Log.Debug("the other replicas do not hear of jobs", "err", err)
	}
}

// heard takes the hint of another replica.
func (s *Service) heard(msg *nats.Msg) {
	var w wire.JobWake
	if json.Unmarshal(msg.Data, &w) != nil || w.Replica == s.cfg.ID {
		return
	}
	for _, q := range w.Queues {
		s.lines.wake(q, 1)
	}
	if w.Left != "" {
		s.lines.end(w.Left)
	}
}

// writeJobs stores the jobs of many callers in one write.
func (s *Service) writeJobs(ctx context.Context, sets [][]Draft) (out [][]wire.JobID, err error) {
	var all []Draft
	size, queues := 0, map[string]int{}
	for _, set := range sets {
		all = append(all, set...)
	}
	for _, n := range all {
		size += len(n.Payload)
		if n.Delay == 0 {
			queues[n.Queue]++
		}
	}
	var ids []wire.JobID
	wait := askWait + time.Duration(size)*time.Second/writeRate
	if err := s.cfg.Ask(ctx, wait, func(ctx context.Context) (err error) {
		ids, err = s.cfg.Store.Enqueue(ctx, all)
		return err
	}); err != nil {
		return nil, err
	}
	s.metrics.enqueued.Add(int64(len(all)))
	s.metrics.writes.Add(1)
	for _, set := range sets {
		out = append(out, ids[:len(set):len(set)])
		ids = ids[len(set):]
	}
	s.there(queues)
	return out, nil
}

// writeEnds completes the jobs of many callers in one write.
func (s *Service) writeEnds(ctx context.Context, sets [][]wire.JobRef) ([][]int, error) {
	var lost []int
	if err := s.cfg.Ask(ctx, askWait, func(ctx context.Context) (err error) {
		lost, err = s.cfg.Store.Complete(ctx, slices.Concat(sets...))
		return err
	}); err != nil {
		return nil, err
	}
	slices.Sort(lost)
	out, begin := make([][]int, len(sets)), 0
	for i, set := range sets {
		end := begin + len(set)
		for len(lost) > 0 && lost[0] < end {
			out[i] = append(out[i], lost[0]-begin)
			lost = lost[1:]
		}
		begin = end
	}
	return out, nil
}
