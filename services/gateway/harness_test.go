package gateway

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, ofTheServer()...) }

// ofTheServer ignores what the embedded NATS server leaves behind.
func ofTheServer() (ignored []goleak.Option) {
	for _, name := range natsdev.Lingering() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	return ignored
}

// patience bounds every wait of the tests: it only runs out when one fails.
const patience = 20 * time.Second

var testSecret = []byte("a secret of the tests, 32 bytes or more")

// rig is a gateway under test and the NATS server behind it.
type rig struct {
	t    *testing.T
	nats *natsdev.Server
	g    *Service
	addr string
	stop context.CancelFunc
	done chan error

	ready chan struct{} // closed when the gateway first was
}

type option func(*Config, *Deps, *rules.Options)

// startGateway returns a gateway that is ready.
func startGateway(t *testing.T, server *natsdev.Server, options ...option) *rig {
	t.Helper()
	r := launchGateway(t, server, options...)
	r.awaitReady()
	return r
}

// awaitReady waits for the gateway to become ready for the first time.
func (r *rig) awaitReady() {
	r.t.Helper()
	select {
	case <-r.ready:
	case err := <-r.done:
		r.t.Fatalf("Run: %v", err)
	case <-time.After(patience):
		r.t.Fatalf("not ready: %v", r.g.Ready())
	}
}

// launchGateway starts a gateway, whose NATS server may be away.
func launchGateway(t *testing.T, server *natsdev.Server, options ...option) *rig {
	t.Helper()
	cfg := Config{
		Addr: "127.0.0.1:0", Namespace: "fl", Development: true, AllowAnonymous: true,
		Auth:      AuthConfig{Mode: auth.ModeDev, JWTSecret: string(testSecret), MaxAge: 24 * time.Hour},
		Heartbeat: 25 * time.Second, GatewayLease: 10 * time.Second, HelloTimeout: 5 * time.Second, DrainWindow: 200 * time.Millisecond,
		Limits: Limits{PayloadBytes: 1_000_000, PayloadAction: PayloadError, OutboundBytes: 1 << 20,
			TopicsPerConnection: 1000, PendingPerConnection: 1000, PublishTopics: 1000},
	}
	natsConfig := bus.Config{URL: server.ClientURL()}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	nc, err := bus.Connect(t.Context(), natsConfig, bus.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	deps := Deps{NATS: natsConfig, Log: log}
	ro := rules.Options{Store: rules.Store{JetStream: js, Namespace: "fl"}, Mode: rules.Dev, Log: log}
	for _, o := range options {
		o(&cfg, &deps, &ro)
	}
	if ro.File == nil {
		ro.File = withoutReplay(t, ro.Mode)
	}
	live, err := rules.Follow(ro)
	if err != nil {
		t.Fatal(err)
	}
	deps.Rules = live
	if deps.Listener == nil {
		deps.Listener = localListener(t)
	}
	ready := make(chan struct{})
	deps.Ready = func() { close(ready) }
	g, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	rulesCtx, stopRules := context.WithCancel(context.WithoutCancel(t.Context()))
	rulesDone := make(chan error, 1)
	go func() { rulesDone <- live.Run(rulesCtx) }()
	r := &rig{t: t, nats: server, g: g, addr: deps.Listener.Addr().String(), stop: stop, done: make(chan error, 1), ready: ready}
	go func() { r.done <- g.Run(ctx) }()
	t.Cleanup(func() {
		r.end()
		stopRules()
		<-rulesDone
		nc.Close()
	})
	return r
}

// withoutReplay is the built-in rule set of a mode with nothing replayed: what is
// read of the past needs another service, and is tested with it.
func withoutReplay(t *testing.T, mode rules.Mode) []byte {
	t.Helper()
	name := "dev"
	if mode == rules.Run {
		name = "run"
	}
	file, err := os.ReadFile("../../internal/rules/builtin." + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`replay: \{[^}]*\}, `).ReplaceAll(file, nil)
}

func localListener(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// end stops the gateway and reports what Run returned.
func (r *rig) end() {
	r.stop()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("Run: %v", err)
		}
		r.done <- nil
	case <-time.After(patience):
		r.t.Fatal("Run did not return")
	}
}

// bus returns a plain NATS connection, as a worker has it.
func (r *rig) bus() *nats.Conn {
	r.t.Helper()
	nc, err := nats.Connect(r.nats.ClientURL())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	return nc
}

// peer is a WebSocket client that speaks raw frames.
type peer struct {
	t      *testing.T
	ws     *websocket.Conn
	queued []json.RawMessage
}

type dialOption func(*websocket.DialOptions)

func (r *rig) dial(options ...dialOption) *peer {
	r.t.Helper()
	p, _, err := r.tryDial(options...)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

func (r *rig) tryDial(options ...dialOption) (*peer, *http.Response, error) {
	r.t.Helper()
	o := &websocket.DialOptions{Subprotocols: []string{Subprotocol}, HTTPHeader: http.Header{}}
	for _, option := range options {
		option(o)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, "ws://"+r.addr+"/ws", o)
	if err != nil {
		return nil, res, err
	}
	ws.SetReadLimit(-1)
	r.t.Cleanup(func() { ws.CloseNow() })
	return &peer{t: r.t, ws: ws}, res, nil
}

func header(name, value string) dialOption {
	return func(o *websocket.DialOptions) { o.HTTPHeader.Set(name, value) }
}

func (p *peer) send(frame string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.ws.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
		p.t.Fatalf("send %.80s: %v", frame, err)
	}
}

// next returns the next frame, whether it came alone or in an array.
func (p *peer) next() (json.RawMessage, error) {
	for len(p.queued) == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, data, err := p.ws.Read(ctx)
		cancel()
		if err != nil {
			return nil, err
		}
		if data[0] != '[' {
			return data, nil
		}
		if err := json.Unmarshal(data, &p.queued); err != nil {
			return nil, err
		}
	}
	frame := p.queued[0]
	p.queued = p.queued[1:]
	return frame, nil
}

func (p *peer) read() string {
	p.t.Helper()
	frame, err := p.next()
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	return string(frame)
}

// expect reads the next frame and compares it, byte for byte.
func (p *peer) expect(want string) {
	p.t.Helper()
	if got := p.read(); got != want {
		p.t.Fatalf("frame:\n got %s\nwant %s", got, want)
	}
}

// expectError reads the next frame, which must be an error of this code.
func (p *peer) expectError(id int64, code string) map[string]any {
	p.t.Helper()
	got := p.read()
	var f struct {
		ID    int64
		Error *struct {
			Code, Message string
			RetryAfterMs  *float64
			Details       map[string]any
		}
	}
	if err := json.Unmarshal([]byte(got), &f); err != nil || f.Error == nil || f.ID != id || f.Error.Code != code {
		p.t.Fatalf("frame:\n got %s\nwant error %s for id %d", got, code, id)
	}
	if f.Error.Details == nil {
		f.Error.Details = map[string]any{}
	}
	f.Error.Details["message"] = f.Error.Message
	return f.Error.Details
}

// closed reads until the connection ends and returns the close code.
func (p *peer) closed() websocket.StatusCode {
	p.t.Helper()
	for {
		if _, err := p.next(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

// hello says hello and returns the answer.
func (p *peer) hello(token string) (conn, user, session string) {
	p.t.Helper()
	frame := `{"op":"hello","id":1}`
	if token != "" {
		frame = `{"op":"hello","id":1,"token":"` + token + `"}`
	}
	p.send(frame)
	var f struct {
		OK struct{ Conn, User, Session string }
	}
	got := p.read()
	if err := json.Unmarshal([]byte(got), &f); err != nil || f.OK.Conn == "" {
		p.t.Fatalf("hello: %s", got)
	}
	return f.OK.Conn, f.OK.User, f.OK.Session
}

func token(t *testing.T, c auth.Claims) string {
	t.Helper()
	s, err := auth.Mint(testSecret, c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// eventually polls a condition that another process or goroutine makes true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func body(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// forClients returns how many subscriptions a server has for clients' topics,
// users and connections. What a gateway needs for itself may come at any time.
func forClients(server *natsdev.Server) (n int) {
	for _, prefix := range []string{"fl.topic.", "fl.user.", "fl.conn."} {
		n += server.SubscriptionsTo(prefix)
	}
	return n
}
