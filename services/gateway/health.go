package gateway

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

const (
	probeEvery = time.Second           // once ready
	probeSoon  = 50 * time.Millisecond // until then
	probeLimit = 5 * time.Second       // silence of a shard that counts as deaf
)

// probe publishes a message to every shard, on one NATS connection, to be
// heard on the other through the very channel that live messages come by: a
// gateway that is up but deaf, or one blocked shard, does not stay unnoticed.
func (g *Service) probe(ctx context.Context) {
	subjects := make([]string, len(g.fanout.shards))
	for i := range subjects {
		subject, err := g.cfg.Namespace.Probe(g.id, strconv.Itoa(i))
		if err != nil {
			panic(err) // the id is ours
		}
		subjects[i] = subject
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		g.fanout.probed.Store(g.fanout.now().UnixNano())
		for _, subject := range subjects {
			if err := g.requests.Publish(subject, nil); err != nil {
				break // away: readiness says so
			}
		}
		wait := probeEvery
		if g.hears(g.fanout.now()) != nil {
			wait = probeSoon
		}
		timer.Reset(wait)
	}
}

// hears returns nil if every shard has heard a probe lately, seen from now.
func (g *Service) hears(now time.Time) error {
	for _, s := range g.fanout.shards {
		if at := s.heard.Load(); at == 0 || now.Sub(time.Unix(0, at)) > probeLimit {
			return fmt.Errorf("shard %d has heard no probe within %s", s.number, probeLimit)
		}
	}
	return nil
}

// Ready returns nil when the gateway can serve: NATS is up, a probe came
// through every shard lately, the rules and revocations were read, and it is
// not about to drain.
func (g *Service) Ready() error {
	switch {
	case !g.serving.Load():
		return errors.New("starting")
	case g.leaving.Load():
		return errors.New("draining")
	case !g.link.up():
		return errors.New("nats: not connected")
	case !g.rules.Ready():
		return errors.New("rules: not read yet")
	case !g.revocations.ready():
		return errors.New("revocations: not read yet")
	}
	return g.hears(g.fanout.now())
}
