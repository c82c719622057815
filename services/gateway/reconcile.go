package gateway

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A stream republishes what it stores only once, and not at all where its
// leader changes in between. Whatever can have cost a message (a new leader, a
// lost connection, a shard that dropped, a subscription that was young) makes
// the gateway compare where it is with the log.

// reconcile compares the trails that are due until ctx is done.
func (g *Service) reconcile(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	swept, flushed := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if now.Sub(flushed) >= skipEvery {
				flushed = now
				g.skips.flush()
			}
			if now.Sub(swept) >= sweepEvery {
				swept = now
				g.checkAll("", sweepEvery/2)
			}
			if due := g.checks.take(now); len(due) > 0 && g.link.up() {
				g.compare(ctx, due)
			}
		}
	}
}

// checkAll makes the trails of a stream ("": all) due within spread.
func (g *Service) checkAll(stream string, spread time.Duration) {
	now := time.Now()
	g.fanout.hub.all(func(in *interest) {
		in.mu.Lock()
		concerned := in.follows(stream)
		in.mu.Unlock()
		if concerned {
			at := now
			if spread > 0 {
				at = at.Add(rand.N(spread))
			}
			g.checks.add(in, at)
		}
	})
}

// follows reports whether an interest follows a stream ("": any); in.mu is held.
func (in *interest) follows(stream string) bool {
	if in.trail != nil && (stream == "" || in.trail.stream == stream) {
		return true
	}
	return slices.ContainsFunc(in.tracks, func(t *streamTrail) bool { return stream == "" || t.stream == stream })
}

// compare asks for the heads of interests, stream by stream, and mends those
// whose trail ends elsewhere.
func (g *Service) compare(ctx context.Context, due []*interest) {
	byStream := map[string][]*interest{}
	for _, in := range due {
		in.mu.Lock()
		switch t := in.trail; {
		case t == nil || t.mending:
		case t.known:
			byStream[t.stream] = append(byStream[t.stream], in)
		default: // nobody could say where it is
			t.mending = true
			g.mend(in)
		}
		for _, t := range in.tracks {
			g.mendWildcard(in, t)
		}
		in.mu.Unlock()
	}
	for _, all := range byStream {
		for len(all) > 0 {
			some := all[:min(len(all), headsAtOnce)]
			all = all[len(some):]
			g.compareSome(ctx, some)
		}
	}
}

func (g *Service) compareSome(ctx context.Context, some []*interest) {
	req := wire.ReplayHeadsRequest{Topics: make([]wire.ReplayAfter, len(some))}
	for i, in := range some {
		req.Topics[i].Topic = in.topic
	}
	bounded, cancel := context.WithTimeout(ctx, replayWait)
	defer cancel()
	reply, err := callService[wire.ReplayHeadsRequest, wire.ReplayHeads](bounded, g.dependencies.replay, g.reads, "heads", req)
	if err != nil || len(reply.Heads) != len(some) {
		retry := time.Now().Add(followUp)
		for _, in := range some {
			g.checks.add(in, retry)
		}
		return
	}
	for i, in := range some {
		head := reply.Heads[i]
		in.mu.Lock()
		t := in.trail
		differs := t != nil && t.known && !t.mending && t.at != head && !(head.Seq == 0 && t.at.Empty())
		if differs && head.Seq < t.at.Seq && reply.UpTo < t.at.Seq {
			differs = false // the replica has not seen yet what the gateway has
		}
		late := t != nil && !t.checked.IsZero()
		if differs && head.Seq > t.at.Seq && !late {
			// It may be on its way: look again before reading it.
			t.checked = time.Now()
			g.checks.add(in, t.checked.Add(checkEvery))
			differs = false
		} else if t != nil {
			t.checked = time.Time{}
		}
		in.mu.Unlock()
		if differs {
			g.suspect(in)
		}
	}
}

// watchStreams hears of new leaders, and of streams that were deleted or cleared.
func (g *Service) watchStreams() error {
	if _, err := g.requests.Subscribe(streams.Elected+">", func(msg *nats.Msg) {
		name := streams.StreamOf(msg.Subject)
		look := func() {
			g.checkAll(name, 2*time.Second)
			if name == "KV_"+g.cfg.Namespace.Bucket("presence") {
				g.rooms.lookAll(2 * time.Second)
			}
			if name == "KV_"+g.cfg.Namespace.Bucket("groups") {
				g.groups.refresh()
			}
		}
		look()
		g.mender.spawn(func(ctx context.Context) {
			if clock.Sleep(ctx, 5*time.Second) == nil {
				look()
			}
		})
	}); err != nil {
		return err
	}
	if _, err := g.requests.Subscribe(streams.Deleted+">", func(*nats.Msg) {
		select {
		case g.lost <- struct{}{}:
		default: // it will be looked for
		}
	}); err != nil {
		return err
	}
	cleared, err := g.cfg.Namespace.Event("replay.cleared", ">")
	if err != nil {
		return err
	}
	_, err = g.requests.Subscribe(cleared, func(msg *nats.Msg) {
		prefix := cleared[:len(cleared)-1]
		name := msg.Subject[len(prefix):]
		g.fanout.hub.all(func(in *interest) {
			in.mu.Lock()
			concerned := in.trail != nil && in.trail.stream == name
			if in.trail == nil && in.follows(name) {
				g.truncateAll(in, in.topic, 1)
			}
			in.mu.Unlock()
			if concerned {
				g.suspect(in)
			}
		})
	})
	return err
}
