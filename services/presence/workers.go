package presence

import (
	"context"
	"encoding/json"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// workerGateway stands for a gateway in the sections of members without a
// socket. They end by themselves.
const workerGateway = "=worker"

const (
	defaultTTL = time.Minute
	maxTTL     = 24 * time.Hour
)

// Join puts a member without a socket on a topic, for as long as its TTL; again
// to renew it.
func (s *Service) Join(ctx context.Context, req wire.PresenceJoin) (struct{}, error) {
	return struct{}{}, s.work(ctx, req, func(p *wire.PresenceSection, data json.RawMessage, ends int64) error {
		member := wire.PresenceConn{Conn: workerGateway, Data: data}
		if len(p.Conns) > 0 { // a renewal does not make it newer than the user's connections
			member.Order = p.Conns[0].Order
		}
		p.Conns, p.Expires = []wire.PresenceConn{member}, ends
		return nil
	})
}

// Update changes the data of a member without a socket, and renews it.
func (s *Service) Update(ctx context.Context, req wire.PresenceJoin) (struct{}, error) {
	return struct{}{}, s.work(ctx, req, func(p *wire.PresenceSection, data json.RawMessage, ends int64) error {
		if len(p.Conns) == 0 {
			return wire.Errorf(wire.FailedPrecondition, "no worker has joined the user to the topic")
		}
		p.Conns[0].Data, p.Expires = data, ends
		return nil
	})
}

// Leave takes a member without a socket off a topic.
func (s *Service) Leave(ctx context.Context, req wire.PresenceJoin) (struct{}, error) {
	return struct{}{}, s.work(ctx, req, func(p *wire.PresenceSection, _ json.RawMessage, _ int64) error {
		p.Conns, p.Expires = nil, 0
		return nil
	})
}

// work changes the section of a member without a socket. change is given what
// others may see of the member's data, and when the membership ends, in ms since
// 1970.
func (s *Service) work(ctx context.Context, req wire.PresenceJoin, change func(p *wire.PresenceSection, data json.RawMessage, ends int64) error) error {
	if err := s.checkTopic(req.Topic); err != nil {
		return err
	}
	if err := wire.CheckUser(req.User); err != nil {
		return err
	}
	if len(req.Data) > wire.MaxMemberData {
		return wire.InvalidField("data", "at most 4096 bytes")
	}
	data, err := wire.PublicData(req.Data)
	if err != nil {
		return err
	}
	if string(data) == "null" {
		data = nil
	}
	ttl := defaultTTL
	if req.TTL != "" {
		if ttl, err = time.ParseDuration(req.TTL); err != nil || ttl < time.Second || ttl > maxTTL {
			return wire.InvalidField("ttl", "a duration from 1s to 24h")
		}
	}
	key, err := s.cfg.Namespace.PresenceKey(req.Topic, req.User, workerGateway)
	if err != nil {
		return err
	}
	have, err := s.topics.read(ctx, key)
	for range writeTries {
		if err != nil {
			return unavailable(err)
		}
		p := wire.PresenceSection{}
		if have != nil {
			p = have.PresenceSection
		}
		p.Topic, p.User, p.Gateway = req.Topic, req.User, workerGateway
		// No two changes have one version, though nobody orders them.
		p.Version = max(p.Version+1, uint64(s.now().UnixNano()))
		if err := change(&p, data, s.now().Add(ttl).UnixMilli()); err != nil {
			return err
		}
		results := make([]result, 1)
		if s.maxMembers(req.Topic) > 0 {
			s.seat(ctx, req.Topic, []wire.PresenceSection{p}, []int{0}, results)
		} else {
			results[0] = s.put(ctx, &p)
		}
		switch r := results[0]; {
		case r.err != nil:
			return r.err
		case !r.stale:
			return nil
		}
		have, err = s.topics.read(ctx, key) // another worker was quicker
	}
	return wire.Errorf(wire.Aborted, "the member changes too fast")
}
