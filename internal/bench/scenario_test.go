package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// fakeServer fans messages out in both dialects. Every drop-th delivery is
// left out, if drop is not 0.
type fakeServer struct {
	mu    sync.Mutex
	subs  map[string][]*websocket.Conn
	drop  int
	count int
}

// command is a client frame of either dialect.
type command struct {
	ID    int64           `json:"id"`
	Op    string          `json:"op"`
	Topic string          `json:"topic"`
	Data  json.RawMessage `json:"data"`

	Connect   *struct{} `json:"connect"`
	Subscribe *struct {
		Channel string `json:"channel"`
	} `json:"subscribe"`
	Publish *struct {
		Channel string          `json:"channel"`
		Data    json.RawMessage `json:"data"`
	} `json:"publish"`
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"fairlead.v1"}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(1 << 20)
	for {
		_, message, err := ws.Read(context.Background())
		if err != nil {
			return
		}
		if message[0] == '[' { // an array becomes newline-separated values
			var all []json.RawMessage
			if json.Unmarshal(message, &all) != nil {
				return
			}
			message = nil
			for _, m := range all {
				message = append(append(message, m...), '\n')
			}
		}
		for line := range strings.Lines(string(message)) {
			var c command
			if json.Unmarshal([]byte(line), &c) != nil {
				return
			}
			s.handle(ws, c)
		}
	}
}

func (s *fakeServer) handle(ws *websocket.Conn, c command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply, message := `{"id":%d,"ok":{}}`, `{"topic":%q,"event":"message","data":%s}`
	if c.Op == "" {
		reply, message = `{"id":%d,"any":{}}`, `{"push":{"channel":%q,"pub":{"data":%s}}}`
	}
	switch {
	case c.Subscribe != nil:
		c.Op, c.Topic = "subscribe", c.Subscribe.Channel
	case c.Publish != nil:
		c.Op, c.Topic, c.Data = "publish", c.Publish.Channel, c.Publish.Data
	}
	if c.Op == "subscribe" {
		if strings.Contains(c.Topic, "refuse") {
			reply = `{"id":%d,"error":{"code":"PERMISSION_DENIED"}}`
		}
		s.subs[c.Topic] = append(s.subs[c.Topic], ws)
	}
	if c.Op == "publish" {
		for _, to := range s.subs[c.Topic] {
			s.count++
			if s.drop == 0 || s.count%s.drop != 0 {
				_ = to.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, message, c.Topic, c.Data)) // a gone peer
			}
		}
	}
	if c.ID != 0 {
		_ = ws.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, reply, c.ID)) // a gone peer
	}
}

func target(t *testing.T, d Dialect, portable bool, drop int) Target {
	t.Helper()
	srv := httptest.NewServer(&fakeServer{subs: map[string][]*websocket.Conn{}, drop: drop})
	t.Cleanup(srv.Close)
	return Target{URL: "ws" + strings.TrimPrefix(srv.URL, "http") + "/ws", Dialect: d, Portable: portable, Loops: 2, Server: Probe{PID: os.Getpid()}}
}

// everywhere runs a test in both dialects and over both kinds of loop.
func everywhere(t *testing.T, test func(t *testing.T, to Target)) {
	for _, d := range []Dialect{Fairlead{}, Centrifugo{}} {
		for _, portable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s portable=%v", dialectName(d), portable), func(t *testing.T) { test(t, target(t, d, portable, 0)) })
		}
	}
}

func clean(t *testing.T, r *Report, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed() || r.Repeated > 0 {
		t.Fatalf("got %+v", r)
	}
}

func TestFanoutClosedLoop(t *testing.T) {
	everywhere(t, func(t *testing.T, to Target) {
		r, err := Fanout{Subscribers: 6, Topics: 3, Publishers: 2, Window: 4, Outstanding: 8, Duration: 200 * time.Millisecond, Warmup: 20 * time.Millisecond}.Run(t.Context(), to)
		clean(t, r, err)
		if r.Delivered < 10 || r.Latency.Count == 0 || r.Published > r.Delivered {
			t.Errorf("got %+v", r)
		}
	})
}

func TestFanoutAtARate(t *testing.T) {
	everywhere(t, func(t *testing.T, to Target) {
		r, err := Fanout{Subscribers: 3, Rate: 200, Duration: 300 * time.Millisecond, Warmup: 50 * time.Millisecond}.Run(t.Context(), to)
		clean(t, r, err)
		if r.Published < 150 || r.Published > 250 || r.Delivered < 2*r.Published {
			t.Errorf("got %v published and %v delivered a second, want about 200 and 600", r.Published, r.Delivered)
		}
	})
}

func TestPublishPairs(t *testing.T) {
	everywhere(t, func(t *testing.T, to Target) {
		r, err := Publish{Pairs: 4, Outstanding: 3, Duration: 200 * time.Millisecond, Warmup: 20 * time.Millisecond}.Run(t.Context(), to)
		clean(t, r, err)
		if r.Acks < 10 || r.Ack.Count == 0 || r.Latency.Count == 0 {
			t.Errorf("got %+v", r)
		}
	})
}

func TestConnectAndIdle(t *testing.T) {
	everywhere(t, func(t *testing.T, to Target) {
		to.InFlight = 4
		r, err := Connect{Connections: 20}.Run(t.Context(), to)
		clean(t, r, err)
		if r.Connections <= 0 || r.Connect.Count != 20 {
			t.Errorf("connect: got %+v", r)
		}
		r, err = Idle{Connections: 20, Settle: 10 * time.Millisecond}.Run(t.Context(), to)
		if runtime.GOOS != "linux" { // nothing tells the server's memory
			if err == nil {
				t.Errorf("idle: got %+v", r)
			}
			return
		}
		clean(t, r, err)
		if r.PerConnection == nil || r.Server.RSS == 0 {
			t.Errorf("idle: got %+v", r)
		}
	})
}

// The count of lost messages must be able to say something.
func TestLossIsSeen(t *testing.T) {
	to := target(t, Fairlead{}, false, 10)
	r, err := Fanout{Subscribers: 2, Rate: 500, Duration: 200 * time.Millisecond, Warmup: 10 * time.Millisecond}.Run(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost == 0 || !r.Failed() {
		t.Errorf("got %d lost of a server that loses every tenth message", r.Lost)
	}
}

func TestConnectionRefused(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	_, err := Connect{Connections: 3}.Run(t.Context(), Target{URL: "ws" + strings.TrimPrefix(srv.URL, "http") + "/ws"})
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v, want the HTTP status", err)
	}
}

func TestInterrupted(t *testing.T) {
	to := target(t, Fairlead{}, false, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := (Fanout{Subscribers: 2, Duration: time.Hour}).Run(ctx, to); err == nil {
		t.Error("an interrupted run reported")
	}
}
