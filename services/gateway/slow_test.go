package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// narrow gives the gateway sockets that take little until their peers read, and
// queues that hold little more.
func narrow(t *testing.T, queueBytes int) option {
	return func(cfg *Config, deps *Deps, _ *rules.Options) {
		cfg.Limits.OutboundBytes = queueBytes
		deps.Listener = smallBuffers{localListener(t)}
	}
}

// narrowly dials with a receive buffer that is full soon.
func narrowly(o *websocket.DialOptions) {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			err = nc.(*net.TCPConn).SetReadBuffer(4096)
		}
		return nc, err
	}
	o.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

// flood is a topic of numbered messages of 4 KiB, read by one peer as they
// come, and by another not at all.
type flood struct {
	*rig
	nc            *nats.Conn
	fast, stalled *peer
	conn          string // of the stalled one
	sent          int
}

func startFlood(t *testing.T, options ...option) *flood {
	f := &flood{rig: startGateway(t, natsdev.Test(t), append(options, narrow(t, 64<<10))...)}
	f.nc, f.fast, f.stalled = f.bus(), f.dial(), f.dial(narrowly)
	f.fast.hello("")
	f.conn, _, _ = f.stalled.hello("")
	for _, p := range []*peer{f.fast, f.stalled} {
		p.subscribe(2, "flood")
	}
	return f
}

const floodPad = 4096

// one publishes the next message, which the fast peer gets.
func (f *flood) one() {
	f.t.Helper()
	data := fmt.Sprintf(`"%d %s"`, f.sent, strings.Repeat("x", floodPad))
	tell(f.t, f.nc, "fl.topic.flood", data)
	f.fast.expect(`{"topic":"flood","event":"message","data":` + data + `}`)
	f.sent++
}

// until floods until something has happened.
func (f *flood) until(what string, ok func(outbox.Totals) bool) {
	f.t.Helper()
	for !ok(f.g.outbox.Stats()) {
		if f.sent > 20_000 {
			f.t.Fatalf("never: %s", what)
		}
		f.one()
	}
}

// numbers reads what the stalled peer gets until last came, or the connection
// ended.
func (f *flood) numbers(last int) (got []int, end error) {
	f.t.Helper()
	for len(got) == 0 || got[len(got)-1] != last {
		frame, err := f.stalled.next()
		if err != nil {
			return got, err
		}
		var m struct{ Data string }
		n := 0
		if json.Unmarshal(frame, &m) != nil || len(m.Data) < floodPad {
			f.t.Fatalf("frame %.100s, want one of the flood", frame)
		}
		if _, err := fmt.Sscan(m.Data, &n); err != nil {
			f.t.Fatal(err)
		}
		got = append(got, n)
	}
	return got, nil
}

func TestSlowConsumerIsClosed(t *testing.T) {
	f := startFlood(t)
	pressed, closed := hear(t, f.nc, "fl.event.backpressure"), hear(t, f.nc, "fl.event.connection.closed")
	f.until("slow consumer", func(s outbox.Totals) bool { return s.Slow > 0 })
	var e eventJSON
	if err := json.Unmarshal(heard(t, pressed).Data, &e); err != nil || e.Conn != f.conn || e.QueuedBytes <= 64<<10-2*floodPad || e.QueuedBytes > 64<<10+2*floodPad {
		t.Errorf("backpressure event %+v (%v), want one of %s with about 64 KiB queued", e, err, f.conn)
	}
	for range 50 {
		f.one() // the other one does not notice
	}
	// What was on its way comes whole and in order, then the close.
	got, err := f.numbers(-1)
	if code := websocket.CloseStatus(err); code != 1013 {
		t.Errorf("closed with %d (%v), want 1013", code, err)
	}
	for i, n := range got {
		if n != i {
			t.Fatalf("message %d came as number %d: %v", n, i, got)
		}
	}
	if len(got) >= f.sent {
		t.Errorf("all of %d messages came", f.sent)
	}
	if err := json.Unmarshal(heard(t, closed).Data, &e); err != nil || e.Conn != f.conn || e.Code != 1013 || e.Dropped == 0 {
		t.Errorf("closed event %+v (%v), want code 1013 and what was dropped", e, err)
	}
	f.one()
	settled(t, f.nc)
	if n, _, err := pressed.Pending(); err != nil || n != 0 {
		t.Errorf("%d more backpressure events (%v), want one in all", n, err)
	}
}

// Where the rule says so, a slow consumer stays and loses messages: the oldest,
// or all but the newest. Each one is counted.
func TestSlowConsumerStays(t *testing.T) {
	for _, c := range []struct {
		policy  string
		dropped func(outbox.Totals) uint64
	}{
		{"drop-oldest", func(s outbox.Totals) uint64 { return s.DroppedOldest }},
		{"conflate", func(s outbox.Totals) uint64 { return s.Conflated }},
	} {
		t.Run(c.policy, func(t *testing.T) {
			f := startFlood(t, withRules(`{topics: [{name: all, match: ">", subscribe: any, publish: any, slow: `+c.policy+`}]}`))
			f.until("messages are dropped", func(s outbox.Totals) bool { return c.dropped(s) > 20 })
			got, err := f.numbers(f.sent - 1)
			if err != nil {
				t.Fatalf("after %d messages: %v, want the connection to stay", len(got), err)
			}
			for i := 1; i < len(got); i++ {
				if got[i] <= got[i-1] {
					t.Fatalf("%d came behind %d", got[i], got[i-1])
				}
			}
			totals := f.g.outbox.Stats()
			if dropped := c.dropped(totals); dropped != uint64(f.sent-len(got)) || totals.DroppedDisconnect != 0 || totals.Slow != 0 {
				t.Errorf("%d of %d messages came; counted %+v", len(got), f.sent, totals.Stats)
			}
			f.one() // it has caught up, and goes on
			if got, err := f.numbers(f.sent - 1); err != nil || len(got) != 1 {
				t.Errorf("then %v, %v, want the next message", got, err)
			}
		})
	}
}
