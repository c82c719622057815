package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// askRig is an asker without the rest of a replica, which knows of nobody until
// it is told, and a connection for gateways and workers.
type askRig struct {
	t  *testing.T
	s  *Service
	a  *asker
	nc *nats.Conn

	server *natsdev.Server
}

func startAsks(t *testing.T, set ...func(*asker)) *askRig {
	t.Helper()
	server := natsdev.Test(t)
	connect := func() *nats.Conn {
		nc, err := bus.Connect(t.Context(), bus.Config{URL: server.ClientURL()}, bus.Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	r := &askRig{t: t, s: &Service{cfg: Config{Namespace: "fl"}, now: time.Now, registry: newSections(newMemory(time.Now))}, nc: connect(), server: server}
	var err error
	if r.a, err = newAsker(r.s, connect()); err != nil {
		t.Fatal(err)
	}
	for _, fn := range set {
		r.a.mu.Lock()
		fn(r.a)
		r.a.mu.Unlock()
	}
	if err := r.a.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		done, cancel := context.WithCancel(context.Background())
		cancel()
		_ = r.a.drain(done) // what the test left is not waited for
	})
	return r
}

// knows gives the registry the connections of a user, the last being the newest.
func (r *askRig) knows(user string, conns ...string) {
	v := newView()
	for i, conn := range conns {
		v.put(&stored{revision: uint64(i + 1), PresenceSection: wire.PresenceSection{
			User: user, Gateway: fmt.Sprint("gw", i), Conns: []wire.PresenceConn{{Conn: conn}},
		}}, false)
	}
	r.s.registry.mu.Lock()
	defer r.s.registry.mu.Unlock()
	r.s.registry.view = v
}

// hears subscribes as a gateway does.
func (r *askRig) hears(subject string) *nats.Subscription {
	r.t.Helper()
	sub, err := r.nc.SubscribeSync(subject)
	if err == nil {
		err = r.nc.Flush()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return sub
}

func (r *askRig) next(sub *nats.Subscription) *nats.Msg {
	r.t.Helper()
	m, err := sub.NextMsg(storePatience)
	if err != nil {
		r.t.Fatalf("%s: %v", sub.Subject, err)
	}
	return m
}

// ask sends an ask whose answer comes to the returned subscription.
func (r *askRig) ask(user, data string, headers ...string) *nats.Subscription {
	r.t.Helper()
	msg := &nats.Msg{Subject: "fl.ask." + user, Reply: r.nc.NewInbox(), Data: []byte(data), Header: nats.Header{}}
	for i := 0; i+1 < len(headers); i += 2 {
		msg.Header[headers[i]] = []string{headers[i+1]}
	}
	sub := r.hears(msg.Reply)
	if err := r.nc.PublishMsg(msg); err != nil {
		r.t.Fatal(err)
	}
	return sub
}

// fails expects the answer to be an error.
func (r *askRig) fails(sub *nats.Subscription, code wire.Code) *nats.Msg {
	r.t.Helper()
	m := r.next(sub)
	if got := m.Header.Get(wire.HeaderErrorCode); got != string(code) {
		r.t.Fatalf("got %s %q, want %s", got, m.Data, code)
	}
	return m
}

func (r *askRig) respond(m *nats.Msg, data string) {
	r.t.Helper()
	if err := m.Respond([]byte(data)); err != nil {
		r.t.Fatal(err)
	}
}

// eventually polls what another goroutine makes true.
func (r *askRig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(storePatience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("never: %s", what)
		}
	}
}

// A connection is asked what the asker asked, in the replica's own name, and the
// answer passed on as it is.
func TestAskPassesOn(t *testing.T) {
	r := startAsks(t)
	r.knows("ann", "c1")
	conn := r.hears("fl.conn.c1")
	got := r.ask("ann", " raw\xff", "fl-event", "confirm", "traceparent", "00-aa-bb-01", "X-Other", "x", "Fl-User", "root")
	m := r.next(conn)
	if string(m.Data) != " raw\xff" || m.Header.Get("Fl-Event") != "confirm" || m.Header.Get("traceparent") != "00-aa-bb-01" ||
		m.Header.Get("X-Other") != "" || m.Header.Get("Fl-User") != "" || m.Header.Get("Fl-Target") != "ann" || m.Header.Get("Fl-Deadline") == "" || m.Reply == got.Subject {
		t.Errorf("the connection is asked %q %v %s", m.Data, m.Header, m.Reply)
	}
	if err := m.RespondMsg(&nats.Msg{Data: []byte("{ \"a\":\t1}"), Header: nats.Header{"X-Other": {"x"}}}); err != nil {
		t.Fatal(err)
	}
	if m := r.next(got); string(m.Data) != "{ \"a\":\t1}" || len(m.Header) != 0 {
		t.Errorf("the answer is %q %v", m.Data, m.Header)
	}
	// An error of a kind that nobody knows, from a newer gateway, say.
	got = r.ask("ann", "")
	m = r.next(conn)
	headers := nats.Header{wire.HeaderErrorCode: {"NEW_CODE"}, wire.HeaderError: {"why"}, wire.HeaderClient: {"1"}}
	if err := m.RespondMsg(&nats.Msg{Data: []byte(`{"retryAfterMs":7}`), Header: headers}); err != nil {
		t.Fatal(err)
	}
	if m := r.next(got); string(m.Data) != `{"retryAfterMs":7}` || m.Header.Get(wire.HeaderErrorCode) != "NEW_CODE" || m.Header.Get(wire.HeaderError) != "why" || m.Header.Get(wire.HeaderClient) != "1" {
		t.Errorf("the error is %q %v", m.Data, m.Header)
	}
}

// A gateway that has the subject and not the connection says what NATS says, and
// the next is asked; one reply to an ask counts, to the one that it was.
func TestAskGoesOnWhereNobodyIs(t *testing.T) {
	r := startAsks(t)
	r.knows("ann", "c1", "gone", "c3")
	c1, c3 := r.hears("fl.conn.c1"), r.hears("fl.conn.c3")
	got := r.ask("ann", "1")
	first := r.next(c3)
	gone := &nats.Msg{Header: nats.Header{"Status": {"503"}}}
	wire.ErrorHeader(gone.Header, wire.Errorf(wire.NotFound, "no such connection"))
	for range 2 { // again: it must not end what comes next
		if err := first.RespondMsg(gone); err != nil {
			t.Fatal(err)
		}
	}
	second := r.next(c1)
	r.respond(first, `"c3, after all"`)
	r.respond(second, `"c1"`)
	r.respond(second, `"again"`)
	if m := r.next(got); string(m.Data) != `"c1"` {
		t.Errorf("got %q", m.Data)
	}
	r.eventually("both are counted as late", func() bool { return r.a.figures.late.Load() == 2 })
	if n, _, err := got.Pending(); n != 0 || err != nil {
		t.Errorf("%d more answers (%v)", n, err)
	}
}

// Without a view the gateways are asked; a probe that one swallows is sent again.
func TestAskWithoutARegistry(t *testing.T) {
	r := startAsks(t)
	user, c1, c2 := r.hears("fl.user.ann"), r.hears("fl.conn.c1"), r.hears("fl.conn.c2")
	got := r.ask("ann", "1")
	r.next(user) // swallowed
	probe := r.next(user)
	if probe.Header.Get("Fl-Probe") != "1" || len(probe.Data) != 0 {
		t.Errorf("the probe is %q %v", probe.Data, probe.Header)
	}
	r.respond(probe, `no JSON`)
	r.respond(probe, `{"connections":[]}`)
	r.respond(probe, `{"connections":[{"conn":"c1","order":5,"since":1}]}`)
	r.respond(probe, `{"connections":[{"conn":"c2","order":6,"since":1}]}`) // of another gateway
	r.respond(r.next(c2), `2`)
	if m := r.next(got); string(m.Data) != `2` {
		t.Errorf("got %q", m.Data)
	}
	if n, _, err := c1.Pending(); n != 0 || err != nil {
		t.Errorf("the older one was asked too (%v)", err)
	}
	r.fails(r.ask("bob", "1"), wire.NotFound)
	if r.a.size() != 0 {
		t.Errorf("%d asks are left", r.a.size())
	}
}

// One replica has so many asks under way, and bytes of them; who is over is told
// when to come again.
func TestAsksAreBounded(t *testing.T) {
	r := startAsks(t, func(a *asker) { a.most, a.mostBytes = 3, 1000 })
	r.knows("ann", "c1")
	conn := r.hears("fl.conn.c1")
	full := func(sub *nats.Subscription) {
		t.Helper()
		if m := r.fails(sub, wire.ResourceExhausted); string(m.Data) != `{"retryAfterMs":500}` {
			t.Errorf("got %s", m.Data)
		}
	}
	var asks []*nats.Subscription
	var asked []*nats.Msg
	for range 3 {
		asks = append(asks, r.ask("ann", "1"))
		asked = append(asked, r.next(conn))
	}
	full(r.ask("ann", "1"))
	full(r.ask("bob", "1"))
	r.respond(asked[0], "1")
	r.next(asks[0])
	large := r.ask("ann", strings.Repeat("x", 998))
	last := r.next(conn)
	for i, m := range append(asked[1:], last) {
		r.respond(m, "1")
		r.next(append(asks[1:], large)[i])
	}
	large = r.ask("ann", strings.Repeat("x", 600))
	last = r.next(conn)
	full(r.ask("ann", strings.Repeat("x", 401)))
	r.respond(last, "1")
	r.next(large)
	if r.a.figures.refused.Load() != 3 || r.a.size() != 0 || r.a.bytes != 0 {
		t.Errorf("%d refused, %d left with %d bytes", r.a.figures.refused.Load(), r.a.size(), r.a.bytes)
	}
}

// With the headers that an ask is given on its way it may be more than NATS takes.
func TestAskThatIsTooLarge(t *testing.T) {
	r := startAsks(t)
	r.knows("ann", "c1")
	conn := r.hears("fl.conn.c1")
	inbox := r.nc.NewInbox()
	got := r.hears(inbox)
	if err := r.nc.PublishRequest("fl.ask.ann", inbox, make([]byte, r.nc.MaxPayload())); err != nil {
		t.Fatal(err)
	}
	r.fails(got, wire.InvalidArgument)
	if n, _, err := conn.Pending(); n != 0 || err != nil || r.a.size() != 0 {
		t.Errorf("%d messages for the connection (%v), %d asks left", n, err, r.a.size())
	}
}

// What has a reply subject that may not be answered, or none, is counted and not
// looked at.
func TestAsksWithoutAReplySubject(t *testing.T) {
	r := startAsks(t)
	r.knows("ann", "c1")
	all := r.hears(">")
	forged := []string{"", "fl.topic.a", "$JS.API.STREAM.PURGE.KEEP", "fl.ask.ann", "_INBOXES.x"}
	for _, reply := range forged {
		for _, user := range []string{"ann", "bob", "=0A"} {
			if err := r.nc.PublishMsg(&nats.Msg{Subject: "fl.ask." + user, Reply: reply}); err != nil {
				t.Fatal(err)
			}
			r.next(all) // itself
		}
	}
	want := int64(3 * len(forged))
	r.eventually("all are counted", func() bool { return r.a.figures.dropped.Load() == want })
	if n, _, err := all.Pending(); n != 0 || err != nil {
		t.Errorf("%d messages besides (%v)", n, err)
	}
}

// A replica that goes takes no more asks and waits for those that it has; when
// that is too long it tells who asked.
func TestAsksDrain(t *testing.T) {
	r := startAsks(t)
	r.knows("ann", "c1")
	conn := r.hears("fl.conn.c1")
	one, two := r.ask("ann", "1"), r.ask("ann", "2")
	first := r.next(conn)
	r.next(conn)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	drained := make(chan error, 1)
	go func() { drained <- r.a.drain(ctx) }()
	r.eventually("nobody listens to asks", func() bool {
		_, err := r.nc.Request("fl.ask.nobody", nil, storePatience)
		return errors.Is(err, nats.ErrNoResponders)
	})
	r.respond(first, `"in time"`)
	if m := r.next(one); string(m.Data) != `"in time"` {
		t.Errorf("got %q", m.Data)
	}
	select { // what was on its way is taken
	case <-r.a.closed:
	case <-time.After(storePatience):
		t.Fatal("the subscription does not end")
	}
	select {
	case err := <-drained:
		t.Fatalf("it did not wait for the second (%v)", err)
	default:
	}
	stop()
	r.fails(two, wire.Unavailable)
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// Asks are counted by what came of them, and how long that took is measured.
func TestAskFigures(t *testing.T) {
	r := startAsks(t)
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	ignore := func(string, string, func() int64) {}
	if err := r.a.observe(provider.Meter("test"), ignore, ignore); err != nil {
		t.Fatal(err)
	}
	r.knows("ann", "c1")
	conn := r.hears("fl.conn.c1")
	got := r.ask("ann", "1")
	r.respond(r.next(conn), "1")
	r.next(got)
	r.fails(r.ask("ann", "1", "Fl-Deadline", "1"), wire.DeadlineExceeded)
	r.fails(r.ask("bob", "1"), wire.NotFound)
	r.fails(r.ask("=0A", "1"), wire.InvalidArgument)
	var collected metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &collected); err != nil {
		t.Fatal(err)
	}
	counts, samples := map[string]int64{}, map[string]uint64{}
	result := func(set attribute.Set) string {
		v, _ := set.Value("result")
		return v.AsString()
	}
	for _, m := range collected.ScopeMetrics[0].Metrics {
		switch d := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range d.DataPoints {
				counts[result(p.Attributes)] = p.Value
			}
		case metricdata.Histogram[float64]:
			for _, p := range d.DataPoints {
				samples[result(p.Attributes)] = p.Count
			}
		}
	}
	as := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got, want := as(counts), `{"error":0,"invalid":1,"offline":1,"ok":1,"refused":0,"timeout":1}`; got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
	if got, want := as(samples), `{"offline":1,"ok":1,"timeout":1}`; got != want {
		t.Errorf("measured %s, want %s", got, want)
	}
}

// A connection of which a gateway has just told is the newest, though the
// registry does not know of it; what is no such word is ignored.
func TestAskOfAConnectionThatHasJustCome(t *testing.T) {
	r := startAsks(t)
	r.knows("ann", "c1", "c2")
	conns := map[string]*nats.Subscription{}
	for _, conn := range []string{"c1", "c2", "c3", "c4"} {
		conns[conn] = r.hears("fl.conn." + conn)
	}
	opened := func(body string) {
		t.Helper()
		if err := r.nc.Publish("fl.event.connection.opened", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	for _, body := range []string{``, `[]`, `{"user":"ann"}`, `{"conn":"c4"}`, `{"conn":"c4","user":" "}`, `{"conn":"c4","user":"bob"}`} {
		opened(body)
	}
	opened(`{"at":1,"conn":"c1","user":"ann"}`) // an old one: the registry says which is newer
	got := r.ask("ann", "1")
	r.respond(r.next(conns["c2"]), "2")
	r.next(got)
	opened(`{"at":1,"conn":"c3","user":"ann"}`)
	r.eventually("it is heard", func() bool { return fmt.Sprint(r.a.recent.ahead("ann", nil, time.Now())) == "[c3]" })
	got = r.ask("ann", "1")
	r.respond(r.next(conns["c3"]), "3")
	if m := r.next(got); string(m.Data) != "3" {
		t.Errorf("got %q", m.Data)
	}
}
