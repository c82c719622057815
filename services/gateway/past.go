package gateway

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// pastPerCore bounds how many pages of the past are on their way for clients:
	// more at a time take as long, those who asked last would give up, and
	// publishes would wait behind them.
	pastPerCore = 2
	// pastOfTopic is that for one topic: who comes after finds in the ring what
	// those before have read.
	pastOfTopic = 2
)

// past reads a page for a client, in turn with the others.
func (g *Service) past(ctx context.Context, req wire.ReplaySinceRequest) (*wire.ReplayPage, error) {
	select {
	case g.reading <- struct{}{}:
		defer func() { <-g.reading }()
	case <-ctx.Done():
		return nil, wire.Errorf(wire.DeadlineExceeded, "too many read the past")
	}
	return g.since(ctx, req)
}

// patient reads a page for who resumes. Where nobody was there it is asked for once
// more: the service may have gone a moment ago, and be back in another one.
func (g *Service) patient(ctx context.Context, req wire.ReplaySinceRequest) (*wire.ReplayPage, error) {
	page, err := g.past(ctx, req)
	if wire.CodeOf(err) != wire.Unavailable || !g.link.up() {
		return page, err
	}
	if g.dependencies.replay.await(ctx); !g.dependencies.replay.healthy() {
		return page, err
	}
	return g.past(ctx, req)
}

// missed returns what a client missed behind a position: hit says that the ring
// has it, else it is in the page.
func (g *Service) missed(ctx context.Context, in *interest, t *trail, p wire.Position) (page *wire.ReplayPage, hit bool, err error) {
	ring := func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		_, ok := t.after(p, time.Now())
		return ok && in.trail == t
	}
	if ring() {
		g.metrics.ringHits.Add(1)
		return nil, true, nil
	}
	g.dependencies.replay.await(ctx) // before it holds up others
	select {
	case t.reads <- struct{}{}:
		defer func() { <-t.reads }()
	case <-ctx.Done():
		return nil, false, wire.Errorf(wire.DeadlineExceeded, "too many read the past of the topic")
	}
	if ring() {
		g.metrics.ringHits.Add(1)
		return nil, true, nil
	}
	page, err = g.patient(ctx, wire.ReplaySinceRequest{Topic: in.topic, After: p.Seq, Ts: p.Ts, Limit: maxHistory})
	if err != nil {
		return nil, false, err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.trail == t {
		t.extend(in.topic, page, in.rule.Load())
	}
	return page, false, nil
}

// extend puts a page that was read in front of the ring, where they meet: as
// much of its end as the ring may hold.
func (t *trail) extend(topic string, page *wire.ReplayPage, rule *rules.Topic) {
	if !t.known || t.mending || page.Truncated || page.More {
		return
	}
	older := page.Messages
	for len(older) > 0 && older[len(older)-1].Seq > t.base.Seq {
		older = older[:len(older)-1]
	}
	if len(older) == 0 || older[len(older)-1].Position != t.base {
		return
	}
	var front []trailed
	base, bytes := page.Base, 0
	for i := len(older) - 1; i >= 0; i-- {
		m := &older[i]
		frame := frameOf(topic, m, rule)
		if n := len(t.ring) + len(front); n >= min(ringMessages, t.size) || t.bytes+bytes+len(frame) > ringBytes ||
			t.budget.used.Load()+int64(bytes+len(frame)) > allRingsBytes {
			base = m.Position
			break
		}
		bytes += len(frame)
		front = append(front, trailed{at: m.Position, prev: m.Prev, frame: frame, exclude: m.Exclude})
	}
	ring := make([]trailed, 0, len(front)+len(t.ring))
	for i := len(front) - 1; i >= 0; i-- {
		ring = append(ring, front[i])
	}
	t.ring, t.base = append(ring, t.ring...), base
	t.bytes += bytes
	t.budget.used.Add(int64(bytes))
}
