package integration

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// testSecret signs the tokens of the tests.
const testSecret = "the secret of the integration tests, long enough"

func secret() string {
	if s := os.Getenv("FAIRLEAD_AUTH_JWT_SECRET"); s != "" && existing() {
		return s
	}
	return testSecret
}

// stack is a NATS server and gateways on it, ours or ones that are there.
type stack struct {
	t        *testing.T
	nats     string
	gateways []*gateway // nil where the stack was there already
	urls     []string
}

// existing reports whether the tests are told of a stack that runs already.
func existing() bool {
	return os.Getenv("FAIRLEAD_URL") != "" && os.Getenv("FAIRLEAD_NATS_URL") != ""
}

// anyStack returns the stack that the environment names, else a new one.
func anyStack(t *testing.T, gateways int) *stack {
	t.Helper()
	if !existing() {
		return newStack(t, gateways)
	}
	return &stack{t: t, nats: os.Getenv("FAIRLEAD_NATS_URL"), urls: strings.Split(os.Getenv("FAIRLEAD_URL"), ",")}
}

// newStack starts a NATS server and gateways, each a process of its own.
func newStack(t *testing.T, gateways int, env ...string) *stack {
	t.Helper()
	return stackOn(t, natsdev.Test(t).ClientURL(), gateways, env...)
}

// stackOn starts gateways on a NATS server, with rules that let users do
// everything and show who published.
func stackOn(t *testing.T, natsURL string, gateways int, env ...string) *stack {
	t.Helper()
	s := &stack{t: t, nats: natsURL}
	env = append([]string{"FAIRLEAD_TOPICS_FILE=" + rulesFile(t, openRules)}, env...)
	for range gateways {
		s.add(env...)
	}
	return s
}

const openRules = `
topics:
  - {match: ">", subscribe: user, publish: user, wildcards: true, from: true}
calls:
  - {match: ">", allow: user}
`

// rulesFile writes a rules file and returns its path.
func rulesFile(t *testing.T, rules string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rules.yaml")
	must(t, os.WriteFile(path, []byte(rules), 0o600))
	return path
}

// add starts one more gateway.
func (s *stack) add(env ...string) *gateway {
	s.t.Helper()
	g := startGateway(s.t, s.nats, env...)
	s.gateways = append(s.gateways, g)
	s.urls = append(s.urls, g.ws())
	return g
}

// url is the i-th gateway's address; where there are fewer, they take turns.
func (s *stack) url(i int) string { return s.urls[i%len(s.urls)] }

// as connects a user to the i-th gateway.
func (s *stack) as(i int, user string) *client.Client {
	s.t.Helper()
	return dial(s.t, s.url(i), client.Options{Token: token(user, nil)})
}

// worker returns a plain NATS connection.
func (s *stack) worker() *nats.Conn {
	s.t.Helper()
	return connect(s.t, s.nats)
}

// gateway is a process that serves WebSockets.
type gateway struct {
	*process
	addr   string
	scheme string // of HTTP
}

// launchGateway starts `run gateway` and returns when it listens. It need not
// be ready.
func launchGateway(t *testing.T, natsURL string, env ...string) *gateway {
	t.Helper()
	env = append([]string{
		"FAIRLEAD_NATS_URL=" + natsURL, "FAIRLEAD_HTTP_ADDR=127.0.0.1:0", "FAIRLEAD_ADMIN_ADDR=off",
		"FAIRLEAD_AUTH_JWT_SECRET=" + secret(), "FAIRLEAD_LOG_FORMAT=json",
	}, env...)
	g := &gateway{process: start(t, "gateway", env, "run", "gateway"), scheme: "http"}
	for _, kv := range env {
		if strings.HasPrefix(kv, "FAIRLEAD_TLS_CERT=") {
			g.scheme = "https"
		}
	}
	g.addr = g.listening()
	return g
}

// listening waits for the line that says where the process listens.
func (p *process) listening() string {
	p.t.Helper()
	var said struct{ HTTP string }
	line := p.line(p.stderr, `"gateway starts"`)
	if err := json.Unmarshal([]byte(line), &said); err != nil || said.HTTP == "" {
		p.t.Fatalf("%s: where does it listen? %s", p.name, line)
	}
	return said.HTTP
}

// startGateway starts a gateway and waits until it is ready.
func startGateway(t *testing.T, natsURL string, env ...string) *gateway {
	t.Helper()
	g := launchGateway(t, natsURL, env...)
	g.ready()
	return g
}

func (g *gateway) ws() string {
	return strings.Replace(g.scheme, "http", "ws", 1) + "://" + g.addr + "/ws"
}

func (g *gateway) http(path string) string { return g.scheme + "://" + g.addr + path }

// ready waits until /readyz answers 200.
func (g *gateway) ready() {
	g.t.Helper()
	eventually(g.t, g.name+" is ready", func() (any, bool) {
		if g.ended() {
			g.t.Fatalf("%s ended before it was ready: %v", g.name, g.cmd.ProcessState)
		}
		status, body := get(g.t, g.http("/readyz"))
		return body, status == http.StatusOK
	})
}

// startDev starts `fairlead dev` on free ports and waits for its welcome.
func startDev(t *testing.T, env ...string) (g *gateway, natsURL string) {
	t.Helper()
	return startDevOn(t, filepath.Join(t.TempDir(), "data"), "127.0.0.1:0", "127.0.0.1:0", env...)
}

func startDevOn(t *testing.T, dir, httpAddr, natsAddr string, env ...string) (g *gateway, natsURL string) {
	t.Helper()
	env = append([]string{"FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_AUTH_JWT_SECRET=" + testSecret, "FAIRLEAD_LOG_FORMAT=json"}, env...)
	p := start(t, "dev", env, "dev", "--http", httpAddr, "--nats", natsAddr, "--data", dir)
	g = &gateway{process: p, scheme: "http", addr: p.listening()}
	natsURL = strings.Fields(p.line(p.stdout, "  nats     "))[1]
	g.ready()
	return g, natsURL
}

// web makes every request on a connection of its own: nothing stays behind.
var web = &http.Client{
	Timeout:   patience,
	Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
}

// get returns status 0 and the error where nobody answers.
func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := web.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, readAll(t, resp)
}

func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read the answer of %s: %v", resp.Request.URL, err)
	}
	return strings.TrimSpace(string(b))
}

// token signs a JWT for a user; claims become its member `fairlead`.
func token(user string, claims map[string]any) string {
	now := time.Now()
	c := map[string]any{"sub": user, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	if claims != nil {
		c["fairlead"] = claims
	}
	body, err := json.Marshal(c)
	if err != nil {
		panic(err) // the tests' own maps
	}
	signed := encode64([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode64(body)
	mac := hmac.New(sha256.New, []byte(secret()))
	mac.Write([]byte(signed))
	return signed + "." + encode64(mac.Sum(nil))
}

func encode64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// dial connects a client, which is dropped when the test ends.
func dial(t *testing.T, url string, o client.Options) *client.Client {
	t.Helper()
	c, err := tryDial(t, url, o)
	if err != nil {
		t.Fatalf("connect to %s: %v", url, err)
	}
	return c
}

// tryDial is dial for connections that may be refused.
func tryDial(t *testing.T, url string, o client.Options) (*client.Client, error) {
	if o.Subprotocols == nil {
		o.Batch = true
	}
	o.RequestTimeout = patience
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, url, o)
	if err == nil {
		t.Cleanup(func() { c.Abort(); c.Wait() })
	}
	return c, err
}

// subscribe subscribes and returns when the subscription is live.
func subscribe(t *testing.T, c *client.Client, topic string) *client.Subscription {
	t.Helper()
	s, err := c.Subscribe(within(t), topic, client.SubscribeOptions{})
	if err != nil {
		t.Fatalf("subscribe %s: %v", topic, err)
	}
	return s
}

// publish publishes raw JSON and waits for the acknowledgement.
func publish(t *testing.T, c *client.Client, topic, data string) {
	t.Helper()
	if _, err := c.Publish(within(t), topic, "", json.RawMessage(data), client.PublishOptions{}); err != nil {
		t.Fatalf("publish to %s: %v", topic, err)
	}
}

// next returns the next message of a subscription.
func next(t *testing.T, s *client.Subscription) client.Message {
	t.Helper()
	m, err := s.Next(within(t))
	if err != nil {
		t.Fatalf("next message of %s: %v", s.Topic(), err)
	}
	return m
}

// expect compares the next message with what was published.
func expect(t *testing.T, s *client.Subscription, from, data string) {
	t.Helper()
	m := next(t, s)
	if existing() && m.From == "" {
		m.From = from // its rules decide whether messages show it
	}
	if m.From != from || string(m.Payload()) != data {
		t.Fatalf("message on %s: got %s from %q, want %s from %q", s.Topic(), m.Payload(), m.From, data, from)
	}
}

// connect opens a plain NATS connection, as a worker in any language has it.
func connect(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatalf("connect to NATS at %s: %v", url, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// listen subscribes on the bus and returns when the server has the subscription.
func listen(t *testing.T, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	s, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatalf("subscribe %s: %v", subject, err)
	}
	flush(t, nc)
	return s
}

func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatalf("flush NATS: %v", err)
	}
}

// hear returns the next message on the bus.
func hear(t *testing.T, s *nats.Subscription) *nats.Msg {
	t.Helper()
	m, err := s.NextMsg(patience)
	if err != nil {
		t.Fatalf("next message on %s: %v", s.Subject, err)
	}
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unique returns a topic that no other test, nor a run before, has used.
func unique(prefix string) string {
	b := make([]byte, 6)
	rand.Read(b)
	return prefix + "." + hex.EncodeToString(b)
}

// freePort asks the system for a port and gives it back, for what must be known
// before a process starts.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// receive takes the next value of a channel.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// answerWith serves requests of the server with one answer.
func answerWith(data string) func(context.Context, client.Request) (any, error) {
	return func(context.Context, client.Request) (any, error) { return json.RawMessage(data), nil }
}

// errorText is an error's code and what it says of the outcome.
func errorText(err error) string {
	e := wire.AsErrorOrNil(err)
	if e == nil {
		return "no error"
	}
	text := string(e.Code)
	if outcome, ok := e.Details["outcome"].(string); ok {
		text += " " + outcome
	}
	return text
}
