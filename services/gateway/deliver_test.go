package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// What a backend publishes arrives as it is, whatever it is and whatever its
// headers say.
func TestDeliver(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p, nc := r.dial(), r.bus()
	conn, _, _ := p.hello("")
	p.subscribe(2, "d.x")
	for _, c := range []struct {
		name   string
		header nats.Header
		data   string
		want   string
	}{
		{"json", nil, `{"a":[1,2]}`, `"event":"message","data":{"a":[1,2]}`},
		{"odd json", nil, " {\"a\" :\t1e400, \"a\":\"\\u00e9\"} ", "\"event\":\"message\",\"data\": {\"a\" :\t1e400, \"a\":\"\\u00e9\"} "},
		{"text", nil, "plain \"text\"\n", `"event":"message","text":"plain \"text\"\n"`},
		{"bytes", nil, "\xff\x00", `"event":"message","base64":"/wA="`},
		{"nothing", nil, "", `"event":"message","data":null`},
		{"event", nats.Header{"Fl-Event": {"moved"}}, "1", `"event":"moved","data":1`},
		{"event in lower case", nats.Header{"fl-event": {"moved"}}, "1", `"event":"moved","data":1`},
		{"the last event counts", nats.Header{"Fl-Event": {"first", "last"}}, "1", `"event":"last","data":1`},
		{"event with a quote", nats.Header{"Fl-Event": {`x","from":"root`}}, "1", `"event":"message","data":1`},
		{"from", nats.Header{"Fl-User": {"ann"}}, "1", `"event":"message","data":1,"from":"ann"`},
		{"from with a quote", nats.Header{"Fl-User": {`a"b`}}, "1", `"event":"message","data":1,"from":"a\"b"`},
		{"somebody else excluded", nats.Header{"Fl-Exclude": {"somebody"}}, "1", `"event":"message","data":1`},
		{"forged JetStream headers", nats.Header{
			"Nats-Sequence": {"7"}, "Nats-Last-Sequence": {"6"}, "Nats-Stream": {"X"}, "Nats-Time-Stamp": {"x"},
			"Nats-Service-Error-Code": {"INTERNAL"}, "Nats-Service-Error": {"forged"}, "Nats-Msg-Id": {"1"}, "Status": {"503"},
		}, "1", `"event":"message","data":1`},
	} {
		excluded := &nats.Msg{Subject: "fl.topic.d.x", Header: nats.Header{"Fl-Exclude": {conn}}, Data: []byte("excluded")}
		msg := &nats.Msg{Subject: "fl.topic.d.x", Header: c.header, Data: []byte(c.data)}
		for _, m := range []*nats.Msg{excluded, msg} {
			if err := nc.PublishMsg(m); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := p.read(), `{"topic":"d.x",`+c.want+`}`; got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, want)
		}
	}
	if got := r.g.metrics.malformed.Load(); got != 0 {
		t.Errorf("got %d messages counted as malformed, want 0", got)
	}
}

// Who was excluded gets nothing, everybody else does.
func TestExclude(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	a, b, nc := r.dial(), r.dial(), r.bus()
	conn, _, _ := a.hello("")
	b.hello("")
	a.subscribe(2, "d.x")
	b.subscribe(2, "d.>")
	for _, m := range []*nats.Msg{
		{Subject: "fl.topic.d.x", Header: nats.Header{"Fl-Exclude": {conn}}, Data: []byte("1")},
		{Subject: "fl.topic.d.x", Data: []byte("2")},
	} {
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	a.expect(`{"topic":"d.x","event":"message","data":2}`)
	b.expect(`{"topic":"d.x","event":"message","data":1}`)
	b.expect(`{"topic":"d.x","event":"message","data":2}`)
}

// Subjects that are no topics reach nobody through a wildcard.
func TestMalformedSubjects(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p, nc := r.dial(), r.bus()
	p.hello("")
	p.subscribe(2, "d.>")
	bad := []string{"fl.topic.d." + strings.Repeat("x", 300), "fl.topic.d.a\u200bb", "fl.topic.d.\xff", "fl.topic.d.e\u0301"}
	for _, subject := range append(bad, "fl.topic.d.ok") {
		if err := nc.Publish(subject, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	p.expect(`{"topic":"d.ok","event":"message","data":1}`)
	if got, want := r.g.metrics.malformed.Load(), int64(len(bad)); got != want {
		t.Errorf("got %d messages counted as malformed, want %d", got, want)
	}
}

// audience is n open connections that listen to one interest, without NATS and
// without anything that runs by itself: what a delivery costs stands out.
type audience struct {
	g       *Service
	in      *interest
	sockets []net.Conn // the other ends
}

// narrow: the sockets take little until their peers read.
func newAudience(tb testing.TB, n, queueBytes int, narrow bool) *audience {
	tb.Helper()
	a := &audience{
		g:  &Service{cfg: Config{Namespace: "fl"}},
		in: &interest{kind: kindTopic, subject: "fl.topic.bench", topic: "bench"},
	}
	a.in.source.Store(&outbox.Source{Policy: outbox.DropOldest})
	a.g.outbox = outbox.New(outbox.Config{QueueBytes: queueBytes, Heartbeat: time.Hour})
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- a.g.outbox.Run(ctx) }()
	joined := make(chan error, n)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &connection{g: a.g, id: newID()}
		var err error
		if c.out, err = a.g.outbox.Upgrade(w, r, outbox.UpgradeOptions{Subprotocols: []string{Subprotocol}, Owner: c}); err == nil {
			a.in.join(c, nil)
		}
		joined <- err
	}))
	if narrow {
		server.Listener = smallBuffers{server.Listener}
	}
	server.Start()
	tb.Cleanup(func() {
		for _, socket := range a.sockets {
			socket.Close()
		}
		server.Close()
		stop()
		if err := <-stopped; err != nil {
			tb.Error(err)
		}
	})
	for range n {
		socket, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			tb.Fatal(err)
		}
		a.sockets = append(a.sockets, socket)
		if narrow {
			if err := socket.(*net.TCPConn).SetReadBuffer(4096); err != nil {
				tb.Fatal(err)
			}
		}
		if _, err = io.WriteString(socket, "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: "+Subprotocol+"\r\n\r\n"); err != nil {
			tb.Fatal(err)
		}
		if err := <-joined; err != nil {
			tb.Fatal(err)
		}
	}
	return a
}

// smallBuffers has the connections it accepts send through small buffers.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(4096)
	}
	return c, err
}

var fanoutMessage = &nats.Msg{
	Subject: "fl.topic.bench", Data: []byte(`"` + strings.Repeat("x", 512) + `"`),
	Header: nats.Header{"Fl-Event": {"moved"}, "Fl-User": {"ann"}, "Fl-Conn": {"c"}},
}

// A message is encoded once: what delivering it allocates does not depend on
// how many listen. The peers take nothing, so that the messages only go into
// their queues and nothing else runs while it is measured.
func TestDeliverAllocations(t *testing.T) {
	measure := func(subscribers int) float64 {
		a := newAudience(t, subscribers, 8192, true)
		still, written := 0, uint64(0)
		eventually(t, "the sockets are full", func() bool {
			for range 50 { // the queues find their size, too
				a.g.deliverTopic(a.in, fanoutMessage)
			}
			now := a.g.outbox.Stats()
			if still++; now.Blocked < subscribers || now.BytesOut != written {
				still, written = 0, now.BytesOut
			}
			return still == 20
		})
		before := a.g.metrics.deliveries.Load()
		allocs := testing.AllocsPerRun(1000, func() { a.g.deliverTopic(a.in, fanoutMessage) })
		if got, want := a.g.metrics.deliveries.Load()-before, int64(1001*subscribers); got != want {
			t.Errorf("got %d deliveries, want %d", got, want)
		}
		return allocs
	}
	one, hundred := measure(1), measure(100)
	if one != hundred {
		t.Errorf("got %v allocations for 100 subscribers, want as many as for one: %v", hundred, one)
	}
	if one > 2 {
		t.Errorf("got %v allocations per message, want at most 2", one)
	}
}

// BenchmarkDeliver is one message for so many sockets, to its last byte.
func BenchmarkDeliver(b *testing.B) {
	for _, subscribers := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("subscribers=%d", subscribers), func(b *testing.B) {
			a := newAudience(b, subscribers, 1<<20, false)
			var readers sync.WaitGroup
			for _, socket := range a.sockets {
				readers.Go(func() { _, _ = io.Copy(io.Discard, socket) }) // until it is closed
			}
			b.Cleanup(func() {
				for _, socket := range a.sockets {
					socket.Close()
				}
				readers.Wait()
			})
			deliver := func() {
				a.g.deliverTopic(a.in, fanoutMessage)
				a.in.each(func(c *connection) {
					for !c.out.Idle() {
						runtime.Gosched()
					}
				})
			}
			for range 100 {
				deliver() // the pools fill
			}
			b.ReportAllocs()
			for b.Loop() {
				deliver()
			}
		})
	}
}
