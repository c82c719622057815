package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// wildcardRules retain enough of every topic for the tests of wildcards.
const wildcardRules = `topics:
  - {name: chat, match: "chat.>", subscribe: any, publish: any, wildcards: true, replay: {size: 50, ttl: 1h}}
`

// closedStreams is JetStream whose streams can't be read while closed is set.
type closedStreams struct {
	jetstream.JetStream
	closed atomic.Bool
	asked  atomic.Int64
}

func (c *closedStreams) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	c.asked.Add(1)
	if c.closed.Load() {
		return nil, errors.New("no answer")
	}
	return c.JetStream.Stream(ctx, name)
}

// unmoved is JetStream whose streams end at a sequence, and have nothing new.
type unmoved struct {
	jetstream.JetStream
	end uint64
}

func (u unmoved) Stream(context.Context, string) (jetstream.Stream, error) {
	return unmovedStream{info: &jetstream.StreamInfo{State: jetstream.StreamState{LastSeq: u.end, LastTime: time.UnixMilli(1000)}}}, nil
}

type unmovedStream struct {
	jetstream.Stream
	info *jetstream.StreamInfo
}

func (u unmovedStream) CachedInfo() *jetstream.StreamInfo { return u.info }

// interest returns what the gateway follows a topic or a wildcard by.
func (r *rig) interest(topic string) *interest {
	r.t.Helper()
	subject := "fl.topic." + topic
	in := r.g.fanout.hub.find(r.g.fanout.hub.shard(subject), subject)
	if in == nil {
		r.t.Fatalf("nobody listens to %s", topic)
	}
	return in
}

// store publishes n messages as a worker does, and returns when they are stored.
func (r *rig) store(nc *nats.Conn, topic string, n int) {
	r.t.Helper()
	for i := range n {
		if _, err := nc.Request("fl.topic."+topic, fmt.Appendf(nil, "%d", i), patience); err != nil {
			r.t.Fatalf("store a message of %s: %v", topic, err)
		}
	}
}

// awaitStream waits for a stream that the gateway makes.
func (r *rig) awaitStream(name string) {
	r.t.Helper()
	eventually(r.t, "stream "+name, func() bool {
		_, err := r.g.readStreams.Stream(r.t.Context(), name)
		return err == nil
	})
}

// cutOff is a gateway without a connection, for repairs under a clock of their
// own: minutes of waiting cost nothing.
func cutOff(t *testing.T, reads *nats.Conn) *Service {
	t.Helper()
	g := &Service{
		cfg: Config{Namespace: "fl"}, log: slog.New(slog.DiscardHandler), reads: reads,
		mender: newMender(t.Context()),
		link:   &link{ever: true, down: map[*nats.Conn]bool{reads: true}},
	}
	g.dependencies = newDependencies(g)
	return g
}

// back ends the outage.
func (g *Service) back() {
	g.link.mu.Lock()
	defer g.link.mu.Unlock()
	clear(g.link.down)
}

// A wildcard waits for NATS for as long as it is away, and is whole as soon as
// its stream can be read.
func TestWildcardWaitsOutALongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := cutOff(t, new(nats.Conn))
		closed := &closedStreams{JetStream: unmoved{end: 5}}
		closed.closed.Store(true)
		g.readStreams = closed
		track := newStreamTrail("chat", "FL_CHAT", "chat.>")
		track.look(at(5, 1000))
		in := &interest{topic: "chat.>", kind: kindPattern, tracks: []*streamTrail{track}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.mendStream(t.Context(), in, track)
		}()

		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got, most := closed.asked.Load(), int64(mendRounds); got <= most {
			t.Errorf("asked %d times in the outage, want more than %d", got, most)
		}
		select {
		case <-done:
			t.Fatal("nobody mends the wildcard any more")
		default:
		}

		g.back()
		closed.closed.Store(false)
		<-done
		if track.mending || !track.known || track.whole != 5 {
			t.Errorf("mending %v, known %v, whole up to %d; want it whole up to 5", track.mending, track.known, track.whole)
		}
		if got := g.metrics.truncations.Load(); got != 0 {
			t.Errorf("%d truncations, want none", got)
		}
	})
}

// With NATS there and the stream unreadable, a wildcard goes on after the time
// that an election may take, and looks again later.
func TestWildcardGoesOnWithoutItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := cutOff(t, new(nats.Conn))
		closed := &closedStreams{}
		closed.closed.Store(true)
		g.readStreams = closed
		track := newStreamTrail("chat", "FL_CHAT", "chat.>")
		track.look(at(5, 1000))
		in := &interest{topic: "chat.>", kind: kindPattern, tracks: []*streamTrail{track}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.mendStream(t.Context(), in, track)
		}()
		time.Sleep(time.Minute)
		g.back()
		returned := time.Now()
		<-done
		if got := time.Since(returned); got < mendPatience || got > mendPatience+time.Second {
			t.Errorf("gave up %s after NATS was back, want %s", got, mendPatience)
		}
		if track.mending || !track.known || track.at.Seq != 5 {
			t.Errorf("mending %v, known %v, at %d; want the position that it had", track.mending, track.known, track.at.Seq)
		}
		if got := g.checks.take(time.Now().Add(followUp)); len(got) != 1 {
			t.Errorf("%d interests are looked at again, want 1", len(got))
		}
	})
}

// A topic waits for NATS for as long as it is away. Its patience with a log that
// can't be read begins when NATS is back.
func TestTopicWaitsOutALongOutage(t *testing.T) {
	nc, err := nats.Connect(natsdev.Test(t).ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	nc.Close() // every question fails at once
	synctest.Test(t, func(t *testing.T) {
		g := cutOff(t, nc)
		in := &interest{topic: "chat.a", trail: newTrail("FL_CHAT", 50, 0, &g.rings)}
		in.trail.reset(at(5, 1000))
		message := &nats.Msg{Subject: "fl.seq.chat.a", Data: []byte("1")}
		in.trail.hold(held{message, at(7, 1002), 6})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.mendTrail(ctx, in)
		}()
		defer func() { stop(); <-done; g.mender.close() }()

		whole := func() bool {
			in.mu.Lock()
			defer in.mu.Unlock()
			return in.trail.mending && in.trail.known && in.trail.at.Seq == 5 && len(in.trail.held) == 1
		}
		time.Sleep(2 * time.Minute)
		if !whole() {
			t.Fatal("the repair ended while NATS was away")
		}
		g.back()
		time.Sleep(mendPatience - time.Second)
		if !whole() {
			t.Fatal("the repair ended before anybody could answer")
		}
		<-done
		if got := g.metrics.truncations.Load(); got != 1 || in.trail.mending {
			t.Errorf("%d truncations, mending %v; want the hole told once and the topic to go on", got, in.trail.mending)
		}
		if got := in.trail.at.Seq; got != 7 {
			t.Errorf("the topic is at %d, want at 7, the message that was held", got)
		}
	})
}

// What the mending of a wildcard could not end by reading, it ends by giving up:
// live messages come again.
func TestWildcardThatSpilledGoesOn(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(wildcardRules))
	r.awaitStream("FL_CHAT")
	nc := r.bus()
	r.store(nc, "chat.a", 2)
	p := r.dial()
	p.send(`{"op":"subscribe","id":1,"topic":"chat.>"}`)
	p.expect(`{"id":1,"ok":{"topic":"chat.>"}}`)
	in := r.interest("chat.>")
	counted := &closedStreams{JetStream: r.g.readStreams}
	eventually(t, "the wildcard is mended", func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		t := in.tracks[0]
		if t.mending {
			return false
		}
		r.g.readStreams = counted
		t.spilled = true
		r.g.mendWildcard(in, t)
		return true
	})
	eventually(t, "the wildcard is whole again", func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		return !in.tracks[0].mending
	})
	if got := counted.asked.Load(); got > 10 {
		t.Errorf("the stream was read %d times", got)
	}
	r.store(nc, "chat.a", 1)
	p.expectMessage("chat.a", 3)
}

// A wildcard whose first look at its stream fails begins with what comes then,
// not with the past.
func TestFirstLookThatFailsSendsNoPast(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(wildcardRules))
	r.awaitStream("FL_CHAT")
	nc := r.bus()
	for _, topic := range []string{"chat.a", "chat.b", "chat.c"} {
		r.store(nc, topic, 3)
	}
	closed := &closedStreams{JetStream: r.g.readStreams}
	closed.closed.Store(true)
	r.g.readStreams = closed
	p := r.dial()
	p.send(`{"op":"subscribe","id":1,"topic":"chat.>"}`)
	p.expect(`{"id":1,"ok":{"topic":"chat.>"}}`)
	in := r.interest("chat.>")
	closed.closed.Store(false)
	eventually(t, "the stream is looked at again", func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		return in.tracks[0].known && !in.tracks[0].mending && in.tracks[0].looked >= 9
	})
	r.store(nc, "chat.a", 1)
	p.expectMessage("chat.a", 10)
}

// positioned is a frame with a position.
type positioned struct {
	ID    int64
	Op    string
	Topic string
	Seq   int64
	OK    *struct{ Seq int64 }
}

// positioned reads the next frame.
func (p *peer) positioned() (f positioned, text string) {
	p.t.Helper()
	text = p.read()
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		p.t.Fatalf("frame %.200s: %v", text, err)
	}
	return f, text
}

// expectMessage reads the next frame, which must be this message.
func (p *peer) expectMessage(topic string, seq int64) {
	p.t.Helper()
	f, text := p.positioned()
	if f.Op != "" || f.Topic != topic || f.Seq != seq {
		p.t.Fatalf("frame:\n got %.200s\nwant message %d of %s", text, seq, topic)
	}
}
