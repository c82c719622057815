package bridge

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// lossEvery bounds how often a channel's losses behind Postgres are announced.
const lossEvery = 5 * time.Second

// natsSettles is how long after NATS is back it is said that changes may be
// missing: those who are to hear it come back at about the same time.
const natsSettles = 2 * time.Second

// slack is how much earlier than what a replica has seen a gap may have begun: the
// session that is seen to hold a lock may have been hung for that long.
const slack = 5 * time.Second

// losses announces what was lost behind Postgres: once NATS is back, once there
// is room again.
func (s *session) losses() {
	now, back := time.Now(), false
	if n := s.b.cfg.NATS.Stats().Reconnects; n != s.b.reconnects && s.b.cfg.NATS.IsConnected() {
		s.b.reconnects, s.b.back = n, now
	} else if !s.b.back.IsZero() && now.Sub(s.b.back) >= natsSettles {
		s.b.back, back = time.Time{}, true
	}
	for c := range s.held {
		state := s.b.channels[c]
		if now.Sub(state.said) > lossEvery && !s.b.outlet.crowded() && state.lost.Swap(false) {
			state.said = now
			s.announce(c, "lost", 0, false)
		}
		if back && state.unsure.Swap(false) {
			s.announce(c, "nats", 0, true)
		}
	}
}

// announce says that changes of a channel may be missing. uncertain leaves out
// the topics whose messages are acknowledged.
func (s *session) announce(channel, why string, since int64, uncertain bool) {
	gap := wire.BridgeGap{At: s.clock, Channel: channel, Reason: why}
	if since != 0 {
		gap.SinceMs = since - slack.Milliseconds()
	}
	body, err := json.Marshal(gap)
	if err != nil {
		panic(err) // a plain struct
	}
	state := s.b.channels[channel]
	push := func(topic, subject string, err error) {
		if err != nil {
			return // of a name that rules and parseChange have checked
		}
		msg := &nats.Msg{Subject: subject, Header: nats.Header{wire.HeaderEvent: {wire.EventBridgeGap}}, Data: body}
		s.b.outlet.push(entry{msg: msg, topic: topic, channel: state, lease: &s.lease, gap: true})
	}
	for _, topic := range s.told(channel, s.want[channel]) {
		if uncertain && s.b.kept(topic) != nil {
			continue
		}
		subject, err := s.b.cfg.Namespace.Topic(topic)
		push(topic, subject, err)
	}
	subject, err := s.b.cfg.Namespace.Event(wire.EventBridgeGap, channel)
	push("", subject, err)
	s.b.counts.gaps.Add(1)
}

// told returns the topics of a channel that a gap is announced on: those that are
// named in full, and those that it is known to have published to.
func (s *session) told(channel string, patterns []string) []string {
	var all []string
	for _, p := range patterns {
		if !wire.IsPattern(p) {
			all = append(all, p)
		}
	}
	literal := len(all)
	for topic := range s.b.topics[channel] {
		if covered(patterns, topic) && !covered(all[:literal], topic) {
			all = append(all, topic)
		}
	}
	return all
}
