package bridge

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A topic whose stream does not take a change, nor the gap for it, is told later: a
// gap that was not heard is a loss as well.
func TestWhatAStreamDoesNotTakeIsALoss(t *testing.T) {
	t.Parallel()
	nc, err := bus.Connect(t.Context(), bus.Config{URL: natsdev.Test(t).ClientURL()}, bus.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	// Somebody listens, and nobody acknowledges: the stream has no leader.
	if _, err := nc.Subscribe("fl.topic.>", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	const kept = `{bridges: [{channel: c, topics: [db.x]}], topics: [{match: "db.>", subscribe: user, publish: none, replay: {dedupe: 1s}}]}`
	b, err := New(Config{PostgresURL: "postgres://x", NATS: nc, Namespace: wire.DefaultNamespace, Rules: newBook(t, kept)})
	if err != nil {
		t.Fatal(err)
	}
	var held lease
	held.renew(time.Now().Add(time.Hour))
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for name, one := range map[string]struct {
		ctx context.Context
		gap bool
	}{"a change": {t.Context(), false}, "a gap": {t.Context(), true}, "a gap, and the bridge stops": {stopped, true}} {
		channel := &channelState{name: "c"}
		lost, refusals := b.counts.dropped[undelivered].Load(), b.counts.dropped[refused].Load()
		b.send(one.ctx, &entry{
			msg:   &nats.Msg{Subject: "fl.topic.db.x", Header: nats.Header{}, Data: []byte("{}")},
			topic: "db.x", channel: channel, lease: &held, gap: one.gap,
		})
		lost, refusals = b.counts.dropped[undelivered].Load()-lost, b.counts.dropped[refused].Load()-refusals
		if one.ctx.Err() == nil && (lost != 1 || !channel.lost.Load()) || refusals != 0 {
			t.Errorf("%s: %d not delivered, %d refused, to be announced: %v", name, lost, refusals, channel.lost.Load())
		}
	}
}
