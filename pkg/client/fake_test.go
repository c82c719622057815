package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, f := range natsdev.Lingering() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(f))
	}
	goleak.VerifyTestMain(m, ignored...)
}

// fake is the least of a gateway: it answers hello, subscribe, unsubscribe and
// publish by the protocol, echoes calls, and says what a test tells it to.
type fake struct {
	url  string
	conn chan *fakeConn // each connection that was accepted
	// refuse answers the upgrade in place of the WebSocket.
	refuse http.HandlerFunc
}

type fakeConn struct {
	ws   *websocket.Conn
	seen chan map[string]json.RawMessage // frames that the fake does not answer itself
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{conn: make(chan *fakeConn, 4)}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.refuse != nil {
			f.refuse(w, r)
			return
		}
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{Subprotocol}})
		if err != nil {
			return
		}
		c := &fakeConn{ws: ws, seen: make(chan map[string]json.RawMessage, 1000)}
		f.conn <- c
		c.serve()
	}))
	t.Cleanup(srv.Close)
	f.url = "ws" + strings.TrimPrefix(srv.URL, "http")
	return f
}

func (c *fakeConn) serve() {
	defer c.ws.CloseNow()
	for {
		_, message, err := c.ws.Read(context.Background())
		if err != nil {
			return
		}
		var f map[string]json.RawMessage
		if json.Unmarshal(message, &f) != nil {
			c.say(`{"id":0,"error":{"code":"INVALID_ARGUMENT","message":"a frame is JSON"}}`)
			continue
		}
		var op, topic string
		_ = json.Unmarshal(f["op"], &op)
		_ = json.Unmarshal(f["topic"], &topic)
		switch {
		case op == "hello":
			c.say(fmt.Sprintf(`{"id":%s,"ok":{"conn":"c1","user":"ann","session":"s","gateway":"g","heartbeatMs":60,"maxPayloadBytes":1000}}`, f["id"]))
		case op == "subscribe" && topic == "forbidden":
			c.say(fmt.Sprintf(`{"id":%s,"error":{"code":"PERMISSION_DENIED","message":"no","details":{"topic":"forbidden"}}}`, f["id"]))
		case op == "subscribe":
			c.say(fmt.Sprintf(`{"id":%s,"ok":{"topic":%s,"seq":7,"ts":9}}`, f["id"], f["topic"]))
		case op == "unsubscribe":
			c.say(fmt.Sprintf(`{"id":%s,"ok":{}}`, f["id"]))
			c.seen <- f
		case op == "publish" && f["id"] != nil:
			c.say(fmt.Sprintf(`[{"topic":%s,"event":"message","data":%s},{"id":%s,"ok":{"seq":3,"duplicate":true}}]`, f["topic"], f["data"], f["id"]))
		default:
			c.seen <- f
		}
	}
}

func (c *fakeConn) say(message string) {
	_ = c.ws.Write(context.Background(), websocket.MessageText, []byte(message)) // the test sees what did not come
}

// next returns the next frame that the fake left to the test.
func (c *fakeConn) next(t *testing.T) map[string]json.RawMessage {
	t.Helper()
	return receive(t, c.seen)
}

func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-ch:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return v
	case <-time.After(5 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// connect dials the fake and returns both ends.
func connect(t *testing.T, o Options) (*Client, *fakeConn) {
	t.Helper()
	f := newFake(t)
	c, err := Dial(t.Context(), f.url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Abort()
		c.Wait()
	})
	return c, receive(t, f.conn)
}

func wantCode(t *testing.T, err error, code wire.Code) {
	t.Helper()
	if got := wire.CodeOf(err); err == nil || got != code {
		t.Fatalf("got %v, want %s", err, code)
	}
}
