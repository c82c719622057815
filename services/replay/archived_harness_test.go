package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/replay/archive"
)

// archivedLog is an archived log of topics below `t.` whose stream keeps 11
// messages of each, and what was published to it.
type archivedLog struct {
	*archived
	t      *testing.T
	clock  *movedClock
	js     jetstream.JetStream
	rule   *rules.Topic
	at     map[string][]wire.Position // by topic; the payload of the n-th is n
	stop   func()                     // stops the copier
	copies bool                       // one runs
}

func openArchived(t *testing.T, url string) *archivedLog {
	t.Helper()
	server, l := natsdev.Test(t), &archivedLog{t: t, clock: &movedClock{}, at: map[string][]wire.Position{}}
	connect := func() *nats.Conn {
		nc, err := nats.Connect(server.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	set, err := rules.Parse([]byte(`topics: [{name: t, match: "t.>", replay: {size: 1, ttl: 1h, maxBytes: 64KiB, archive: true}}]`), rules.Dev)
	if err != nil {
		t.Fatal(err)
	}
	l.rule = set.Topics[0]
	if l.js, err = jetstream.New(connect()); err != nil {
		t.Fatal(err)
	}
	store := streams.Store{JetStream: l.js, Namespace: "fl"}
	if _, err := store.Update(t.Context(), l.rule); err != nil {
		t.Fatal(err)
	}
	reader, err := newReader(connect())
	if err != nil {
		t.Fatal(err)
	}
	log := newStream(l.rule.Stream("fl"), "fl", l.rule.Replay, connect(), reader, 1<<20, l.clock.now)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	f := &feed{s: log, js: l.js, log: discard, every: 50 * time.Millisecond}
	go func() {
		defer close(done)
		f.run(ctx)
		log.wait()
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	a, err := archive.Open(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	l.archived = &archived{stream: log, archive: newPostgres(a, nil), counts: &archiveCounts{}}
	l.copy()
	l.eventually("the archive is there", func() bool {
		_, err := a.Copied(t.Context(), l.name)
		return err == nil
	})
	return l
}

// copy runs a copier until stop is called.
func (l *archivedLog) copy() {
	c := archive.NewCopier(archive.CopierConfig{Archive: l.archived.archive.archive, JetStream: l.js, Stream: l.name, Namespace: "fl", Log: discard})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	l.copies = true
	stop := sync.OnceFunc(func() {
		cancel()
		<-done
		l.copies = false
	})
	l.stop = stop
	l.t.Cleanup(stop)
}

// publish stores n messages on each topic, by turns; while a copier runs not
// faster than it copies.
func (l *archivedLog) publish(n int, topics ...string) {
	l.t.Helper()
	for i := range n {
		for _, topic := range topics {
			l.send(topic, fmt.Appendf(nil, "%d", len(l.at[topic])))
		}
		if l.copies && i%8 == 7 {
			l.copied()
		}
	}
}

func (l *archivedLog) send(topic string, payload []byte) {
	l.t.Helper()
	if _, err := l.Append(l.t.Context(), Entry{Topic: topic, Payload: payload}); err != nil {
		l.t.Fatal(err)
	}
	head, _, err := l.Head(l.t.Context(), topic)
	if err != nil {
		l.t.Fatal(err)
	}
	l.at[topic] = append(l.at[topic], head)
}

// copied waits until all that the stream was given is archived.
func (l *archivedLog) copied() {
	l.t.Helper()
	end, err := l.state(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	l.eventually(fmt.Sprintf("the archive has come to %d", end.last.Seq), func() bool {
		at, err := l.archived.archive.Copied(l.t.Context(), l.name)
		return err == nil && at == end.last.Seq
	})
}

func (l *archivedLog) eventually(what string, ok func() bool) {
	l.t.Helper()
	deadline, tick := time.NewTimer(30*time.Second), time.NewTicker(5*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			l.t.Fatalf("never: %s", what)
		}
	}
}

func (l *archivedLog) ask(q Query) *wire.ReplayPage {
	l.t.Helper()
	if q.Limit == 0 {
		q.Limit = 1000
	}
	if q.Bytes == 0 {
		q.Bytes = 1 << 20
	}
	page, err := l.Since(l.t.Context(), q)
	if err != nil {
		l.t.Fatalf("Since(%+v): %v", q, err)
	}
	return page
}

// wants compares a page with the messages [from, to) of a topic.
func (l *archivedLog) wants(what, topic string, page *wire.ReplayPage, from, to int, truncated bool) {
	l.t.Helper()
	var got []wire.Position
	before := page.Base.Seq
	for i, m := range page.Messages {
		got = append(got, m.Position)
		if m.Prev > before || i > 0 && m.Prev != before {
			l.t.Errorf("%s: message %d has prev %d, want %d", what, m.Seq, m.Prev, before)
		}
		before = m.Seq
	}
	if want := l.at[topic][from:to]; !slices.Equal(got, want) {
		l.t.Errorf("%s: got %d messages %v, want %d %v", what, len(got), got, len(want), want)
	}
	if page.Truncated != truncated {
		l.t.Errorf("%s: truncated %v, want %v", what, page.Truncated, truncated)
	}
}

// refused asks what can't be answered now.
func (l *archivedLog) refused(what string, q Query) {
	l.t.Helper()
	q.Limit, q.Bytes = 1000, 1<<20
	began := time.Now()
	if page, err := l.Since(l.t.Context(), q); !errors.Is(err, wire.ErrUnavailable) {
		l.t.Errorf("%s: got %+v, %v, want UNAVAILABLE", what, page, err)
	}
	if took := time.Since(began); took > 4*time.Second {
		l.t.Errorf("%s: refused after %s, want less than who asks waits", what, took)
	}
}
