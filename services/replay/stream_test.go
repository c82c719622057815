package replay

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func openStream(t *testing.T, server *natsdev.Server, r Retention, now func() time.Time) *stream {
	t.Helper()
	connect := func() *nats.Conn {
		nc, err := nats.Connect(server.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	set, err := rules.Parse([]byte(`topics: [{name: t, match: "t.>", replay: {size: 10, ttl: 1h}}]`), rules.Dev)
	if err != nil {
		t.Fatal(err)
	}
	rule := *set.Topics[0]
	replayed := *rule.Replay
	replayed.Size, replayed.TTL, replayed.Dedupe, replayed.MaxBytes = r.Size, r.TTL, r.Dedupe, r.Bytes
	rule.Replay = &replayed
	publish, reads, feeds := connect(), connect(), connect()
	js, err := jetstream.New(feeds)
	if err != nil {
		t.Fatal(err)
	}
	store := streams.Store{JetStream: js, Namespace: "fl"}
	if _, err := store.Update(t.Context(), &rule); err != nil {
		t.Fatal(err)
	}
	reader, err := newReader(reads)
	if err != nil {
		t.Fatal(err)
	}
	s := newStream(rule.Stream("fl"), "fl", &replayed, publish, reader, 1<<20, now)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	f := &feed{s: s, js: js, log: discard, every: 50 * time.Millisecond}
	go func() {
		defer close(done)
		f.run(ctx)
		s.wait()
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

func TestStreamReadsWhatWasPublished(t *testing.T) {
	s := openStream(t, natsdev.Test(t), Retention{Size: 5, TTL: time.Hour, Dedupe: time.Minute}, time.Now)
	ctx := t.Context()
	_, empty, err := s.Head(ctx, "t.a")
	if err != nil || !empty.Empty() {
		t.Fatalf("empty position %v, %v", empty, err)
	}
	var all []wire.Position
	for range 8 {
		if _, err := s.Append(ctx, Entry{Topic: "t.a", Payload: []byte(`{"a": 1}`), Event: "said", User: "ann"}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(ctx, Entry{Topic: "t.b", Payload: []byte(`2`)}); err != nil {
			t.Fatal(err)
		}
		head, _, err := s.Head(ctx, "t.a")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, head)
	}
	for i, p := range all {
		page, err := s.Since(ctx, Query{Topic: "t.a", After: p, Limit: 100, Bytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := page.Truncated, i < 2; got != want {
			t.Errorf("after %v: truncated %v, want %v", p, got, want)
		}
		if got, want := len(page.Messages), min(5, 7-i); got != want {
			t.Errorf("after %v: %d messages, want %d", p, got, want)
		}
	}
}

var discard = slog.New(slog.DiscardHandler)

// A purge of one topic by hand is not announced to anybody: positions of what it
// took are truncated all the same, and the topic can be read.
func TestAPurgeByHandIsNoticed(t *testing.T) {
	s := openStream(t, natsdev.Test(t), Retention{Size: 50, TTL: time.Hour, Dedupe: time.Minute}, time.Now)
	ctx := t.Context()
	var positions []wire.Position
	for range 40 {
		if _, err := s.Append(ctx, Entry{Topic: "t.a", Payload: []byte(`1`)}); err != nil {
			t.Fatal(err)
		}
		head, _, err := s.Head(ctx, "t.a")
		if err != nil {
			t.Fatal(err)
		}
		positions = append(positions, head)
	}
	if err := s.reads.purge(ctx, s.name, "fl.topic.t.a", positions[30].Seq); err != nil {
		t.Fatal(err)
	}
	for i, p := range positions {
		for _, ts := range []int64{p.Ts, 0} {
			page, err := s.Since(ctx, Query{Topic: "t.a", After: wire.Position{Seq: p.Seq, Ts: ts}, Limit: 100, Bytes: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			if got, want := page.Truncated, i < 30; got != want {
				t.Errorf("behind message %d, ts %d: truncated %v, want %v", i, ts, got, want)
			}
			if got, want := len(page.Messages), min(10, 39-i); got != want {
				t.Errorf("behind message %d: %d messages, want %d", i, got, want)
			}
		}
	}
}
