package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgdev.Main(m)) }

// patience bounds every wait of a test: what takes longer has failed.
const patience = 20 * time.Second

const channel = "table_changes"

// book is a set of rules that a test changes.
type book struct {
	mu      sync.Mutex // guards what follows
	set     *rules.Set
	changed chan struct{}
}

func newBook(t *testing.T, yaml string) *book {
	t.Helper()
	b := &book{changed: make(chan struct{})}
	b.change(t, yaml)
	return b
}

func (b *book) change(t *testing.T, yaml string) {
	t.Helper()
	set, err := rules.Parse([]byte(yaml), rules.Run)
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set = set
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *book) Current() *rules.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.set
}

func (b *book) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *book) Loaded() <-chan struct{} {
	loaded := make(chan struct{})
	close(loaded)
	return loaded
}

// rig is a database, a NATS server, and what was published on its topics.
type rig struct {
	t     *testing.T
	url   string
	pg    *pgx.Conn
	nats  *natsdev.Server
	rules *book
	log   *lines
	heard *heard
}

const plainRules = `bridges: [{channel: table_changes, topics: ["db.>", "db.orders"]}]`

func newRig(t *testing.T, yaml string) *rig {
	t.Helper()
	r := &rig{t: t, url: pgdev.Test(t), nats: natsdev.Test(t), rules: newBook(t, yaml), log: &lines{}}
	pool, err := pgxpool.New(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := schema.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if r.pg, err = pgx.Connect(t.Context(), r.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.pg.Close(context.Background()) })
	r.heard = hear(t, r.connect())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("gaps %+v\n%s", r.heard.gaps("fl.event.bridge.gap."+channel), r.log.text())
		}
	})
	return r
}

func (r *rig) connect() *nats.Conn {
	r.t.Helper()
	nc, err := bus.Connect(r.t.Context(), bus.Config{URL: r.nats.ClientURL(), Name: "test"}, bus.Hooks{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	return nc
}

// replica is a bridge that runs.
type replica struct {
	*Bridge
	stop func()
}

func (r *rig) start(change ...func(*Bridge)) *replica { return r.startAt(r.url, change...) }

func (r *rig) startAt(url string, change ...func(*Bridge)) *replica {
	r.t.Helper()
	b, err := New(Config{PostgresURL: url, NATS: r.connect(), Namespace: "fl", Rules: r.rules, Log: slog.New(slog.NewTextHandler(r.log, nil))})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range change {
		c(b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					r.t.Errorf("Run: %v", err)
				}
			case <-time.After(patience):
				r.t.Errorf("Run has not ended")
			}
		})
	}
	r.t.Cleanup(stop)
	return &replica{b, stop}
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.pg.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) number(sql string, args ...any) (n int) {
	r.t.Helper()
	if err := r.pg.QueryRow(r.t.Context(), sql, args...).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) notify(payload string) {
	r.t.Helper()
	r.exec("select pg_notify($1, $2)", channel, payload)
}

// row notifies a numbered change on a topic.
func (r *rig) row(topic string, n int) {
	r.t.Helper()
	r.notify(fmt.Sprintf(`{"topic":%q,"event":"changed","data":%d}`, topic, n))
}

// rows notifies numbers [from, to).
func (r *rig) rows(topic string, from, to int) {
	r.t.Helper()
	for n := from; n < to; n++ {
		r.row(topic, n)
	}
}

// listener waits until one of the replicas listens to the channels.
func (r *rig) listener(all ...*replica) (one *replica) {
	r.t.Helper()
	r.eventually("a replica listens", func() (any, bool) {
		for _, x := range all {
			if x.counts.listening.Load() > 0 {
				one = x
			}
		}
		return nil, one != nil
	})
	return one
}

func (r *rig) eventually(what string, ok func() (state any, done bool)) {
	r.t.Helper()
	eventually(r.t, what, ok)
}

func eventually(t *testing.T, what string, ok func() (state any, done bool)) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		state, done := ok()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("it did not come to pass that %s: %v", what, state)
		}
	}
}

// heard is what came over NATS, in order.
type heard struct {
	mu   sync.Mutex // guards msgs
	msgs []*nats.Msg
}

func hear(t *testing.T, nc *nats.Conn) *heard {
	t.Helper()
	h := &heard{}
	for _, subject := range []string{"fl.topic.>", "fl.event.>"} {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.msgs = append(h.msgs, m)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *heard) all() []*nats.Msg {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*nats.Msg(nil), h.msgs...)
}

// on returns what came on a topic: numbers, and -1 for a gap.
func (h *heard) on(topic string) (seen []int) {
	for _, m := range h.all() {
		if m.Subject != "fl.topic."+topic {
			continue
		}
		n := -1
		if m.Header.Get(wire.HeaderEvent) != wire.EventBridgeGap {
			if err := json.Unmarshal(m.Data, &n); err != nil {
				n = -2
			}
		}
		seen = append(seen, n)
	}
	return seen
}

// gaps returns the gaps that came on a subject.
func (h *heard) gaps(subject string) (all []wire.BridgeGap) {
	for _, m := range h.all() {
		if m.Subject == subject && m.Header.Get(wire.HeaderEvent) == wire.EventBridgeGap {
			var g wire.BridgeGap
			if json.Unmarshal(m.Data, &g) == nil {
				all = append(all, g)
			}
		}
	}
	return all
}

// check says what is wrong with what came on a topic, where the numbers from 0 on
// were notified in order: each may come once, in order, and what did not come
// needs a gap behind it that was announced.
func check(seen []int) error {
	last, gap := -1, false
	for _, n := range seen {
		switch {
		case n == -1:
			gap = true
			continue
		case n <= last:
			return fmt.Errorf("%d behind %d: it came twice, or out of order", n, last)
		case n != last+1 && !gap:
			return fmt.Errorf("%d behind %d, and no gap between", n, last)
		}
		last, gap = n, false
	}
	return nil
}

// lines is a log that a test reads.
type lines struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
