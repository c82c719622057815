package integration

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A client resumes 50 MB of history over a connection that may have 1 MiB
// queued, and that is thin, while others publish; another one reads the newest
// 10 MB as fast as it can. Neither is closed, nothing is missing, and the gateway
// does not hold what they wait for.
func TestAResumeMuchLargerThanTheQueue(t *testing.T) {
	t.Parallel()
	const bytes, bound = 50_000, 1 << 20
	messages := 1000
	if raceEnabled {
		messages = 250
	}
	server := natsdev.Test(t)
	admin := "127.0.0.1:" + freePort(t)
	file := rulesFile(t, fmt.Sprintf(replayedRules, 100_000))
	startReplay(t, server.ClientURL(), file)
	s := &stack{t: t, nats: server.ClientURL()}
	g := s.add("FAIRLEAD_TOPICS_FILE="+file, fmt.Sprintf("FAIRLEAD_LIMIT_OUTBOUND_BYTES=%d", bound), "FAIRLEAD_ADMIN_ADDR="+admin)
	topic := unique("chat.bulk")
	js, err := jetstream.New(s.worker(), jetstream.WithPublishAsyncMaxPending(32_000))
	must(t, err)
	body := strings.Repeat("x", bytes)
	for i := range messages {
		_, err := js.PublishAsync("fl.topic."+topic, fmt.Appendf(nil, `{"n":%d,"x":%q}`, i, body))
		must(t, err)
	}
	receive(t, js.PublishAsyncComplete())
	positions := map[string]int64{"thin": 0, "fast": int64(messages * 4 / 5)} // the only topic: so many messages, so far the sequence

	before := metric(t, admin, "process_resident_memory_bytes")
	var stored atomic.Int64
	stored.Store(int64(messages))
	live, quit := make(chan error, 1), make(chan struct{})
	go func() { // small messages meanwhile
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-quit:
				live <- nil
				return
			case <-pace.C:
			}
			if _, err := js.Publish(t.Context(), "fl.topic."+topic, fmt.Appendf(nil, `{"n":%d}`, stored.Load())); err != nil {
				live <- err
				return
			}
			stored.Add(1)
		}
	}()

	thin := startLink(t, to(g.addr), nil)
	thin.rate.Store(20 << 20)
	var readers []*bulk
	for name, url := range map[string]string{"fast": g.ws(), "thin": "ws://" + thin.addr() + "/ws"} {
		after := positions[name]
		b := &bulk{t: t, name: name, c: dial(t, url, client.Options{Token: token(name, nil)}), last: after}
		b.got.Store(after)
		_, err := b.c.Subscribe(within(t), topic, client.SubscribeOptions{After: &after, Control: true, OnMessage: b.take})
		must(t, err)
		readers = append(readers, b)
	}
	most := 0
	for _, b := range readers {
		eventually(t, b.name+" has the history", func() (any, bool) {
			most = max(most, metric(t, admin, "process_resident_memory_bytes"))
			return b.got.Load(), b.got.Load() >= int64(messages)
		})
	}
	close(quit)
	must(t, <-live)
	for _, b := range readers {
		eventually(t, b.name+" has everything", func() (any, bool) { return b.got.Load(), b.got.Load() >= stored.Load() })
		if got, want := b.got.Load(), stored.Load(); got != want {
			t.Errorf("%s is at message %d, want %d", b.name, got, want)
		}
		if err := b.c.CloseError(); err != nil {
			t.Errorf("%s was closed: %v", b.name, err)
		}
	}
	if stored.Load() == int64(messages) {
		t.Error("nothing was published meanwhile")
	}
	if grown, bound := most-before, 100<<20; grown > bound && !raceEnabled {
		t.Errorf("the gateway grew by %d MiB, want at most %d", grown>>20, bound>>20)
	}
	t.Logf("memory: %d MiB, at most %d MiB", before>>20, most>>20)
}

// bulk checks messages that are numbered from 0.
type bulk struct {
	t    *testing.T
	name string
	c    *client.Client
	got  atomic.Int64 // where it is
	last int64        // sequence
}

func (b *bulk) take(m client.Message) {
	var v struct{ N int64 }
	switch {
	case m.Control != "":
		b.t.Errorf("%s: %s", b.name, m.Raw)
		return
	case json.Unmarshal(m.Data, &v) != nil || v.N != b.got.Load() || m.Prev != b.last:
		b.t.Errorf("%s: number %d, seq %d (prev %d) behind %d numbers up to %d", b.name, v.N, m.Seq, m.Prev, b.got.Load(), b.last)
	}
	b.last = m.Seq
	b.got.Add(1)
}

// Many topics share a stream: what is read of each is its own, whole, and in
// order.
func TestManyTopicsOfOneStream(t *testing.T) {
	t.Parallel()
	const topics, each = 2000, 10
	s := replayed(t, natsdev.Test(t), 100, 1)
	js, err := jetstream.New(s.worker(), jetstream.WithPublishAsyncMaxPending(32_000))
	must(t, err)
	prefix := unique("chat.many")
	name := func(i int) string { return prefix + "." + strconv.Itoa(i) }
	acks := make([][each]jetstream.PubAckFuture, topics)
	for n := range each {
		for i := range topics {
			acks[i][n], err = js.PublishAsync("fl.topic."+name(i), fmt.Append(nil, i*each+n))
			must(t, err)
		}
	}
	seqs := make([][each]int64, topics)
	for i := range acks {
		for n, ack := range acks[i] {
			select {
			case a := <-ack.Ok():
				seqs[i][n] = int64(a.Sequence)
			case err := <-ack.Err():
				t.Fatalf("store: %v", err)
			case <-within(t).Done():
				t.Fatal("not stored in time")
			}
		}
	}
	nc := s.worker()
	for i := range topics {
		from := i % (each + 1) // so many have been seen
		after := int64(0)
		if from > 0 {
			after = seqs[i][from-1]
		}
		page := since(t, nc, wire.ReplaySinceRequest{Topic: name(i), After: after, Limit: 100})
		if page.Truncated || page.More || len(page.Messages) != each-from || page.Head.Seq != seqs[i][each-1] {
			t.Fatalf("%s behind %d: %d messages, truncated %v, more %v, head %d; want %d, head %d",
				name(i), after, len(page.Messages), page.Truncated, page.More, page.Head.Seq, each-from, seqs[i][each-1])
		}
		prev := after
		for k, m := range page.Messages {
			n := from + k
			if m.Seq != seqs[i][n] || m.Prev != prev || string(m.Payload) != strconv.Itoa(i*each+n) {
				t.Fatalf("%s: message %d is seq %d prev %d %s; want seq %d prev %d %d", name(i), n, m.Seq, m.Prev, m.Payload, seqs[i][n], prev, i*each+n)
			}
			prev = m.Seq
		}
	}
	// And through a gateway, some of them at once.
	c := s.as(0, "ann")
	for i := 0; i < topics; i += 20 {
		sub := resume(t, c, name(i), wire.Position{Seq: seqs[i][4]})
		at := wire.Position{Seq: seqs[i][4]}
		for k, n := range numbers(t, sub, &at, each-5) {
			if n != i*each+5+k {
				t.Fatalf("%s: got %d, want %d", name(i), n, i*each+5+k)
			}
		}
	}
}

// since asks the replay service for messages.
func since(t *testing.T, nc *nats.Conn, req wire.ReplaySinceRequest) *wire.ReplayPage {
	t.Helper()
	body, err := json.Marshal(req)
	must(t, err)
	reply, err := nc.Request("fl.svc.replay.since", body, patience)
	must(t, err)
	if code := wire.HeaderValue(reply.Header, wire.HeaderErrorCode); code != "" {
		t.Fatalf("since %s: %s %s", body, code, wire.HeaderValue(reply.Header, wire.HeaderError))
	}
	var page wire.ReplayPage
	must(t, json.Unmarshal(reply.Data, &page))
	return &page
}
