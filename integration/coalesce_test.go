package integration

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
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	laggardBytes = 512 << 10 // bound of its queue
	valueBytes   = 8 << 10
	values       = 1000 // of each key: together sixteen times the bound
)

// laggard is a client that reads only when it is told to.
type laggard struct {
	*peer
	user, conn string
}

// newLaggard connects with a small buffer and subscribes to topics.
func newLaggard(t *testing.T, url, user string, topics ...string) *laggard {
	t.Helper()
	dialer := func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			err = nc.(*net.TCPConn).SetReadBuffer(128 << 10)
		}
		return nc, err
	}
	ws, _, err := websocket.Dial(within(t), url, &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: &http.Transport{DialContext: dialer, DisableKeepAlives: true}},
		Subprotocols: []string{"fairlead.v1"},
	})
	must(t, err)
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	l := &laggard{peer: &peer{t, ws}, user: user}
	l.send(`{"op":"hello","id":1,"token":"` + token(user, nil) + `"}`)
	var hello struct{ OK struct{ Conn string } }
	must(t, json.Unmarshal([]byte(l.read()), &hello))
	l.conn = hello.OK.Conn
	for i, topic := range topics {
		l.send(fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":%q}`, i+2, topic))
		if got := l.read(); !strings.Contains(got, `"ok"`) {
			t.Fatalf("subscribe %s: %s", topic, got)
		}
	}
	return l
}

// clog sends until the laggard's gateway can write no more. What waits then is
// one message: they have a key.
func (l *laggard) clog(worker *nats.Conn, admin string) {
	l.t.Helper()
	const name = "fairlead_gateway_connections_blocked"
	n := 0
	eventually(l.t, "the connection is blocked", func() (any, bool) {
		for range 8 {
			n++
			tell(l.t, worker, "fl.conn."+l.conn, "plug", value("plug", n, 64<<10), "Fl-Coalesce", "plug")
		}
		flush(l.t, worker)
		blocked := metric(l.t, admin, name)
		return blocked, blocked == 1
	})
}

// tell publishes an event with more headers, given as names and values.
func tell(t *testing.T, nc *nats.Conn, subject, event, data string, headers ...string) {
	t.Helper()
	msg := nats.NewMsg(subject)
	msg.Header.Set("Fl-Event", event)
	for i := 0; i < len(headers); i += 2 {
		msg.Header.Set(headers[i], headers[i+1])
	}
	msg.Data = []byte(data)
	must(t, nc.PublishMsg(msg))
}

// value is the n-th value of a key, padded to size bytes.
func value(key string, n, size int) string {
	head := fmt.Sprintf(`{"key":%q,"n":%d,"pad":"`, key, n)
	return head + strings.Repeat("x", max(0, size-len(head)-2)) + `"}`
}

// arrived is what a laggard read: per key the values, per event the others.
type arrived struct {
	values map[string][]int
	others map[string][]int
	order  []string // keys and events, as they came
}

// catchUp reads until each of these events has come with number -1.
func (l *laggard) catchUp(last ...string) arrived {
	l.t.Helper()
	a := arrived{values: map[string][]int{}, others: map[string][]int{}}
	for missing := len(last); missing > 0; {
		frames, err := wire.DecodeServer([]byte(l.read()))
		must(l.t, err)
		for _, f := range frames {
			if f.Op == "ping" {
				continue
			}
			var v struct {
				Key string
				N   int
			}
			must(l.t, json.Unmarshal(f.Data, &v))
			switch {
			case v.N == -1:
				missing--
			case v.Key != "":
				if all := a.values[v.Key]; len(all) > 0 && all[len(all)-1] >= v.N {
					l.t.Fatalf("key %s: %d came after %d", v.Key, v.N, all[len(all)-1])
				}
				a.values[v.Key] = append(a.values[v.Key], v.N)
				a.order = append(a.order, v.Key)
			default:
				a.others[f.Event] = append(a.others[f.Event], v.N)
				a.order = append(a.order, fmt.Sprint(f.Event, v.N))
			}
		}
	}
	return a
}

// coalescing starts a gateway with a bound of laggardBytes, and another one.
func coalescing(t *testing.T) (s *stack, admin string) {
	t.Helper()
	s = newStack(t, 0)
	admin = "127.0.0.1:" + freePort(t)
	rules := "FAIRLEAD_TOPICS_FILE=" + rulesFile(t, openRules)
	s.add(rules, fmt.Sprintf("FAIRLEAD_LIMIT_OUTBOUND_BYTES=%d", laggardBytes), "FAIRLEAD_ADMIN_ADDR="+admin)
	s.add(rules)
	return s, admin
}

// A client reads nothing while a thousand values of each of three keys come by
// three ways, far more than may wait for it. It stays connected, and when it
// reads again it gets the last of each at the place where the first stood, and
// everything else, in order.
func TestAStalledReaderGetsTheLatestOfEachKey(t *testing.T) {
	t.Parallel()
	s, admin := coalescing(t)
	worker := s.worker()
	topic := unique("load")
	l := newLaggard(t, s.url(0), "laggard", topic)
	fast := subscribe(t, s.as(1, "fast"), topic)
	l.clog(worker, admin)

	const counter = "fairlead_gateway_coalesced_messages_total"
	ways := map[string]string{"topic": "fl.topic." + topic, "user": "fl.user." + l.user, "conn": "fl.conn." + l.conn}
	last := map[string]int{}
	before := metric(t, admin, counter)
	for n := range values {
		for key, subject := range ways {
			tell(t, worker, subject, "load", value(key, n, valueBytes), "Fl-Coalesce", key)
			if n%50 == 0 { // others, some with keys of their own
				tell(t, worker, subject, "plain-"+key, fmt.Sprintf(`{"n":%d}`, n))
				name := fmt.Sprintf("%s/%d", key, n%100)
				tell(t, worker, subject, "load", value(name, n, 100), "Fl-Coalesce", name)
				last[name] = n
			}
			last[key] = n
		}
	}
	for key, subject := range ways {
		tell(t, worker, subject, "end-"+key, `{"n":-1}`)
	}
	flush(t, worker)
	// What was replaced is all but the first of each key.
	want := len(ways)*(values-1) + len(ways)*(values/50-2)
	eventually(t, fmt.Sprintf("%d messages are replaced", want), func() (any, bool) {
		got := metric(t, admin, counter) - before
		return got, got >= want
	})
	for { // a reader that keeps up gets the last too, on another gateway
		var v struct{ N int }
		if m := next(t, fast); m.Event == "load" {
			must(t, json.Unmarshal(m.Data, &v))
		}
		if v.N == values-1 {
			break
		}
	}

	a := l.catchUp("end-topic", "end-user", "end-conn")
	for key, n := range last {
		all := a.values[key]
		if len(all) == 0 || all[len(all)-1] != n || len(all) > 3 {
			t.Errorf("key %s: got %v, want %d and little before it", key, all, n)
		}
	}
	for key := range ways {
		if got, want := fmt.Sprint(a.others["plain-"+key]), fmt.Sprint(every(50, values)); got != want {
			t.Errorf("without a key, by %s: got %s, want %s", key, got, want)
		}
		first := strings.Index(strings.Join(a.order, " "), fmt.Sprintf("plain-%s0", key))
		if at := strings.Index(strings.Join(a.order, " "), key+" "); at < 0 || at > first {
			t.Errorf("key %s did not keep its place: %v", key, a.order)
		}
	}
	l.send(`{"op":"unsubscribe","id":99,"topic":"none"}`)
	if got := l.read(); !strings.Contains(got, `"id":99`) {
		t.Errorf("afterwards: got %s", got)
	}
	if got := metric(t, admin, "fairlead_gateway_slow_connections_total"); got != 0 {
		t.Errorf("%d connections were closed as slow", got)
	}
}

// every returns the multiples of step below end.
func every(step, end int) (all []int) {
	for n := 0; n < end; n += step {
		all = append(all, n)
	}
	return all
}

// The same load without the header, or with one that is no key, closes the
// connection.
func TestTheSameLoadWithoutAKeyDisconnects(t *testing.T) {
	t.Parallel()
	const slow = "fairlead_gateway_slow_connections_total"
	s, admin := coalescing(t)
	worker := s.worker()
	for name, headers := range map[string][]string{"without": nil, "too long": {"Fl-Coalesce", strings.Repeat("k", 129)}} {
		topic := "" // another for each: what is on its way to one must not reach the next
		for way, subject := range map[string]func(*laggard) string{
			"topic": func(*laggard) string { return "fl.topic." + topic },
			"user":  func(l *laggard) string { return "fl.user." + l.user },
			"conn":  func(l *laggard) string { return "fl.conn." + l.conn },
		} {
			topic = unique("load")
			l := newLaggard(t, s.url(0), "laggard", topic)
			l.clog(worker, admin)
			// Told until it is given up and no longer: its time to take the close is bounded.
			before := metric(t, admin, slow)
			for n := 0; n < values && metric(t, admin, slow) == before; n += 50 {
				for i := range 50 {
					tell(t, worker, subject(l), "load", value("k", n+i, valueBytes), headers...)
				}
				flush(t, worker)
			}
			if code := drainUntilClosed(l.ws); code != 1013 {
				t.Errorf("%s, by %s: got close %d, want 1013", name, way, code)
			}
			eventually(t, "the connection is gone", func() (any, bool) {
				n := metric(t, admin, "fairlead_gateway_connections_open")
				return n, n == 0
			})
		}
	}
}

// On a topic that is kept, every message is delivered.
func TestAReplayedTopicCoalescesNothing(t *testing.T) {
	t.Parallel()
	const messages = 200
	admin := "127.0.0.1:" + freePort(t)
	rules := rulesFile(t, fmt.Sprintf(replayedRules, 1000))
	s := &stack{t: t, nats: natsdev.Test(t).ClientURL()}
	startReplay(t, s.nats, rules)
	s.add("FAIRLEAD_TOPICS_FILE="+rules, "FAIRLEAD_ADMIN_ADDR="+admin)
	worker := s.worker()
	topic := unique("chat")
	l := newLaggard(t, s.url(0), "laggard", topic)
	l.clog(worker, admin)
	for n := range messages {
		tell(t, worker, "fl.topic."+topic, "load", value("k", n, 1000), "Fl-Coalesce", "k")
	}
	tell(t, worker, "fl.topic."+topic, "end", `{"n":-1}`)
	flush(t, worker)
	eventually(t, "all are queued", func() (any, bool) {
		n := metric(t, admin, "fairlead_gateway_queued_out_bytes")
		return n, n > messages*1000
	})
	a := l.catchUp("end")
	if got, want := fmt.Sprint(a.values["k"]), fmt.Sprint(every(1, messages)); got != want {
		t.Errorf("got %s, want all", got)
	}
}

// Keys of groups: published by whoever may publish for the presence service.
func TestKeysOnAGroup(t *testing.T) {
	t.Parallel()
	admin := "127.0.0.1:" + freePort(t)
	s, _ := presenceStack(t, 0, 1)
	s.add("FAIRLEAD_TOPICS_FILE="+rulesFile(t, presenceRules), "FAIRLEAD_GATEWAY_LEASE="+testLease.String(), "FAIRLEAD_ADMIN_ADDR="+admin)
	worker := s.worker()
	l := newLaggard(t, s.url(0), "laggard")
	l.send(`{"op":"group.join","id":50,"group":"g"}`)
	for {
		frames, err := wire.DecodeServer([]byte(l.read()))
		must(t, err)
		if frames[0].ID == 50 {
			break
		}
	}
	l.clog(worker, admin)
	for n := range values {
		tell(t, worker, "fl.group.g", "load", value("k", n, 100), "Fl-Coalesce", "k")
	}
	tell(t, worker, "fl.group.g", "end", `{"n":-1}`)
	flush(t, worker)
	eventually(t, "they are replaced", func() (any, bool) {
		n := metric(t, admin, "fairlead_gateway_coalesced_messages_total")
		return n, n >= values-1
	})
	a := l.catchUp("end")
	if all := a.values["k"]; len(all) == 0 || len(all) > 3 || all[len(all)-1] != values-1 {
		t.Errorf("got %v, want %d and little before it", all, values-1)
	}
}

// A reader that keeps up never sees an older value after a newer one, whoever
// else publishes under other keys.
func TestKeysAtAReaderThatKeepsUp(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	worker := s.worker()
	topic := unique("load")
	subs := []*client.Subscription{subscribe(t, s.as(0, "ann"), topic), subscribe(t, s.as(1, "bob"), topic)}
	for n := range values {
		for _, key := range []string{"a", "b"} {
			tell(t, worker, "fl.topic."+topic, "load", value(key, n, 0), "Fl-Coalesce", key)
		}
	}
	flush(t, worker)
	for _, sub := range subs {
		last := map[string]int{"a": -1, "b": -1}
		for last["a"] < values-1 || last["b"] < values-1 {
			var v struct {
				Key string
				N   int
			}
			must(t, json.Unmarshal(next(t, sub).Data, &v))
			if v.N <= last[v.Key] {
				t.Fatalf("key %s: %d after %d", v.Key, v.N, last[v.Key])
			}
			last[v.Key] = v.N
		}
	}
}
