package presence

import (
	"context"
	"errors"
	"slices"
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
	// auditBusyEvery is how often a gateway whose digests always differ by
	// something else is audited.
	auditBusyEvery = 5 * time.Minute
	// takeOutFor is how long a sweep takes out sections of one gateway; it begins
	// to for half of that.
	takeOutFor = 2 * time.Second
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
	from := renewed
	if !s.leases.mine(id) {
		from = from.Add(stepIn)
	}
	set := s.deps.Rules.Current()
	b := burial{s.topics.standing(id), s.registry.standing(id), set, epoch, from}
	if s.deaths.rests(id, b, now) {
		return
	}
	said, next := false, time.Time{} // of what is not due yet the first
	delays := map[string]time.Duration{}
	isDue := func(p *wire.PresenceSection) bool {
		if p.Epoch > epoch {
			said = true
			return false
		}
		delay, known := delays[p.Topic]
		if !known && p.Topic != "" {
			if rule := set.Topic(p.Topic); rule != nil && rule.Presence != nil {
				delay = rule.Presence.LeaveDelay
			}
			delays[p.Topic] = delay
		}
		at := due(p, from, delay)
		if !now.Before(at) {
			return true
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
		return false
	}
	found := s.takeOut(ctx, s.topics, id, isDue) + s.takeOut(ctx, s.registry, id, isDue)
	switch {
	case said:
		s.deaths.returned(id)
	case found == 0 && !next.IsZero():
		s.deaths.rest(id, b, next)
	}
}

// buryStrangers takes out what a living gateway said in an earlier epoch and has
// not said again.
func (s *Service) buryStrangers(ctx context.Context, id string, held lease, now time.Time) {
	over := func(epoch uint64) bool { return epoch < held.epoch && s.deaths.dead(id, epoch, now) }
	for _, in := range [...]*sections{s.topics, s.registry} {
		if in.holds(id, over) {
			s.takeOut(ctx, in, id, func(p *wire.PresenceSection) bool { return len(p.Conns) > 0 && over(p.Epoch) })
		}
	}
}

// takeOut deletes the sections of a gateway that which says yes to, each only if
// it is still as it was seen, and returns how many it found. What takes longer
// than a moment is left to the next sweep: there are other gateways to look at.
func (s *Service) takeOut(ctx context.Context, in *sections, id string, which func(*wire.PresenceSection) bool) (found int) {
	victims := slices.DeleteFunc(in.held(id), func(p *stored) bool { return !which(&p.PresenceSection) })
	writing, cancel := context.WithTimeout(ctx, takeOutFor)
	defer cancel()
	over := time.NewTimer(takeOutFor / 2)
	defer over.Stop()
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
		case <-over.C:
			return len(victims)
		case <-ctx.Done():
			return len(victims)
		}
		work.Go(func() {
			defer func() { <-slots }()
			revision, err := s.unseat(writing, in, key, v)
			if err != nil {
				return // somebody else has taken it out, or the next sweep does
			}
			s.metrics.swept.Add(1)
			empty := v.PresenceSection
			empty.Conns = nil
			s.wrote(in, &empty, v, kv.Entry{Key: key, Revision: revision, Deleted: true})
		})
	}
	return len(victims)
}

// review compares what a gateway says that it has with what is stored. Where
// they differ by the same at two renewals, something went wrong that nothing else
// would mend: the gateway is asked to compare them one by one.
func (s *Service) review(ctx context.Context, id string, held lease, now time.Time) {
	if !s.leases.mine(id) {
		return
	}
	if !s.deaths.compare(id, held.revision, differenceOf(s.topics.digest(id), s.registry.digest(id), &held), now) {
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
func (in *sections) epoch(gateway string) uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	if h := in.view.gateways[gateway]; h != nil {
		return h.newest()
	}
	return 0
}

// holds reports whether a gateway has connections in an epoch that which says
// yes to.
func (in *sections) holds(gateway string, which func(epoch uint64) bool) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if h := in.view.gateways[gateway]; h != nil {
		for epoch, t := range h.epochs {
			if t.there > 0 && which(epoch) {
				return true
			}
		}
	}
	return false
}

// held returns all that a gateway has. Nobody changes what is stored.
func (in *sections) held(gateway string) []*stored {
	in.mu.Lock()
	defer in.mu.Unlock()
	h := in.view.gateways[gateway]
	if h == nil {
		return nil
	}
	return slices.AppendSeq(make([]*stored, 0, h.count), h.part(0, 1))
}

// standing returns what tells whether a gateway says anything from here on.
func (in *sections) standing(gateway string) standing {
	in.mu.Lock()
	defer in.mu.Unlock()
	if h := in.view.gateways[gateway]; h != nil {
		return standing{h, h.arrived}
	}
	return standing{}
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
