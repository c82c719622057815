package bridge

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// shards publish at a time, each the topics that fall to it, in order. A topic
	// that is kept waits for an acknowledgement by each message.
	shards = 32
	// maxWaiting and maxWaitingBytes bound what waits for NATS; what comes then is
	// lost, and announced as a gap.
	maxWaiting      = 16384
	maxWaitingBytes = 32 << 20
)

// channelState is what the outlet tells of a channel.
type channelState struct {
	name string
	// unsure: messages were published that nobody has acknowledged; if NATS goes
	// away they may be lost.
	unsure atomic.Bool
	// lost: changes that were heard were not published.
	lost atomic.Bool
	// said is when that was announced last; the session's.
	said time.Time
}

// entry is a message that waits to be published.
type entry struct {
	msg     *nats.Msg
	topic   string // "": not on a topic
	channel *channelState
	lease   *lease
	gap     bool // announces one
	size    int64
}

// outlet publishes. What is pushed of one topic is published in that order.
type outlet struct {
	lines   [shards]line
	seed    maphash.Seed
	waiting atomic.Int64 // gaps not counted: they are bounded by the topics
	bytes   atomic.Int64
	all     atomic.Int64 // gaps too, and what is just being published
}

// line is what waits for one shard.
type line struct {
	mu      sync.Mutex // guards entries
	entries []entry
	wake    chan struct{} // holds one
}

func newOutlet() *outlet {
	o := &outlet{seed: maphash.MakeSeed()}
	for i := range o.lines {
		o.lines[i].wake = make(chan struct{}, 1)
	}
	return o
}

// push takes an entry; false where too much waits.
func (o *outlet) push(e entry) bool {
	if !e.gap {
		e.size = int64(len(e.msg.Data) + len(e.msg.Subject))
		waiting, bytes := o.waiting.Add(1), o.bytes.Add(e.size)
		if waiting > maxWaiting || bytes > maxWaitingBytes {
			o.waiting.Add(-1)
			o.bytes.Add(-e.size)
			return false
		}
	}
	o.all.Add(1)
	l := &o.lines[maphash.String(o.seed, e.topic)%shards]
	l.mu.Lock()
	l.entries = append(l.entries, e)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// run hands the entries of one line to publish until ctx ends.
func (o *outlet) run(ctx context.Context, l *line, publish func(context.Context, *entry)) {
	for {
		l.mu.Lock()
		batch := l.entries
		l.entries = nil
		l.mu.Unlock()
		for i := range batch {
			e := &batch[i]
			publish(ctx, e)
			if !e.gap {
				o.waiting.Add(-1)
				o.bytes.Add(-e.size)
			}
			o.all.Add(-1)
			batch[i] = entry{}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
	}
}

// crowded reports whether too much waits to say that there is room again.
func (o *outlet) crowded() bool {
	return o.waiting.Load() > maxWaiting/2 || o.bytes.Load() > maxWaitingBytes/2
}

// empty returns when nothing waits, or when ctx ends.
func (o *outlet) empty(ctx context.Context) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for o.all.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
