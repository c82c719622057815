package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	defaultVisibility, minVisibility, maxVisibility = 30 * time.Second, 10 * time.Millisecond, 12 * time.Hour
	maxDelay                                        = 366 * 24 * time.Hour
	maxWait                                         = 10 * time.Minute
	maxAttempts                                     = 10_000
	maxID                                           = 128
	// replyMargin is kept of a caller's deadline for the way back: what is claimed
	// later than that is claimed for nobody.
	replyMargin = 100 * time.Millisecond
	// maxEnqueue bounds the payloads of one request, which NATS does anyway.
	maxEnqueue = 8 << 20

	workers = 1024 // requests at a time: they wait for the store
)

// Endpoints are what the jobs answer; at gives the subject of a name.
func (s *Service) Endpoints(at func(name string) string) []bus.Endpoint {
	enqueue := bus.Handle("job.enqueue", at("job.enqueue"), s.Enqueue)
	claim := bus.Handle("job.claim", at("job.claim"), s.Claim)
	complete := bus.Handle("job.complete", at("job.complete"), s.Complete)
	fail := bus.Handle("job.fail", at("job.fail"), s.Fail)
	extend := bus.Handle("job.extend", at("job.extend"), s.Extend)
	for _, e := range []*bus.Endpoint{&enqueue, &complete, &fail, &extend} {
		e.Workers, e.Timeout = workers, scanWait
	}
	claim.Workers, claim.Timeout = maxWaiters+workers, maxWait+scanWait
	leave := bus.Handle("job.leave", at("job.leave"), s.Leave)
	pending := bus.Handle("job.pending", at("job.pending"), s.Pending)
	pending.Workers, pending.Timeout = 16, scanWait
	wipe := bus.Handle("job.clear", at("job.clear"), s.Clear)
	wipe.Workers, wipe.Timeout = 4, clearWait
	return []bus.Endpoint{enqueue, claim, leave, complete, fail, extend, pending, wipe}
}

// Enqueue stores a job, or several: all or none.
func (s *Service) Enqueue(ctx context.Context, req wire.JobEnqueue) (out wire.JobEnqueued, err error) {
	if err := wire.CheckQueue("queue", req.Queue); err != nil {
		return out, err
	}
	if req.Jobs == nil {
		n, err := checkJob("", req.Queue, &req.JobNew)
		if err != nil {
			return out, err
		}
		ids, err := s.enqueues.do(ctx, []Draft{n})
		if err != nil {
			return out, err
		}
		return wire.JobEnqueued{ID: ids[0]}, nil
	}
	if err := checkMany(len(req.Jobs)); err != nil {
		return out, err
	}
	if len(req.Payload) > 0 || req.Delay != "" || req.MaxAttempts != 0 {
		return out, wire.InvalidField("jobs", "not beside payload, delay and maxAttempts")
	}
	jobs, size := make([]Draft, len(req.Jobs)), 0
	for i := range req.Jobs {
		if jobs[i], err = checkJob(fmt.Sprintf("jobs[%d].", i), req.Queue, &req.Jobs[i]); err != nil {
			return out, err
		}
		if size += len(jobs[i].Payload); size > maxEnqueue {
			return out, wire.InvalidField("jobs", fmt.Sprintf("payloads of at most %d bytes together", maxEnqueue))
		}
	}
	out.IDs, err = s.enqueues.do(ctx, jobs)
	return out, err
}

func checkMany(n int) error {
	if n == 0 || n > wire.MaxJobBatch {
		return wire.InvalidField("jobs", fmt.Sprintf("from 1 to %d", wire.MaxJobBatch))
	}
	return nil
}

func checkJob(in, queue string, req *wire.JobNew) (n Draft, err error) {
	n = Draft{Queue: queue, Payload: bytes.TrimSpace(req.Payload), MaxAttempts: req.MaxAttempts}
	switch {
	case len(n.Payload) == 0:
		n.Payload = []byte("null")
	case len(n.Payload) > wire.MaxJobPayload:
		return n, wire.InvalidField(in+"payload", fmt.Sprintf("at most %d bytes of JSON", wire.MaxJobPayload))
	case !json.Valid(n.Payload):
		return n, wire.InvalidField(in+"payload", "JSON")
	}
	if n.MaxAttempts < 0 || n.MaxAttempts > maxAttempts {
		return n, wire.InvalidField(in+"maxAttempts", fmt.Sprintf("from 0 (no bound) to %d", maxAttempts))
	}
	n.Delay, err = checkDuration(in+"delay", req.Delay, 0, 0, maxDelay)
	return n, err
}

// Claim returns jobs, after a wait where none is there and the caller wants that;
// none when there are none.
func (s *Service) Claim(ctx context.Context, req wire.JobClaim) (out wire.JobClaimed, err error) {
	c, wait, err := checkClaim(&req)
	if err != nil {
		return out, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)-replyMargin)
	}
	if wait <= 0 {
		out.Jobs, err = s.claim(ctx, c)
		return out, err
	}
	// In line before the first look: what is enqueued after that look wakes it.
	w, err := s.lines.join(c.Queue, req.ID)
	if err != nil {
		return out, err
	}
	defer s.lines.leave(w)
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		if out.Jobs, err = s.claim(ctx, c); err != nil || len(out.Jobs) > 0 {
			return out, err
		}
		select {
		case <-w.wake:
			if w.left() {
				s.lines.wake(c.Queue, 1) // the next one looks instead
				return out, nil
			}
		case <-w.gone:
			return out, nil
		case <-over.C:
			return out, nil
		case <-s.halted:
			return out, nil
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
}

// Leave ends a wait whose caller is not there any more, in whatever replica it is.
func (s *Service) Leave(_ context.Context, req wire.JobLeave) (struct{}, error) {
	if req.ID == "" || len(req.ID) > maxID {
		return struct{}{}, wire.InvalidField("id", "that of the claim")
	}
	if !s.lines.end(req.ID) {
		s.tell(wire.JobWake{Replica: s.cfg.ID, Queues: []string{}, Left: req.ID})
	}
	return struct{}{}, nil
}

func checkClaim(req *wire.JobClaim) (c Claim, wait time.Duration, err error) {
	if err := wire.CheckQueue("queue", req.Queue); err != nil {
		return c, 0, err
	}
	if len(req.ID) > maxID {
		return c, 0, wire.InvalidField("id", fmt.Sprintf("at most %d bytes", maxID))
	}
	c = Claim{Queue: req.Queue, Most: req.Batch, Bytes: wire.MaxJobReply}
	if c.Most == 0 {
		c.Most = 1
	}
	if c.Most < 0 || c.Most > wire.MaxJobBatch {
		return c, 0, wire.InvalidField("batch", fmt.Sprintf("from 1 to %d", wire.MaxJobBatch))
	}
	if c.Visibility, err = checkDuration("visibility", req.Visibility, defaultVisibility, minVisibility, maxVisibility); err != nil {
		return c, 0, err
	}
	wait, err = checkDuration("wait", req.Wait, 0, 0, maxWait)
	return c, wait, err
}

// claim looks for jobs once, and again where all that it found were dead.
func (s *Service) claim(ctx context.Context, c Claim) ([]wire.Job, error) {
	for {
		var got Claimed
		if err := s.cfg.Ask(ctx, askWait, func(ctx context.Context) (err error) {
			got, err = s.cfg.Store.Claim(ctx, c)
			return err
		}); err != nil {
			return nil, err
		}
		s.metrics.claims.Add(1)
		s.metrics.claimed.Add(int64(len(got.Jobs)))
		if got.Dead > 0 {
			s.metrics.dead.Add(int64(got.Dead))
			s.there(map[string]int{c.Queue + wire.DeadQueue: got.Dead})
		}
		if len(got.Jobs) == c.Most {
			s.lines.wake(c.Queue, 1) // there may be more
		}
		if len(got.Jobs) > 0 || got.Dead == 0 {
			return got.Jobs, nil
		}
	}
}

// Complete removes jobs, and lists those that are not the caller's any more.
func (s *Service) Complete(ctx context.Context, req wire.JobRefs) (wire.JobLost, error) {
	if len(req.Jobs) == 0 {
		return lostOf(nil, nil), nil
	}
	if err := checkRefs(req.Jobs); err != nil {
		return wire.JobLost{}, err
	}
	lost, err := s.ends.do(ctx, req.Jobs)
	if err != nil {
		return wire.JobLost{}, err
	}
	s.metrics.completed.Add(int64(len(req.Jobs) - len(lost)))
	s.metrics.lost.Add(int64(len(lost)))
	return lostOf(req.Jobs, lost), nil
}

// Fail gives jobs back, and lists those that are not the caller's any more.
func (s *Service) Fail(ctx context.Context, req wire.JobRefs) (wire.JobLost, error) {
	by, err := checkDuration("by", req.By, 0, 0, maxDelay)
	if err != nil || len(req.Jobs) == 0 {
		return lostOf(nil, nil), err
	}
	if err := checkRefs(req.Jobs); err != nil {
		return wire.JobLost{}, err
	}
	var back Back
	if err := s.cfg.Ask(ctx, askWait, func(ctx context.Context) (err error) {
		back, err = s.cfg.Store.Fail(ctx, req.Jobs, by)
		return err
	}); err != nil {
		return wire.JobLost{}, err
	}
	s.metrics.failed.Add(int64(len(req.Jobs) - len(back.Lost)))
	s.metrics.lost.Add(int64(len(back.Lost)))
	s.metrics.dead.Add(int64(back.Dead))
	if len(back.Queues) > 0 {
		more := map[string]int{}
		for _, q := range back.Queues {
			more[q] = 1
		}
		s.there(more)
	}
	return lostOf(req.Jobs, back.Lost), nil
}

// Extend keeps jobs for longer, and lists those that are not the caller's any more.
func (s *Service) Extend(ctx context.Context, req wire.JobRefs) (wire.JobLost, error) {
	by, err := checkDuration("by", req.By, defaultVisibility, minVisibility, maxVisibility)
	if err != nil || len(req.Jobs) == 0 {
		return lostOf(nil, nil), err
	}
	if err := checkRefs(req.Jobs); err != nil {
		return wire.JobLost{}, err
	}
	var lost []int
	err = s.cfg.Ask(ctx, askWait, func(ctx context.Context) (err error) {
		lost, err = s.cfg.Store.Extend(ctx, req.Jobs, by)
		return err
	})
	s.metrics.lost.Add(int64(len(lost)))
	return lostOf(req.Jobs, lost), err
}

// Pending counts the jobs of a queue, or of all, that nobody has.
func (s *Service) Pending(ctx context.Context, req wire.JobQueue) (out wire.JobCount, err error) {
	if err := checkQueue(req); err != nil {
		return out, err
	}
	err = s.cfg.Ask(ctx, scanWait, func(ctx context.Context) (err error) {
		out.Count, err = s.cfg.Store.Pending(ctx, req.Queue)
		return err
	})
	if out.Count > wire.JobCountCap {
		out = wire.JobCount{Count: wire.JobCountCap, Capped: true}
	}
	return out, err
}

// Clear removes the jobs of a queue, or all.
func (s *Service) Clear(ctx context.Context, req wire.JobQueue) (out wire.JobCount, err error) {
	if err := checkQueue(req); err != nil {
		return out, err
	}
	err = s.cfg.Ask(ctx, clearWait, func(ctx context.Context) (err error) {
		out.Count, err = s.cfg.Store.Clear(ctx, req.Queue)
		return err
	})
	return out, err
}

func checkQueue(req wire.JobQueue) error {
	if req.Queue == "" {
		return nil
	}
	return wire.CheckQueue("queue", req.Queue)
}

func checkRefs(refs []wire.JobRef) error {
	if err := checkMany(len(refs)); err != nil {
		return err
	}
	for i, r := range refs {
		switch {
		case r.ID <= 0:
			return wire.InvalidField(fmt.Sprintf("jobs[%d].id", i), "the id of a job")
		case r.Claim < 0:
			return wire.InvalidField(fmt.Sprintf("jobs[%d].claim", i), "the number of its claim")
		}
	}
	return nil
}

// lostOf names the refs that are lost. The list is one also when it is empty.
func lostOf(refs []wire.JobRef, lost []int) wire.JobLost {
	out := wire.JobLost{Lost: make([]wire.JobID, len(lost))}
	for i, at := range lost {
		out.Lost[i] = refs[at].ID
	}
	return out
}

func checkDuration(field, text string, otherwise, least, most time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, wire.InvalidField(field, fmt.Sprintf("a duration such as 90s, from %s to %s", least, most))
	}
	return d, nil
}
