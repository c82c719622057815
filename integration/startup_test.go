package integration

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

func TestGatewayStartsBeforeNATSAndIsReadyWhenItComes(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	g := launchGateway(t, "nats://127.0.0.1:"+port)
	if status, body := get(t, g.http("/healthz")); status != http.StatusOK {
		t.Errorf("/healthz: %d %s, want 200", status, body)
	}
	if status, body := get(t, g.http("/readyz")); status != http.StatusServiceUnavailable || !strings.Contains(body, "nats") {
		t.Errorf("/readyz: %d %s, want 503 that names nats", status, body)
	}
	_, err := tryDial(t, g.ws(), client.Options{Token: token("ann", nil)})
	if got := errorText(err); !strings.HasPrefix(got, "UNAVAILABLE") {
		t.Errorf("hello without NATS: got %s (%v), want UNAVAILABLE", got, err)
	}
	number, err := strconv.Atoi(port)
	must(t, err)
	server := natsdev.Test(t, func(c *natsdev.Config) { c.Port = number })
	g.ready()
	ann := dial(t, g.ws(), client.Options{Token: token("ann", nil)})
	room := subscribe(t, ann, "start.room")
	must(t, connect(t, server.ClientURL()).Publish("fl.topic.start.room", []byte(`1`)))
	expect(t, room, "", `1`)
}

// What can't work is said at once: one line that names the variable or flag,
// the value and what is allowed, and exit code 2.
func TestWrongSettingsAreOneClearLineAndExitCodeTwo(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { taken.Close() })
	busy := taken.Addr().String()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	badRules := rulesFile(t, "topics:\n  - match: \"a.>\"\n    subscrbe: any\n")
	server := natsdev.Test(t)
	run, dev := []string{"run", "gateway"}, []string{"dev", "--http", "127.0.0.1:0", "--nats", "127.0.0.1:0", "--data", filepath.Join(dir, "dev")}
	devWith := func(flag, value string) []string {
		return append(append([]string{}, dev...), flag, value)
	}
	tests := []struct {
		name string
		args []string
		env  string
		want []string // in the one line
	}{
		{"a duration", run, "FAIRLEAD_HEARTBEAT=soon", []string{"FAIRLEAD_HEARTBEAT=soon", "duration"}},
		{"a duration out of bounds", run, "FAIRLEAD_HEARTBEAT=1ms", []string{"FAIRLEAD_HEARTBEAT=1ms", "100ms"}},
		{"a number", run, "FAIRLEAD_LIMIT_PAYLOAD_BYTES=much", []string{"FAIRLEAD_LIMIT_PAYLOAD_BYTES=much", "number"}},
		{"a bool", run, "FAIRLEAD_HTTP_API=maybe", []string{"FAIRLEAD_HTTP_API=maybe", "true or false"}},
		{"a choice", run, "FAIRLEAD_LIMIT_PAYLOAD_ACTION=explode", []string{"FAIRLEAD_LIMIT_PAYLOAD_ACTION=explode", "error, close or event"}},
		{"the log level", run, "FAIRLEAD_LOG_LEVEL=loud", []string{"FAIRLEAD_LOG_LEVEL", "loud", "debug"}},
		{"the namespace", run, "FAIRLEAD_NAMESPACE=a.b", []string{"FAIRLEAD_NAMESPACE=a.b"}},
		{"an origin", run, "FAIRLEAD_ORIGINS=example.com", []string{"FAIRLEAD_ORIGINS", "example.com", "scheme://host"}},
		{"a proxy", run, "FAIRLEAD_TRUSTED_PROXIES=here", []string{"FAIRLEAD_TRUSTED_PROXIES", "here", "CIDR"}},
		{"a short secret", run, "FAIRLEAD_AUTH_JWT_SECRET=short", []string{"FAIRLEAD_AUTH_JWT_SECRET", "32"}},
		{"no secret", run, "FAIRLEAD_AUTH_JWT_SECRET=", []string{"FAIRLEAD_AUTH_JWT_SECRET"}},
		{"dev auth outside dev", run, "FAIRLEAD_AUTH=dev", []string{"FAIRLEAD_AUTH=dev", "jwt"}},
		{"anonymous without permission", run, "FAIRLEAD_AUTH=anonymous", []string{"FAIRLEAD_ALLOW_ANONYMOUS"}},
		{"the NATS URL", run, "FAIRLEAD_NATS_URL=ftp://there", []string{"FAIRLEAD_NATS_URL", "ftp"}},
		{"NATS credentials", run, "FAIRLEAD_NATS_CREDS=" + file + ".none", []string{"FAIRLEAD_NATS_CREDS", ".none"}},
		{"the port", run, "FAIRLEAD_HTTP_ADDR=" + busy, []string{"FAIRLEAD_HTTP_ADDR=" + busy, "in use"}},
		{"the admin port", run, "FAIRLEAD_ADMIN_ADDR=" + busy, []string{"FAIRLEAD_ADMIN_ADDR=" + busy, "in use"}},
		{"no certificate", run, "FAIRLEAD_TLS_CERT=" + file, []string{"FAIRLEAD_TLS_CERT", "FAIRLEAD_TLS_KEY"}},
		{"a bad certificate", run, "FAIRLEAD_TLS_CERT=" + file + "\x00FAIRLEAD_TLS_KEY=" + file, []string{"FAIRLEAD_TLS_CERT=" + file}},
		{"no rules file", run, "FAIRLEAD_TOPICS_FILE=" + file + ".none", []string{"FAIRLEAD_TOPICS_FILE=" + file + ".none"}},
		{"bad rules", run, "FAIRLEAD_TOPICS_FILE=" + badRules, []string{badRules + ":3:", "subscrbe"}},
		{"tracing", run, "OTEL_TRACES_EXPORTER=zipkin", []string{"OTEL_TRACES_EXPORTER", "zipkin", "otlp"}},
		{"no such service", []string{"run", "gatewy"}, "", []string{"gatewy"}},
		{"no such command", []string{"rnu"}, "", []string{"rnu"}},
		{"dev's HTTP port", devWith("--http", busy), "", []string{"--http " + busy, "in use"}},
		{"dev's NATS port", devWith("--nats", busy), "", []string{"--nats " + busy, "in use"}},
		{"dev's NATS address", devWith("--nats", "nowhere"), "", []string{"--nats nowhere", "host:port"}},
		{"dev's data", devWith("--data", filepath.Join(file, "data")), "", []string{"--data " + filepath.Join(file, "data")}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := []string{"FAIRLEAD_NATS_URL=" + server.ClientURL(), "FAIRLEAD_AUTH_JWT_SECRET=" + testSecret,
				"FAIRLEAD_HTTP_ADDR=127.0.0.1:0", "FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_LOG_FORMAT=text"}
			p := start(t, test.name, append(env, strings.Split(test.env, "\x00")...), test.args...)
			code := p.exit(patience)
			if code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			lines := 0
			for line := range strings.Lines(p.stderr.String()) {
				ok := true
				for _, want := range test.want {
					ok = ok && strings.Contains(line, want)
				}
				if ok {
					lines++
				}
			}
			if lines != 1 {
				t.Errorf("%d lines hold all of %q, want 1", lines, test.want)
			}
			if p.stdout.String() != "" && !strings.HasPrefix(test.name, "no such") {
				t.Errorf("standard output: %q, want nothing", p.stdout.String())
			}
		})
	}
}

func TestUnknownVariableIsAWarningThatNamesTheNearest(t *testing.T) {
	t.Parallel()
	g := startGateway(t, natsdev.Test(t).ClientURL(), "FAIRLEAD_HARTBEAT=10s")
	line := g.line(g.stderr, "FAIRLEAD_HARTBEAT")
	if !strings.Contains(line, "FAIRLEAD_HEARTBEAT") || !strings.Contains(line, "WARN") {
		t.Errorf("got %s, want a warning that names FAIRLEAD_HEARTBEAT", line)
	}
	if strings.Contains(g.stderr.String(), "10s") {
		t.Error("the value is in the log: it could be a secret")
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	t.Parallel()
	g := startGateway(t, natsdev.Test(t).ClientURL(), "FAIRLEAD_LOG_LEVEL=debug")
	jwt := token("ann", nil)
	ann := dial(t, g.ws(), client.Options{Token: jwt})
	room := subscribe(t, ann, "quiet.room")
	publish(t, ann, "quiet.room", `"do not log me"`)
	expect(t, room, "", `"do not log me"`)
	ann.Close(1000)
	g.line(g.stderr, "connection closed")
	for _, text := range []string{testSecret, jwt, "do not log me"} {
		if strings.Contains(g.stderr.String(), text) {
			t.Errorf("the log holds %q", text)
		}
	}
}

// A dev process that was killed leaves nothing that keeps the next one from the
// same directory and ports.
func TestDevStartsAgainAfterAKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	httpAddr, natsAddr := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	for range 3 {
		g, natsURL := startDevOn(t, dir, httpAddr, natsAddr)
		if g.addr != httpAddr || natsURL != "nats://"+natsAddr {
			t.Fatalf("listens on %s and %s, want %s and %s", g.addr, natsURL, httpAddr, natsAddr)
		}
		ann := dial(t, g.ws(), client.Options{Token: token("ann", nil)})
		room := subscribe(t, ann, "chat.again")
		publish(t, ann, "chat.again", `1`)
		expect(t, room, "ann", `1`)
		g.kill()
	}
}

func TestTwoDevsOnOneDirectoryAreRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	startDevOn(t, dir, "127.0.0.1:0", "127.0.0.1:0")
	p := start(t, "second dev", nil, "dev", "--http", "127.0.0.1:0", "--nats", "127.0.0.1:0", "--data", dir)
	if code := p.exit(patience); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	p.line(p.stderr, "--data "+dir+": in use")
}
