package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

// One of twenty clients stops reading: it is closed with 1013 when it passes
// its bound, workers are told, and nobody else notices.
func TestAStalledReaderIsClosedAndNobodyElseNotices(t *testing.T) {
	t.Parallel()
	const bound, batch = 256 << 10, 8
	s := stackOn(t, natsdev.Test(t).ClientURL(), 1, fmt.Sprintf("FAIRLEAD_LIMIT_OUTBOUND_BYTES=%d", bound))
	worker := s.worker()
	events := listen(t, worker, "fl.event.backpressure")

	var received [19]atomic.Int64
	for i := range received {
		_, err := s.as(0, fmt.Sprintf("fast%d", i)).Subscribe(within(t), "slow.room", client.SubscribeOptions{
			OnMessage: func(client.Message) { received[i].Add(1) },
		})
		must(t, err)
	}
	stalled := stall(t, s.url(0), "slow.room")

	publisher := s.as(0, "publisher")
	data := json.RawMessage(`"` + strings.Repeat("x", 16<<10) + `"`)
	sent := int64(0)
	deadline := time.Now().Add(patience)
	var event struct {
		Conn, User  string
		QueuedBytes int
	}
	for event.Conn == "" {
		if time.Now().After(deadline) {
			t.Fatalf("no backpressure event after %d messages", sent)
		}
		for range batch {
			_, err := publisher.Publish(within(t), "slow.room", "", data, client.PublishOptions{})
			must(t, err)
			sent++
		}
		for i := range received { // the others are never over the bound
			eventually(t, fmt.Sprintf("fast%d has all %d", i, sent), func() (any, bool) { return received[i].Load(), received[i].Load() == sent })
		}
		if n, _, err := events.Pending(); err == nil && n > 0 {
			must(t, json.Unmarshal(hear(t, events).Data, &event))
		}
	}
	if event.User != "stalled" || event.QueuedBytes < bound/2 {
		t.Errorf("backpressure event: got user %q with %d bytes queued, want stalled with about %d", event.User, event.QueuedBytes, bound)
	}
	if code := drainUntilClosed(stalled); code != 1013 {
		t.Errorf("the stalled client: got close %d, want 1013", code)
	}
	for range batch {
		publish(t, publisher, "slow.room", `"after"`)
		sent++
	}
	for i := range received {
		eventually(t, fmt.Sprintf("fast%d has all %d", i, sent), func() (any, bool) { return received[i].Load(), received[i].Load() == sent })
	}
	if n, _, err := events.Pending(); err != nil || n != 0 {
		t.Errorf("%d more backpressure events (%v), want one in all", n, err)
	}
}

// stall connects with a small buffer, subscribes, and reads no more.
func stall(t *testing.T, url, topic string) *websocket.Conn {
	t.Helper()
	dialer := func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			err = nc.(*net.TCPConn).SetReadBuffer(128 << 10)
		}
		return nc, err
	}
	ws, _, err := websocket.Dial(within(t), url, &websocket.DialOptions{HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dialer, DisableKeepAlives: true}}})
	must(t, err)
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	for _, frame := range []string{`{"op":"hello","id":1,"token":"` + token("stalled", nil) + `"}`, `{"op":"subscribe","id":2,"topic":"` + topic + `"}`} {
		must(t, ws.Write(within(t), websocket.MessageText, []byte(frame)))
		_, answer, err := ws.Read(within(t))
		must(t, err)
		if !strings.Contains(string(answer), `"ok"`) {
			t.Fatalf("%s: %s", frame, answer)
		}
	}
	return ws
}

// drainUntilClosed reads what is left and returns the close code.
func drainUntilClosed(ws *websocket.Conn) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		if _, _, err := ws.Read(ctx); err != nil {
			return int(websocket.CloseStatus(err))
		}
	}
}
