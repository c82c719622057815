package bus

import (
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// discover answers `nats micro ls|info|stats` as micro services do (NATS
// ADR-32): PING, INFO and STATS, each to all services, to those of our name,
// and to this instance. Unlike micro it asks the reply guard first.
func (s *Served) discover() error {
	answers := map[micro.Verb]func() any{
		micro.PingVerb:  func() any { return micro.Ping{ServiceIdentity: s.id, Type: micro.PingResponseType} },
		micro.InfoVerb:  func() any { return s.info },
		micro.StatsVerb: func() any { return s.Stats() },
	}
	for verb, answer := range answers {
		for _, who := range [][2]string{{"", ""}, {s.id.Name, ""}, {s.id.Name, s.id.ID}} {
			subject, err := micro.ControlSubject(verb, who[0], who[1])
			if err != nil {
				return err
			}
			sub, err := s.add(subject, "", func(msg *nats.Msg) { s.discovered(msg, answer) })
			if err != nil {
				return err
			}
			if err := sub.SetPendingLimits(1024, 1<<20); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Served) discovered(msg *nats.Msg, answer func() any) {
	if msg.Reply == "" {
		return
	}
	if !s.guard.admit(msg.Reply) {
		s.meters.refused(s.id.Name)
		return
	}
	data, err := encode(answer())
	if err == nil {
		err = respond(msg, data, nil)
	}
	if err != nil {
		s.log.Debug("discovery not answered", "subject", msg.Subject, "err", err)
	}
}

// Stats is what `nats micro stats` shows of this instance.
func (s *Served) Stats() micro.Stats {
	stats := micro.Stats{ServiceIdentity: s.id, Type: micro.StatsResponseType, Started: s.start,
		Endpoints: make([]*micro.EndpointStats, len(s.served))}
	for i, e := range s.served {
		stats.Endpoints[i] = e.snapshot(s.info.Endpoints[i].QueueGroup)
	}
	return stats
}
