package archive

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgdev.Main(m)) }

const stream = "fl_replay_chat"

// open opens an archive whose tables are there.
func open(t *testing.T, url string) *Archive {
	t.Helper()
	a, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func migrated(t *testing.T) *Archive {
	t.Helper()
	a := open(t, pgdev.Test(t))
	if err := a.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

// epoch is when messages of tests are stored: message n at epoch + n s.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC)

func at(seq int64) wire.Position {
	return wire.Position{Seq: seq, Ts: epoch.Add(time.Duration(seq) * time.Second).UnixMilli()}
}

// plain returns messages of a topic.
func plain(topic string, seqs ...int64) (ms []Message) {
	for _, seq := range seqs {
		ms = append(ms, Message{
			Seq: seq, Time: epoch.Add(time.Duration(seq) * time.Second), Topic: topic,
			Event: "message", Payload: fmt.Append(nil, seq),
		})
	}
	return ms
}

func store(t *testing.T, a *Archive, ms ...Message) {
	t.Helper()
	if err := a.Store(t.Context(), stream, ms); err != nil {
		t.Fatal(err)
	}
}

// since reads a range of a topic.
func since(t *testing.T, a *Archive, stream, topic string, after wire.Position, before int64, limit, bytes int) (ms []wire.ReplayMessage, whole, more bool, err error) {
	t.Helper()
	page, err := a.Since(t.Context(), Query{Stream: stream, Topic: topic, After: after, Before: before, Limit: limit, Bytes: bytes})
	if err != nil {
		return nil, false, false, err
	}
	return page.Messages, page.Whole, page.More, nil
}

// read reads all of a topic behind a position.
func read(t *testing.T, a *Archive, topic string, after wire.Position, before int64) (seqs []int64, whole bool) {
	t.Helper()
	ms, whole, more, err := since(t, a, stream, topic, after, before, 100_000, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if more {
		t.Fatal("more: got true, want false of an unbounded read")
	}
	for _, m := range ms {
		seqs = append(seqs, m.Seq)
	}
	return seqs, whole
}

func expect(t *testing.T, a *Archive, topic string, after wire.Position, before int64, want []int64, wantWhole bool) {
	t.Helper()
	got, whole := read(t, a, topic, after, before)
	if !slices.Equal(got, want) || whole != wantWhole {
		t.Errorf("Since(%s, %v, %d) = %v, whole %v, want %v, whole %v", topic, after, before, got, whole, want, wantWhole)
	}
}

// eventually polls until ok, and fails with what it says when it takes too long.
func eventually(t *testing.T, ok func() (done bool, state string)) {
	t.Helper()
	deadline := time.NewTimer(40 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		done, state := ok()
		if done {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("it did not come to pass: %s", state)
		case <-tick.C:
		}
	}
}

// source is a stream of a NATS server and a way to publish into it.
type source struct {
	t      *testing.T
	server *natsdev.Server
	js     jetstream.JetStream
	size   int64 // messages kept of each topic
}

func newSource(t *testing.T, size int64) *source {
	t.Helper()
	s := &source{t: t, server: natsdev.Test(t), size: size}
	nc, err := nats.Connect(s.server.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if s.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	s.create()
	return s
}

func (s *source) create() {
	s.t.Helper()
	if _, err := s.js.CreateStream(s.t.Context(), jetstream.StreamConfig{
		Name: stream, Subjects: []string{"fl.topic.chat.>"}, MaxMsgsPerSubject: s.size, AllowDirect: true,
	}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *source) remove() {
	s.t.Helper()
	if err := s.js.DeleteStream(s.t.Context(), stream); err != nil {
		s.t.Fatal(err)
	}
}

// publish stores n messages on a topic.
func (s *source) publish(topic string, n int) {
	s.t.Helper()
	var last jetstream.PubAckFuture
	for i := range n {
		f, err := s.js.PublishAsync("fl.topic."+topic, fmt.Appendf(nil, `{"n":%d}`, i))
		if err != nil {
			s.t.Fatal(err)
		}
		last = f
	}
	select {
	case <-s.js.PublishAsyncComplete():
	case <-s.t.Context().Done():
	}
	select {
	case err := <-last.Err():
		s.t.Fatal(err)
	case <-last.Ok():
	}
}

func (s *source) send(msg *nats.Msg) {
	s.t.Helper()
	if _, err := s.js.PublishMsg(s.t.Context(), msg); err != nil {
		s.t.Fatal(err)
	}
}

// copier runs a copier; the returned function stops it and waits.
func (s *source) copier(a *Archive, wait time.Duration) (c *Copier, stop func()) {
	s.t.Helper()
	c = NewCopier(CopierConfig{Archive: a, JetStream: s.js, Stream: stream, Namespace: wire.DefaultNamespace})
	c.ackWait = wait
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	}
	s.t.Cleanup(stop)
	return c, stop
}

// copied waits until the archive has come to a sequence.
func copied(t *testing.T, a *Archive, seq int64) {
	t.Helper()
	eventually(t, func() (bool, string) {
		got, err := a.Copied(t.Context(), stream)
		return err == nil && got == seq, fmt.Sprintf("copied up to %d (%v), want %d", got, err, seq)
	})
}

func count(t *testing.T, a *Archive, where string) (n int) {
	t.Helper()
	if err := a.pool.QueryRow(t.Context(), "select count(*) from fairlead."+where).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
