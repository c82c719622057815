package integration

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
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

// anyStack returns the stack that the environment names, else a new one.
func anyStack(t *testing.T, gateways int) *stack {
	t.Helper()
	if !existing() {
		return newStack(t, gateways)
	}
	return visit(t)
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
	// A Postgres would start for each of them, and only those that need one say so.
	env = append([]string{"FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_AUTH_JWT_SECRET=" + testSecret, "FAIRLEAD_LOG_FORMAT=json", "FAIRLEAD_PGBIN=none"}, env...)
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

// unique returns a topic, group or method that no other test, nor a run before,
// has used. On a stack that was lent rules it is one of theirs.
func unique(prefix string) string {
	b := make([]byte, 6)
	rand.Read(b)
	return lent(prefix) + "." + hex.EncodeToString(b)
}

// freePort finds a port that nothing listens on, for what must be known before
// a process starts. It is below those that the system hands out by itself, so
// that a process that is started again finds it free.
func freePort(t *testing.T) string {
	t.Helper()
	return strconv.Itoa(natsdev.FreePort(t))
}
