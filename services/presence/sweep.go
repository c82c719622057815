package presence

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	sweepEvery = 250 * time.Millisecond
	// stepIn is how long a replica leaves a dead gateway to the one that looks
	// after it.
	stepIn = 2 * time.Second
	// askWait and askTries are how a gateway without a lease is asked whether it
	// lives.
	askWait  = time.Second
	askTries = 2
	// auditEvery is the least time between two audits of a gateway.
	auditEvery = 10 * time.Second
	// sweepsAtOnce bounds the sections taken out at the same time.
	sweepsAtOnce = 128
)

// sweep takes out what gateways that are gone have left, and has living ones
// compare what they have with what is stored, until ctx is done. It looks at
// the state again and again: what comes late is found too.
func (s *Service) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !s.leases.ready() || !s.topics.ready() || !s.registry.ready() || !s.groups.ready() {
			continue
		}
		s.groups.sweep(ctx, s.dead)
		s.sweepOnce(ctx, &asking)
	}
}

// dead reports whether what a gateway said in an epoch no longer counts.
func (s *Service) dead(gateway string, epoch uint64) bool {
	if gateway == workerGateway {
		return uint64(s.now().UnixMilli()) > epoch
	}
	return s.deaths.dead(gateway, epoch, s.now())
}

// holders are the gateways that have anything, or a lease.
func (s *Service) holders() map[string]struct{} {
	ids := map[string]struct{}{}
	for _, in := range [...]*sections{s.topics, s.registry} {
		in.mu.Lock()
		for id := range in.view.gateways {
			ids[id] = struct{}{}
		}
		in.mu.Unlock()
	}
	for id := range s.groups.gateways() {
		ids[id] = struct{}{}
	}
	for id := range s.leases.all() {
		ids[id] = struct{}{}
	}
	delete(ids, workerGateway) // its sections end by themselves
	return ids
}

// sweepOnce looks at every gateway once. Those that have to be asked first are
// asked beside it: one that hangs holds up nobody else's sweep.
func (s *Service) sweepOnce(ctx context.Context, asking *sync.WaitGroup) {
	ids := s.holders()
	s.deaths.keep(ids)
	writable := s.leases.writableFor()
	for id := range ids {
		held, live, renewed := s.leases.of(id)
		now := s.now()
		leaseTime := time.Duration(held.LeaseMs) * time.Millisecond
		verdict, epoch := s.deaths.find(id, held, live, leaseTime, writable, now)
		switch verdict {
		case unsure:
			newest := max(held.epoch, s.topics.epoch(id), s.registry.epoch(id), s.groups.view.Load().epoch(id)) // before it is asked: what it says later is of a living one
			asking.Go(func() { s.deaths.asked(id, newest, s.answers(ctx, id), s.now()) })
		case leaving, gone:
			s.bury(ctx, id, epoch, renewed, now)
		case living:
			if live {
				s.buryStrangers(ctx, id, held, now)
				s.review(ctx, id, held, now)
			}
		}
	}
}

// answers asks a gateway whether it lives, and to renew its lease. That nobody
// listens is an answer too: a gateway listens as long as it is connected.
func (s *Service) answers(ctx context.Context, id string) bool {
	subject, err := s.cfg.Namespace.ControlGateway(id)
	if err != nil {
		return false
	}
	for range askTries {
		bounded, cancel := context.WithTimeout(ctx, askWait)
		_, err = s.requests.RequestWithContext(bounded, subject, []byte(`{"action":"renew"}`))
		cancel()
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil, bus.Away(err), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrDisconnected):
			return true // it is us who can't ask
		}
	}
	return false
}

// bury takes out what a gateway that is gone said up to an epoch, as far as it is
// due. The replica that looks after it goes first.
func (s *Service) bury(ctx context.Context, id string, epoch uint64, renewed, now time.Time) {
	patience := stepIn
	if s.leases.mine(id) {
		patience = 0
	}
	set := s.deps.Rules.Current()
	for _, in := range [...]*sections{s.topics, s.registry} {
		s.takeOut(ctx, in, id, func(p *wire.PresenceSection) bool {
			if p.Epoch > epoch {
				s.deaths.returned(id)
				return false
			}
			delay := time.Duration(0)
			if p.Topic != "" {
				if rule := set.Topic(p.Topic); rule != nil && rule.Presence != nil {
					delay = rule.Presence.LeaveDelay
				}
			}
			return !now.Before(due(p, renewed, delay).Add(patience))
		})
	}
}

// buryStrangers takes out what a living gateway said in an earlier epoch and has
// not said again.
func (s *Service) buryStrangers(ctx context.Context, id string, held lease, now time.Time) {
	for _, in := range [...]*sections{s.topics, s.registry} {
		s.takeOut(ctx, in, id, func(p *wire.PresenceSection) bool {
			return p.Epoch < held.epoch && len(p.Conns) > 0 && s.deaths.dead(id, p.Epoch, now)
		})
	}
}

// takeOut deletes the sections of a gateway that which says yes to, each only if
// it is still as it was seen.
func (s *Service) takeOut(ctx context.Context, in *sections, id string, which func(*wire.PresenceSection) bool) {
	var victims []*stored
	in.mu.Lock()
	if h := in.view.gateways[id]; h != nil {
		for p := range h.sections {
			if which(&p.PresenceSection) {
				victims = append(victims, p)
			}
		}
	}
	in.mu.Unlock()
	var work sync.WaitGroup
	defer work.Wait()
	slots := make(chan struct{}, sweepsAtOnce)
	for _, v := range victims {
		key, err := s.cfg.Namespace.PresenceKey(v.Topic, v.User, v.Gateway)
		if err != nil {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		work.Go(func() {
			defer func() { <-slots }()
			revision, err := s.unseat(ctx, in, key, v)
			if err != nil {
				return // somebody else has taken it out, or the next sweep does
			}
			s.metrics.swept.Add(1)
			empty := v.PresenceSection
			empty.Conns = nil
			s.wrote(in, &empty, v, kv.Entry{Key: key, Revision: revision, Deleted: true})
		})
	}
}

// review compares what a gateway says that it has with what is stored. Where
// they differ for two renewals, something went wrong that nothing else would
// mend: the gateway is asked to compare them one by one.
func (s *Service) review(ctx context.Context, id string, held lease, now time.Time) {
	if !s.leases.mine(id) {
		return
	}
	same := s.topics.digest(id) == held.Presence && s.registry.digest(id) == held.Registry
	if !s.deaths.compare(id, held.revision, same, now, auditEvery) {
		return
	}
	subject, err := s.cfg.Namespace.ControlGateway(id)
	if err != nil {
		return
	}
	s.metrics.audits.Add(1)
	if err := s.requests.Publish(subject, []byte(`{"action":"audit"}`)); err != nil {
		s.metrics.publishErrors.Add(1)
	}
}

// epoch returns the newest in which a gateway has said anything.
func (in *sections) epoch(gateway string) (newest uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if h := in.view.gateways[gateway]; h != nil {
		for p := range h.sections {
			newest = max(newest, p.Epoch)
		}
	}
	return newest
}

// digest returns that of what a gateway has.
func (in *sections) digest(gateway string) wire.PresenceDigest {
	in.mu.Lock()
	defer in.mu.Unlock()
	if h := in.view.gateways[gateway]; h != nil {
		return h.digest
	}
	return wire.PresenceDigest{}
}
