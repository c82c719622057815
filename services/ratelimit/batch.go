package ratelimit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// clocksDiffer is what a gateway, or another replica, adds to the time that it
	// has: its deadline is by its own clock.
	clocksDiffer = 250 * time.Millisecond
	// straggle is how long a batch waits for the others when its first take was
	// decided late.
	straggle = 5 * time.Millisecond
)

// has is how long who asks is taken to wait, of the time until his deadline.
func has(left time.Duration) time.Duration { return max(left-clocksDiffer, leastTime/2) }

// takeEach decides the takes of a batch, each by itself: those of one key in
// order, those of different keys side by side. One that can't be decided, or not
// in time, is no reason to keep from the others what they were given.
func (s *Service) takeEach(ctx context.Context, batch []wire.LimitTake, m mode) (wire.LimitReply, error) {
	all, err := s.checkAll("batch", batch)
	if err != nil {
		return wire.LimitReply{}, err
	}
	reply := wire.LimitReply{Batch: make([]wire.LimitVerdict, len(all))}
	if len(all) == 1 {
		if reply.Batch[0], err = s.takeOne(ctx, all[0], m); err != nil {
			return wire.LimitReply{}, err
		}
		reply.LimitVerdict = summary(reply.Batch, reply.Batch[0].Granted == all[0].n)
		return reply, nil
	}
	ctx, end := s.hurry(ctx)
	defer end.stop()
	errs := make([]error, len(all))
	byKey := map[string][]int{}
	for i := range all {
		byKey[all[i].key] = append(byKey[all[i].key], i)
	}
	var group sync.WaitGroup
	for _, items := range byKey {
		group.Go(func() {
			for _, i := range items {
				if reply.Batch[i], errs[i] = s.takeOne(ctx, all[i], m); errs[i] == nil {
					end.decided()
				}
			}
		})
	}
	group.Wait()
	return together(reply, all, errs)
}

// together says what became of all takes of a batch. Only where none was decided
// it is an error: one that leaves open whether tokens were taken, if there is one.
func together(reply wire.LimitReply, all []asked, errs []error) (wire.LimitReply, error) {
	var failed error
	decided := make([]wire.LimitVerdict, 0, len(all))
	whole := true
	for i, err := range errs {
		if err == nil {
			decided = append(decided, reply.Batch[i])
			whole = whole && reply.Batch[i].Granted == all[i].n
			continue
		}
		whole = false
		reply.Batch[i] = wire.LimitVerdict{Code: wire.AsError(err).Code}
		if open(err) {
			reply.Batch[i].Code = wire.DeadlineExceeded
		}
		if failed == nil || open(err) && !open(failed) {
			failed = err
		}
	}
	if len(decided) == 0 {
		return wire.LimitReply{}, failed
	}
	reply.LimitVerdict = summary(decided, whole)
	return reply, nil
}

// open reports whether tokens may have been taken in spite of an error.
func open(err error) bool {
	switch coded := wire.AsError(err); coded.Code {
	case wire.DeadlineExceeded, wire.Cancelled:
		return true
	case wire.Unavailable:
		return coded.Details["outcome"] != "none"
	}
	return false
}

// hurry ends the deciding of a batch before its caller turns away, if anything of
// it is decided by then: what takes longer is slow by itself, and the others were
// charged. Where nothing is, all wait for the same, and go on.
type hurry struct {
	cancel context.CancelFunc
	timer  *time.Timer // of due
	any    atomic.Bool // something is decided
	late   atomic.Bool // it is time to answer
}

func (s *Service) hurry(ctx context.Context) (context.Context, *hurry) {
	until, ok := ctx.Deadline()
	ctx, cancel := context.WithCancel(ctx)
	h := &hurry{cancel: cancel}
	if ok {
		// Who knows another replica asks that when half of his time is over.
		wait := has(time.Until(until)) * 4 / 5
		if s.client.Counts().Replicas > 1 {
			wait /= 2
		}
		h.timer = time.AfterFunc(wait, h.due)
	}
	return ctx, h
}

func (h *hurry) due() {
	h.late.Store(true)
	if h.any.Load() {
		h.cancel()
	}
}

// decided notes that a take was.
func (h *hurry) decided() {
	if !h.any.Swap(true) && h.late.Load() {
		h.timer.Reset(straggle)
	}
}

func (h *hurry) stop() {
	if h.timer != nil {
		h.timer.Stop()
	}
	h.cancel()
}
