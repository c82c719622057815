package gateway

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// spendAtOnce bounds the buckets that the service is asked about at a time for one
// batch: the questions of others come behind no more than these.
const spendAtOnce = 32

// spend takes what an operation of the connection takes, or says why it may not
// have it. The reader waits: what comes behind it keeps its place.
func (c *connection) spend(set *rules.Set, take rules.Take, name, given string) *wire.Error {
	return c.g.spend(c.g.connectContext, c.taker(), set, take, name, given)
}

func (g *Service) spend(ctx context.Context, by *taker, set *rules.Set, take rules.Take, name, given string) *wire.Error {
	ask, ok := by.ask(set, take, name, given)
	if !ok {
		return nil
	}
	_, err := g.limiter.take(ctx, by, ask, 1)
	return err
}

// admitConnect takes what a new connection takes, once: as soon as it is known
// from which bucket.
func (c *connection) admitConnect(ctx context.Context) *wire.Error {
	set := c.g.rules.Current()
	by := c.taker()
	ask, ok := by.ask(set, set.Connect, "", "")
	if !ok || c.charged || by.id == nil && ask.Limit.Key != rules.KeyAddress {
		return nil
	}
	c.charged = true
	_, err := c.g.limiter.take(ctx, by, ask, 1)
	return err
}

// fold is what several messages of a batch want of one bucket, each the same.
type fold struct {
	ask limits.Ask
	of  []*outgoing // in order
}

// foldAll puts together what the messages of a batch want of the same buckets.
func (c *connection) foldAll(set *rules.Set, messages []outgoing) []fold {
	var by *taker
	var all []fold
	var at map[limits.Ask]int
	for i := range messages {
		m := &messages[i]
		if m.refused != nil || m.rule == nil || m.rule.PublishRate.Limit == "" {
			continue
		}
		if by == nil {
			by, at = c.taker(), map[limits.Ask]int{}
		}
		ask, ok := by.ask(set, m.rule.PublishRate, m.to, m.key)
		if !ok {
			continue
		}
		n, ok := at[ask]
		if !ok {
			n = len(all)
			at[ask] = n
			all = append(all, fold{ask: ask})
		}
		all[n].of = append(all[n].of, m)
	}
	return all
}

// spendEach takes what each message of a batch takes. Of those that want the
// same, the first get it, and the others are refused.
func (c *connection) spendEach(set *rules.Set, messages []outgoing) {
	if all := c.foldAll(set, messages); len(all) > 0 {
		c.g.limiter.takeEach(c.g.connectContext, c.taker(), all)
	}
}

// takeEach takes from all buckets within the time that one operation has. What is
// not decided then goes by its failMode: who asks for more than the service
// decides in that time has it undecided, and not everybody else.
func (l *limiter) takeEach(ctx context.Context, by *taker, all []fold) {
	ctx, cancel := context.WithTimeout(ctx, decideWithin)
	defer cancel()
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
			of := all[i].of
			granted, err := l.take(ctx, by, all[i].ask, int64(len(of)))
			for _, m := range of[granted:] {
				m.refused = err
			}
		}
	}
	var others sync.WaitGroup
	for range min(len(all), spendAtOnce) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
}

// sums is what the messages of a batch that is stored as one take together of
// each bucket.
type sums struct {
	set  *rules.Set
	by   *taker
	asks []limits.Ask
	at   map[bucketKey]int
}

// add notes what a message takes.
func (s *sums) add(take rules.Take, name, given string) {
	ask, ok := s.by.ask(s.set, take, name, given)
	if !ok {
		return
	}
	key := bucketKey{ask.Limit.Name, ask.Key}
	if at, ok := s.at[key]; ok {
		s.asks[at].Cost += ask.Cost
		return
	}
	if s.at == nil {
		s.at = map[bucketKey]int{}
	}
	s.at[key] = len(s.asks)
	s.asks = append(s.asks, ask)
}

// spendAll takes all of several asks, or none of them.
func (g *Service) spendAll(ctx context.Context, s *sums) error {
	if len(s.asks) == 0 {
		return nil
	}
	if err := g.limiter.takeAll(ctx, s.by, s.asks); err != nil {
		return err
	}
	return nil
}

// limitExceeded says on fl.event.limit.exceeded that a burst of refusals began.
func (g *Service) limitExceeded(by *taker, a limits.Ask, answer limits.Answer) {
	b := eventBody{Conn: by.conn, Limit: a.Limit.Name, Observed: a.Cost, Allowed: int64(a.Limit.Capacity), Key: a.Key, Shadow: answer.Shadowed}
	if by.conn == nil {
		b.Address = by.address.String()
		if by.id != nil {
			b.User = by.id.User
		}
	}
	g.event("limit.exceeded", "", b)
}
