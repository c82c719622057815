package presence

import (
	"context"
	"fmt"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	// pageBytes bounds the payloads of a page of sections, unless it is one user's.
	pageBytes  = 256 << 10
	maxDigests = 1024
	maxUsers   = 1000
	// maxFindings bounds what one answer to an audit names.
	maxFindings = 1000
)

// endpoints are what the service answers.
func (s *Service) endpoints() []bus.Endpoint {
	at := func(name string) string { return s.cfg.Namespace.Svc("presence", name) }
	all := []bus.Endpoint{
		bus.Handle("put", at("put"), s.Put),
		bus.Handle("join", at("join"), s.Join),
		bus.Handle("update", at("update"), s.Update),
		bus.Handle("leave", at("leave"), s.Leave),
		bus.Handle("list", at("list"), s.List),
		bus.Handle("sections", at("sections"), s.Sections),
		bus.Handle("digests", at("digests"), s.Digests),
		bus.Handle("count", at("count"), s.Count),
		bus.Handle("audit", at("audit"), s.Audit),
		bus.Handle("lookup", at("lookup"), s.Lookup),
		bus.Handle("online", at("online"), s.Online),
	}
	all = append(all, s.groups.endpoints(at)...)
	return append(all, s.sessions.endpoints(at)...)
}

// checkTopic returns an error for a topic that has no presence.
func (s *Service) checkTopic(topic string) error {
	if err := wire.CheckTopic(topic); err != nil {
		return err
	}
	if rule := s.deps.Rules.Current().Topic(topic); rule == nil || rule.Presence == nil {
		return wire.Errorf(wire.FailedPrecondition, "the topic's rule has no presence").With("topic", topic)
	}
	return nil
}

func limitOf(n int) (int, error) {
	switch {
	case n < 0 || n > maxLimit:
		return 0, wire.InvalidField("limit", fmt.Sprintf("an integer from 1 to %d", maxLimit))
	case n == 0:
		return defaultLimit, nil
	}
	return n, nil
}

// List returns who is on a topic, a page of users in order. The answer knows at
// least revision MinRev, or it is UNAVAILABLE after a second.
func (s *Service) List(ctx context.Context, req wire.PresenceListRequest) (wire.PresenceList, error) {
	if err := s.checkTopic(req.Topic); err != nil {
		return wire.PresenceList{}, err
	}
	limit, err := limitOf(req.Limit)
	if err != nil {
		return wire.PresenceList{}, err
	}
	page := wire.PresenceList{Users: map[string]wire.PresenceMember{}}
	err = s.topics.with(ctx, req.MinRev, func(v *view) {
		page.Rev = v.rev
		r := v.topics[req.Topic]
		if r == nil {
			return
		}
		page.Count = r.members
		users, next := r.page(req.Cursor, limit, present)
		size := 0
		for i, user := range users {
			c := fold(r.users[user])
			if size += len(c.Info) + len(c.Data) + len(user); size > pageBytes && i > 0 {
				next = users[i-1]
				break
			}
			page.Users[user] = wire.PresenceMember{Info: c.Info, Data: c.Data}
		}
		page.Cursor = next
	})
	return page, err
}

// Sections returns what is stored of a topic, by user: what a gateway makes its
// own view of.
func (s *Service) Sections(ctx context.Context, req wire.PresenceListRequest) (wire.PresenceSections, error) {
	if err := wire.CheckTopic(req.Topic); err != nil {
		return wire.PresenceSections{}, err
	}
	limit, err := limitOf(req.Limit)
	if err != nil {
		return wire.PresenceSections{}, err
	}
	page := wire.PresenceSections{Sections: []wire.PresenceStored{}}
	err = s.topics.with(ctx, req.MinRev, func(v *view) {
		page.Rev = v.rev
		r := v.topics[req.Topic]
		if r == nil {
			return
		}
		users, next := r.page(req.Cursor, limit, anything)
		size := 0
		for i, user := range users {
			for _, p := range r.users[user] {
				size += sectionSize(&p.PresenceSection)
			}
			if size > pageBytes && i > 0 {
				next = users[i-1]
				break
			}
			for _, p := range r.users[user] {
				page.Sections = append(page.Sections, wire.PresenceStored{PresenceSection: p.PresenceSection, Revision: p.revision})
			}
		}
		page.Cursor = next
	})
	return page, err
}

// Digests returns, of each topic, what tells a view of it from another.
func (s *Service) Digests(ctx context.Context, req wire.PresenceDigestsRequest) (wire.PresenceDigests, error) {
	if len(req.Topics) == 0 || len(req.Topics) > maxDigests {
		return wire.PresenceDigests{}, wire.InvalidField("topics", fmt.Sprintf("from 1 to %d", maxDigests))
	}
	reply := wire.PresenceDigests{Digests: make([]wire.PresenceDigest, len(req.Topics))}
	err := s.topics.with(ctx, 0, func(v *view) {
		reply.Rev = v.rev
		for i, topic := range req.Topics {
			if r := v.topics[topic]; r != nil {
				reply.Digests[i] = r.digest
			}
		}
	})
	return reply, err
}

// Count returns how many users are on a topic. It costs the same however many.
func (s *Service) Count(ctx context.Context, req wire.PresenceTopic) (wire.PresenceCount, error) {
	if err := s.checkTopic(req.Topic); err != nil {
		return wire.PresenceCount{}, err
	}
	var reply wire.PresenceCount
	err := s.topics.with(ctx, 0, func(v *view) {
		if r := v.topics[req.Topic]; r != nil {
			reply.Count = r.members
		}
	})
	return reply, err
}

// Audit compares a part of what a gateway has with what is stored of it. What is
// above maxFindings is found when it asks again.
func (s *Service) Audit(ctx context.Context, req wire.PresenceAudit) (wire.PresenceAudited, error) {
	switch {
	case req.Gateway == "":
		return wire.PresenceAudited{}, wire.InvalidField("gateway", "is required")
	case req.Parts < 1 || hashRanges%req.Parts != 0:
		return wire.PresenceAudited{}, wire.InvalidField("parts", fmt.Sprintf("a power of two, at most %d", hashRanges))
	case req.Part < 0 || req.Part >= req.Parts:
		return wire.PresenceAudited{}, wire.InvalidField("part", "below parts")
	}
	in := s.topics
	if req.Registry {
		in = s.registry
	}
	var reply wire.PresenceAudited
	err := in.with(ctx, 0, func(v *view) {
		listed := make(map[*stored]struct{}, len(req.Sections))
		for i := range req.Sections {
			p := &req.Sections[i]
			have := v.section(p.Topic, p.User, req.Gateway)
			if have != nil {
				listed[have] = struct{}{}
			}
			if len(reply.Missing) == maxFindings {
				continue
			}
			switch missing := (wire.PresenceSection{Topic: p.Topic, User: p.User}); {
			case have == nil:
				reply.Missing = append(reply.Missing, missing)
			case have.Epoch != p.Epoch || have.Version != p.Version:
				missing.Version = have.Version
				reply.Missing = append(reply.Missing, missing)
			}
		}
		h := v.gateways[req.Gateway]
		if h == nil {
			return
		}
		for p := range h.part(req.Part, req.Parts) {
			if _, ok := listed[p]; ok || !p.there() {
				continue
			}
			if len(reply.Missing)+len(reply.Ghosts) >= maxFindings {
				break
			}
			reply.Ghosts = append(reply.Ghosts, wire.PresenceSection{Topic: p.Topic, User: p.User, Version: p.Version})
		}
	})
	return reply, err
}
