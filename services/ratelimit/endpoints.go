package ratelimit

import (
	"context"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	defaultBan = time.Minute
	maxBan     = 365 * 24 * time.Hour
	maxRefund  = 128 // bytes of its id
	// leastTime is what every caller of a take is taken to have: a gateway gives so
	// little that clocks of hosts differ by more.
	leastTime = 100 * time.Millisecond
	// clearWait bounds a clear, which walks over every key.
	clearWait = time.Minute
)

// endpoints are what the service answers.
func (s *Service) endpoints() []bus.Endpoint {
	at := func(name string) string { return s.cfg.Namespace.Svc("ratelimit", name) }
	consume := bus.Handle("consume", at("consume"), s.Consume)
	direct := bus.Handle("direct", s.cfg.Namespace.LimitConsume(s.id), s.Decide)
	direct.Everyone = true // only this replica has the subject
	peek := bus.Handle("peek", at("peek"), s.Peek)
	for _, e := range []*bus.Endpoint{&consume, &direct, &peek} {
		e.Workers, e.LeastTime = takers, leastTime
	}
	wipe := bus.Handle("clear", at("clear"), s.Clear)
	wipe.Workers, wipe.Timeout = 4, clearWait
	return []bus.Endpoint{
		consume, direct, peek, wipe,
		bus.Handle("refund", at("refund"), s.Refund),
		bus.Handle("policy", at("policy"), s.Policy),
		bus.Handle("reset", at("reset"), s.Reset),
		bus.Handle("ban", at("ban"), s.Ban),
		bus.Handle("unban", at("unban"), s.Unban),
	}
}

// Consume gives tokens, or says when there will be as many. A key that another
// replica prefers is decided there, if that answers.
func (s *Service) Consume(ctx context.Context, req wire.LimitRequest) (wire.LimitReply, error) {
	return s.take(ctx, &req, byPreferred)
}

// Decide is Consume for what came for this replica alone: it decides itself.
func (s *Service) Decide(ctx context.Context, req wire.LimitRequest) (wire.LimitReply, error) {
	return s.take(ctx, &req, byThis)
}

// Peek says what Consume would, and takes nothing.
func (s *Service) Peek(ctx context.Context, req wire.LimitRequest) (wire.LimitReply, error) {
	return s.take(ctx, &req, lookOnly)
}

// Refund gives tokens back, once for each id.
func (s *Service) Refund(ctx context.Context, req wire.LimitRefund) (wire.LimitRefunded, error) {
	take, err := s.check("", &wire.LimitTake{Policy: req.Policy, Key: req.Key, Cost: req.Cost})
	if err != nil {
		return wire.LimitRefunded{}, err
	}
	if req.ID == "" || len(req.ID) > maxRefund || hasControl(req.ID) {
		return wire.LimitRefunded{}, wire.InvalidField("id", "from 1 to 128 bytes, no control characters")
	}
	if err := s.counting(); err != nil {
		return wire.LimitRefunded{}, err
	}
	remaining, revision, first, err := s.keeper.refund(ctx, take.key, take.limit, take.cost, req.ID)
	if err != nil {
		return wire.LimitRefunded{}, s.failed(err)
	}
	if first {
		s.metrics.refunds.Add(1)
	}
	// Also of one that was made before: whoever made it may not have come to say it.
	s.changed(wire.LimitChange{Policy: req.Policy, Key: req.Key, Revision: revision})
	return wire.LimitRefunded{Remaining: remaining}, nil
}

// Policy returns a limit of the rules as it counts now.
func (s *Service) Policy(_ context.Context, req wire.LimitPolicyRequest) (wire.LimitPolicy, error) {
	l, err := s.policy("policy", req.Policy)
	if err != nil {
		return wire.LimitPolicy{}, err
	}
	return wire.LimitPolicy{
		Name: l.Name, Capacity: int64(l.Capacity), Refill: int64(l.Refill), Per: duration(l.Per), Block: duration(l.Block),
		Key: l.Key.String(), FailMode: l.FailMode.String(), Shadow: l.Shadow, Version: l.Version(),
	}, nil
}

// Reset fills a bucket, and ends its ban.
func (s *Service) Reset(ctx context.Context, req wire.LimitKey) (struct{}, error) {
	take, err := s.change(req)
	if err != nil {
		return struct{}{}, err
	}
	revision, err := s.keeper.reset(ctx, take.key, take.limit)
	if err != nil {
		return struct{}{}, s.failed(err)
	}
	s.changed(wire.LimitChange{Policy: req.Policy, Key: req.Key, Revision: revision})
	return struct{}{}, nil
}

// Unban ends a ban; the bucket stays as it is.
func (s *Service) Unban(ctx context.Context, req wire.LimitKey) (struct{}, error) {
	take, err := s.change(req)
	if err != nil {
		return struct{}{}, err
	}
	revision, err := s.keeper.unban(ctx, take.key, take.limit)
	if err != nil {
		return struct{}{}, s.failed(err)
	}
	s.changed(wire.LimitChange{Policy: req.Policy, Key: req.Key, Revision: revision})
	return struct{}{}, nil
}

// Ban keeps a key from everything of a policy for a time.
func (s *Service) Ban(ctx context.Context, req wire.LimitBan) (struct{}, error) {
	take, err := s.change(wire.LimitKey{Policy: req.Policy, Key: req.Key})
	if err != nil {
		return struct{}{}, err
	}
	d := defaultBan
	if take.limit.Block > 0 {
		d = take.limit.Block
	}
	if req.Duration != "" {
		if d, err = time.ParseDuration(req.Duration); err != nil || d <= 0 || d > maxBan {
			return struct{}{}, wire.InvalidField("duration", "a duration above 0, such as 90s, and at most 8760h")
		}
	}
	revision, until, err := s.keeper.ban(ctx, take.key, take.limit, d)
	if err != nil {
		return struct{}{}, s.failed(err)
	}
	s.metrics.bans.Add(1)
	left := max(until.Sub(s.clock.now()), time.Millisecond)
	s.changed(wire.LimitChange{Policy: req.Policy, Key: req.Key, Revision: revision, BannedMs: int64(wire.RetryAfterOf(left))})
	return struct{}{}, nil
}

// change checks what changes a bucket otherwise than by a take.
func (s *Service) change(req wire.LimitKey) (asked, error) {
	take, err := s.check("", &wire.LimitTake{Policy: req.Policy, Key: req.Key})
	if err != nil {
		return asked{}, err
	}
	return take, s.counting()
}

// counting returns UNAVAILABLE, at once, where the replica can't count.
func (s *Service) counting() error {
	if err := s.able(); err != nil {
		return wire.Errorf(wire.Unavailable, "%s", err.Error()).With("outcome", "none")
	}
	return nil
}

// duration writes a duration as the rules have it, such as 1m instead of 1m0s.
func duration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
