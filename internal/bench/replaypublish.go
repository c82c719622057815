package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// ReplayPublish compares acknowledged publishes of many clients to topics
// without replay and to replayed ones, which are stored first. The sides take
// turns, round by round.
type ReplayPublish struct {
	Pairs       int           // of a publisher and a subscriber; default 200
	Outstanding int           // unacknowledged publishes of each; default 8
	Size        int           // bytes of a payload; default 128
	Rounds      int           // default 3
	Duration    time.Duration // of one side in a round; default 5 s
	Warmup      time.Duration // before each; default 1 s
}

// Run measures on processes of its own.
func (o ReplayPublish) Run(ctx context.Context, cfg SiteConfig) (*Comparison, error) {
	def(&o.Pairs, 200)
	def(&o.Outstanding, 8)
	def(&o.Size, 128)
	def(&o.Rounds, 3)
	def(&o.Duration, 5*time.Second)
	def(&o.Warmup, time.Second)
	if o.Rounds < 1 {
		return nil, fmt.Errorf("rounds: at least 1")
	}
	s, err := openSite(ctx, cfg, 1)
	if err != nil {
		return nil, err
	}
	defer s.close()
	nc, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	c := &Comparison{Scenario: "replay-publish", Parameters: map[string]any{
		"pairs": o.Pairs, "outstanding": o.Outstanding, "size": o.Size, "rounds": o.Rounds, "duration": o.Duration,
	}}
	var rates, ratios [2][]float64
	var acks [2]Histogram
	for range o.Rounds {
		for side, prefix := range []string{plainPrefix, logPrefix} {
			r, err := o.side(ctx, s, nc, c, prefix, &acks[side])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", liveSides[side], err)
			}
			rates[side] = append(rates[side], r.Acks)
		}
		n := len(rates[0]) - 1
		ratios[0] = append(ratios[0], rates[1][n]/rates[0][n])
	}
	for side, name := range liveSides {
		c.side(name, median(rates[side]), "acknowledged", &acks[side])
	}
	c.atLeast("acknowledged and stored, one gateway", 20_000, "/s", rates[1]...)
	c.Parameters["replayed/plain"] = fmt.Sprintf("%.2f", median(ratios[0]))
	return c, nil
}

// side measures one side of a round, and holds the stream against it.
func (o ReplayPublish) side(ctx context.Context, s *site, nc *nats.Conn, c *Comparison, prefix string, ack *Histogram) (*Report, error) {
	before, err := streamState(ctx, nc)
	if err != nil {
		return nil, err
	}
	k := s.clock()
	profiled := s.profile(ctx, "publish-"+prefix[len("bench."):len(prefix)-1], o.Warmup+o.Duration)
	r, sent, err := Publish{
		Pairs: o.Pairs, Outstanding: o.Outstanding, Size: o.Size, Duration: o.Duration, Warmup: o.Warmup, prefix: prefix, acks: ack,
	}.run(ctx, s.target(s.gateways[0]))
	if err != nil {
		return nil, err
	}
	k.stop(c) // the last side, which is the replayed one, stays
	if err := profiled(); err != nil {
		return nil, err
	}
	after, err := streamState(ctx, nc)
	if err != nil {
		return nil, err
	}
	c.Checked += sent
	c.faults(&tally{lost: r.Lost, repeated: r.Repeated, damaged: r.Damaged, errors: r.Errors, closed: r.Closed, failure: r.Failure})
	stored := after.Last - before.Last
	if prefix == plainPrefix {
		sent = 0
	}
	if stored != sent {
		c.faults(&tally{lost: max(0, sent-stored), repeated: max(0, stored-sent), failure: fmt.Sprintf("%d messages were published and %d stored", sent, stored)})
	}
	return r, nil
}
