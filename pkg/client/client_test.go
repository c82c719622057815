package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestDialSaysHello(t *testing.T) {
	c, _ := connect(t, Options{Batch: true})
	if got := c.Welcome(); got.User != "ann" || got.Conn != "c1" || got.HeartbeatMs != 60 {
		t.Errorf("got %+v", got)
	}
	if got := c.Subprotocol(); got != Subprotocol {
		t.Errorf("subprotocol: got %q, want %q", got, Subprotocol)
	}
}

func TestRefusedUpgrade(t *testing.T) {
	f := newFake(t)
	f.refuse = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3")
		http.Error(w, "draining", http.StatusServiceUnavailable)
	}
	_, err := Dial(t.Context(), f.url, Options{})
	wantCode(t, err, wire.Unavailable)
	var e *wire.Error
	if !errors.As(err, &e) || e.RetryAfter != 3*time.Second || e.Details["status"] != 503 {
		t.Errorf("got %+v", e)
	}
}

func TestPublishIsSentByteForByteAndReceived(t *testing.T) {
	c, _ := connect(t, Options{})
	sub, err := c.Subscribe(t.Context(), "chat.a", SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := sub.Position(); got.Seq != 7 || got.Ts != 9 {
		t.Errorf("position: got %+v", got)
	}
	data := `{"b" : "<&>" , "a":1e0}`
	r, err := c.Publish(t.Context(), "chat.a", "message", []byte(data), PublishOptions{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if r != (Result{Seq: 3, Duplicate: true}) {
		t.Errorf("result: got %+v", r)
	}
	m, err := sub.Next(t.Context())
	if err != nil || string(m.Data) != data || m.Topic != "chat.a" {
		t.Errorf("got %+v %v, want %s", m, err, data)
	}
}

func TestPublishRefusesWhatIsNoJSON(t *testing.T) {
	c, _ := connect(t, Options{})
	_, err := c.Publish(t.Context(), "chat.a", "", []byte("{"), PublishOptions{})
	wantCode(t, err, wire.InvalidArgument)
}

func TestSubscribeErrors(t *testing.T) {
	c, _ := connect(t, Options{})
	_, err := c.Subscribe(t.Context(), "forbidden", SubscribeOptions{})
	wantCode(t, err, wire.PermissionDenied)
	if _, err := c.Subscribe(t.Context(), "a", SubscribeOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Subscribe(t.Context(), "a", SubscribeOptions{})
	wantCode(t, err, wire.AlreadyExists)
}

func TestPatternsTextControlAndDirect(t *testing.T) {
	c, s := connect(t, Options{})
	direct := make(chan Message, 1)
	c.Inbox(func(m Message) { direct <- m })
	sub, err := c.Subscribe(t.Context(), "chat.*", SubscribeOptions{Control: true})
	if err != nil {
		t.Fatal(err)
	}
	s.say(`[{"op":"truncated","topic":"chat.x","missingFrom":2},{"topic":"chat.x","event":"e","base64":"AAE="},{"topic":"chat.x","event":"e","text":"t"},{"topic":"chat.x","event":"d","data":1,"direct":true}]`)
	var got []string
	for range 3 {
		m, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s%q", m.Control, m.Payload()))
	}
	if want := `[truncated"" "\x00\x01" "t"]`; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if m := receive(t, direct); m.Event != "d" {
		t.Errorf("direct: got %+v", m)
	}
}

func TestUnsubscribeEndsTheSubscription(t *testing.T) {
	c, _ := connect(t, Options{})
	sub, err := c.Subscribe(t.Context(), "a", SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	messages := sub.Messages()
	if err := sub.Unsubscribe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m, ok := <-messages; ok {
		t.Errorf("got %+v after unsubscribe", m)
	}
	if err := sub.Err(); !errors.Is(err, ErrUnsubscribed) {
		t.Errorf("got %v", err)
	}
}

// A callback that never returns costs its own subscription, nobody else.
func TestSlowCallbackEndsItsSubscriptionOnly(t *testing.T) {
	c, s := connect(t, Options{})
	release := make(chan struct{})
	defer close(release)
	slow, err := c.Subscribe(t.Context(), "slow", SubscribeOptions{Queue: 2, OnMessage: func(Message) { <-release }})
	if err != nil {
		t.Fatal(err)
	}
	other, err := c.Subscribe(t.Context(), "other", SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		s.say(`{"topic":"slow","event":"e","data":1}`)
	}
	s.say(`{"topic":"other","event":"e","data":1}`)
	if _, err := other.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCode(t, slow.Err(), wire.ResourceExhausted)
	if f := s.next(t); string(f["op"]) != `"unsubscribe"` || string(f["topic"]) != `"slow"` {
		t.Errorf("got %s, want an unsubscribe of slow", f)
	}
}

func TestCallProgressAndAnswer(t *testing.T) {
	c, s := connect(t, Options{})
	go func() {
		f := <-s.seen
		s.say(fmt.Sprintf(`{"id":%s,"progress":1}`, f["id"]))
		s.say(fmt.Sprintf(`{"id":%s,"progress":2}`, f["id"]))
		s.say(fmt.Sprintf(`{"id":%s,"ok":{"n":%s}}`, f["id"], f["timeoutMs"]))
	}()
	var steps string
	a, err := c.Call(t.Context(), "m", nil, CallOptions{Timeout: 3 * time.Second, OnProgress: func(p json.RawMessage) { steps += string(p) }})
	if err != nil || string(a.Data) != `{"n":3000}` || steps != "12" {
		t.Errorf("got %s %q %v", a.Data, steps, err)
	}
}

func TestCallAnswerThatIsNoJSON(t *testing.T) {
	c, s := connect(t, Options{})
	go func() { s.say(fmt.Sprintf(`{"id":%s,"base64":"/w=="}`, (<-s.seen)["id"])) }()
	a, err := c.Call(t.Context(), "m", nil, CallOptions{})
	if err != nil || a.Data != nil || string(a.Payload()) != "\xff" {
		t.Errorf("got %+v %v", a, err)
	}
}

func TestCancelledCallTellsTheServer(t *testing.T) {
	c, s := connect(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, "m", nil, CallOptions{})
		failed <- err
	}()
	id := string(s.next(t)["id"])
	cancel()
	wantCode(t, receive(t, failed), wire.Cancelled)
	if f := s.next(t); string(f["op"]) != `"cancel"` || string(f["ref"]) != id {
		t.Errorf("got %s, want a cancel of %s", f, id)
	}
	s.say(`{"id":` + id + `,"ok":1}`) // too late: ignored
	if _, err := c.Publish(t.Context(), "a", "", 1, PublishOptions{}); err != nil {
		t.Error(err)
	}
}

func TestServe(t *testing.T) {
	c, s := connect(t, Options{})
	c.Serve("ask", func(ctx context.Context, r Request) (any, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("no deadline")
		}
		if string(r.Data) == "1" {
			return map[string]int{"a": 1}, nil
		}
		return nil, wire.Errorf(wire.NotFound, "no")
	})
	for _, test := range []struct{ request, want string }{
		{`{"op":"request","ref":"r","event":"ask","data":1,"timeoutMs":1000}`, `{"a":1}`},
		{`{"op":"request","ref":"r","event":"ask","data":2}`, `{"code":"NOT_FOUND","message":"no"}`},
		{`{"op":"request","ref":"r","event":"other","data":2}`, `{"code":"UNIMPLEMENTED","message":"the client does not serve this event"}`},
	} {
		s.say(test.request)
		f := s.next(t)
		if got := string(f["data"]) + string(f["error"]); string(f["op"]) != `"reply"` || string(f["ref"]) != `"r"` || got != test.want {
			t.Errorf("got %s, want %s", f, test.want)
		}
	}
}

func TestSystemDrainAndErrorsWithoutRequest(t *testing.T) {
	c, s := connect(t, Options{})
	system, drain, failure := make(chan SystemEvent, 1), make(chan Drain, 1), make(chan *wire.Error, 1)
	c.OnSystem(func(e SystemEvent) { system <- e })
	c.OnDrain(func(d Drain) { drain <- d })
	c.OnError(func(e *wire.Error) { failure <- e })
	s.say(`{"op":"system","event":"degraded","what":"nats","at":5}`)
	s.say(`{"op":"drain","afterMs":740}`)
	if err := c.SendFrame([]byte("{")); err != nil {
		t.Fatal(err)
	}
	if got, want := receive(t, system), (SystemEvent{"degraded", "nats", 5}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := receive(t, drain); got.After != 740*time.Millisecond {
		t.Errorf("got %+v", got)
	}
	wantCode(t, receive(t, failure), wire.InvalidArgument)
}

func TestTapShowsEveryFrame(t *testing.T) {
	c, s := connect(t, Options{Tap: true, NoHello: true})
	s.say(`[{"topic":"a","event":"e","data":1},{"op":"ping"}]`)
	first, second := receive(t, c.Frames()), receive(t, c.Frames())
	if first.Topic != "a" || second.Op != "ping" || second.Index != 1 || len(second.Message) == 0 {
		t.Errorf("got %+v %+v", first, second)
	}
}

func TestServerCloses(t *testing.T) {
	c, s := connect(t, Options{})
	sub, err := c.Subscribe(t.Context(), "a", SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.say(`{"topic":"a","event":"last","data":1}`)
	go s.ws.Close(websocket.StatusCode(wire.CloseForbidden), "banned")
	receiveClosed(t, c)
	if e := c.CloseError(); e == nil || e.Code != wire.CloseForbidden || e.Reason != "banned" || e.Local {
		t.Errorf("got %+v", e)
	}
	if m, err := sub.Next(t.Context()); err != nil || m.Event != "last" {
		t.Errorf("the last message: got %+v %v", m, err)
	}
	_, err = sub.Next(t.Context())
	wantCode(t, err, wire.PermissionDenied)
	_, err = c.Publish(t.Context(), "a", "", 1, PublishOptions{})
	wantCode(t, err, wire.PermissionDenied)
}

func receiveClosed(t *testing.T, c *Client) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("not closed")
	}
}

func TestCloseFromCallback(t *testing.T) {
	c, s := connect(t, Options{})
	c.OnDrain(func(Drain) { c.Close(wire.CloseNormal) })
	s.say(`{"op":"drain","afterMs":0}`)
	receiveClosed(t, c)
	c.Wait()
	if e := c.CloseError(); e.Code != wire.CloseNormal || !e.Local {
		t.Errorf("got %+v", e)
	}
}

func TestCloseFailsWhatWaits(t *testing.T) {
	c, s := connect(t, Options{})
	failed := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), "m", nil, CallOptions{})
		failed <- err
	}()
	s.next(t)
	c.Close(wire.CloseNormal)
	wantCode(t, receive(t, failed), wire.Unavailable)
}

func TestWatchdogClosesASilentConnection(t *testing.T) {
	c, _ := connect(t, Options{Watchdog: true}) // the fake's heartbeat is 60 ms and it never sends one
	receiveClosed(t, c)
	if e := c.CloseError(); e.Code != wire.CloseHeartbeat {
		t.Errorf("got %+v", e)
	}
}

func TestRequestSendsAnyOp(t *testing.T) {
	c, s := connect(t, Options{})
	go func() { s.say(fmt.Sprintf(`{"id":%s,"ok":{"count":2}}`, (<-s.seen)["id"])) }()
	ok, err := c.Request(t.Context(), "presence", map[string]any{"topic": "a", "limit": 3})
	if err != nil || string(ok) != `{"count":2}` {
		t.Errorf("got %s %v", ok, err)
	}
}
