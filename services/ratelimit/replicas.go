package ratelimit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// announceEvery is how often a replica says that it is there. Clients forget one
// of which they heard nothing for three times as long.
const announceEvery = time.Second

// announce says that the replica is there as long as it is ready, until either
// ends: going, or work.
func (s *Service) announce(going, work context.Context) {
	quick := 20 * time.Millisecond // until it is ready for the first time
	tick := time.NewTicker(quick)
	defer tick.Stop()
	there := false
	for {
		select {
		case <-going.Done():
			return
		case <-work.Done():
			return
		case <-tick.C:
		}
		ready := s.Ready() == nil
		switch {
		case ready:
			s.say(wire.LimitReplica{ID: s.id})
		case there: // what it preferred is better asked of others
			s.say(wire.LimitReplica{ID: s.id, Leaving: true})
		}
		if ready != there {
			there = ready
			if there {
				tick.Reset(announceEvery)
			} else {
				tick.Reset(quick)
			}
		}
	}
}

// leave says that the replica goes, and waits until the server has heard it.
func (s *Service) leave(ctx context.Context) {
	s.say(wire.LimitReplica{ID: s.id, Leaving: true})
	if s.peers.IsConnected() {
		_ = s.peers.FlushWithContext(ctx) // without it they notice by themselves
	}
}

func (s *Service) say(announcement wire.LimitReplica) {
	body, err := json.Marshal(announcement)
	if err == nil {
		err = s.peers.Publish(s.cfg.Namespace.LimitReplicas(), body)
	}
	if err != nil && !bus.Away(err) {
		s.metrics.publishErrors.Add(1)
	}
}

// changed tells everybody what was changed otherwise than by a take. It is on the
// connection of the answer, so that the server has it before that.
func (s *Service) changed(change wire.LimitChange) {
	body, err := json.Marshal(change)
	if err == nil {
		err = s.requests.Publish(s.cfg.Namespace.LimitChanges(), body)
	}
	if err != nil {
		s.metrics.publishErrors.Add(1)
		return
	}
	s.metrics.changes.Add(1)
}

// hear forgets what others changed.
func (s *Service) hear() (*nats.Subscription, error) {
	sub, err := s.peers.Subscribe(s.cfg.Namespace.LimitChanges(), func(msg *nats.Msg) {
		var change wire.LimitChange
		switch {
		case json.Unmarshal(msg.Data, &change) != nil:
		case change.Key == "":
			s.keeper.forgetAll(change.Revision)
		default:
			s.keeper.forget(change.Key, change.Revision)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("hear changes: %w", err)
	}
	return sub, nil
}
