package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestPayload(t *testing.T) {
	env := &Env{Stdin: strings.NewReader("{\"from\":\"stdin\"}\n")}
	tests := []struct {
		data, want string
		text       bool
		code       int
	}{
		{`{"a": 1}`, `{"a": 1}`, false, 0},
		{"", "", false, 0},
		{"-", `{"from":"stdin"}`, false, 0},
		{"hello", "", false, exitUsage},
		{"say \"hi\"", `"say \"hi\""`, true, 0},
	}
	for _, tt := range tests {
		got, err := payload(env, tt.data, tt.text)
		if string(got) != tt.want || codeOf(err) != tt.code {
			t.Errorf("%q: got %q %v, want %q and code %d", tt.data, got, err, tt.want, tt.code)
		}
		if tt.code != 0 && !strings.Contains(err.Error(), "--text") {
			t.Errorf("%q: got %v, which does not name --text", tt.data, err)
		}
	}
}

func TestJSONLine(t *testing.T) {
	tests := []struct {
		m    client.Message
		want string
	}{
		{client.Message{Topic: "a", Event: "e", Data: []byte("{\n \"x\": 1.0}")}, `{"topic":"a","event":"e","data":{  "x": 1.0}}`},
		{client.Message{Topic: "a", Event: "e", Binary: []byte("t\"")}, `{"topic":"a","event":"e","text":"t\""}`},
		{client.Message{Topic: "a", Event: "e", Binary: []byte("\xff")}, `{"topic":"a","event":"e","base64":"/w=="}`},
		{client.Message{Topic: "a", Event: "e", Data: []byte("1"), From: "ann", Seq: 3, Prev: 2, Ts: 9}, `{"topic":"a","event":"e","data":1,"from":"ann","seq":3,"prev":2,"ts":9}`},
	}
	for _, tt := range tests {
		if got := string(jsonLine(tt.m)); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

// What others publish must not command the terminal.
func TestHumanLineHasNoControlCharacters(t *testing.T) {
	for _, m := range []client.Message{
		{Topic: "a", Event: "e", Data: []byte("{\"x\":\n1}"), From: "\u009b31m"},
		{Topic: "a", Event: "e", Binary: []byte("\x1b[2J")},
		{Topic: "a", Event: "e", Data: []byte("\"\u202e\"")},
	} {
		if got := string(human(m)); strings.ContainsAny(got, "\x1b\n\u009b\u202e") {
			t.Errorf("got %q", got)
		}
	}
}

func TestHealthURL(t *testing.T) {
	tests := []struct {
		http, admin string
		asked       bool
		want        string
	}{
		{"", "", false, "http://127.0.0.1:8080/healthz"},
		{":9000", "", false, "http://127.0.0.1:9000/healthz"},
		{"0.0.0.0:9000", "", false, "http://127.0.0.1:9000/healthz"},
		{"10.0.0.1:80", "", false, "http://10.0.0.1:80/healthz"},
		{"", "", true, "http://127.0.0.1:9090/healthz"},
		{"", "[::1]:9", true, "http://[::1]:9/healthz"},
	}
	for _, tt := range tests {
		env := map[string]string{"FAIRLEAD_HTTP_ADDR": tt.http, "FAIRLEAD_ADMIN_ADDR": tt.admin}
		if got := healthURL(tt.asked, func(k string) string { return env[k] }); got != tt.want {
			t.Errorf("%+v: got %s", tt, got)
		}
	}
}

func TestHealth(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write([]byte("said " + r.URL.Path))
	}))
	defer srv.Close()
	var out bytes.Buffer
	env := &Env{Stdout: &out}
	if err := (&HealthCmd{URL: srv.URL + "/healthz", Timeout: 5 * time.Second}).Run(t.Context(), env); err != nil || out.String() != "said /healthz\n" {
		t.Errorf("got %q %v", out.String(), err)
	}
	err := (&HealthCmd{URL: srv.URL + "/healthz", Ready: true, Timeout: 5 * time.Second}).Run(t.Context(), env)
	if err == nil || !strings.Contains(err.Error(), "503 said /readyz") {
		t.Errorf("ready: got %v", err)
	}
}

// busEnv is an Env on an embedded NATS server.
func busEnv(t *testing.T) (*Env, *bytes.Buffer, *nats.Conn) {
	t.Helper()
	url := natsdev.Test(t).ClientURL()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	out := &bytes.Buffer{}
	return &Env{Stdout: out, Stderr: &bytes.Buffer{}, Namespace: "fl", Connect: func(context.Context) (*nats.Conn, error) { return nats.Connect(url) }}, out, nc
}

func TestPubOnTheBus(t *testing.T) {
	env, _, nc := busEnv(t)
	sub, err := nc.SubscribeSync("fl.topic.chat.a")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := (&PubCmd{Topic: "chat.a", Data: `{"a":1}`, Event: "tick", Key: "k", Count: 1, NATS: true}).Run(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	m, err := sub.NextMsg(5 * time.Second)
	if err != nil || string(m.Data) != `{"a":1}` || m.Header.Get(wire.HeaderEvent) != "tick" || m.Header.Get(nats.MsgIdHdr) != "chat.a|k" {
		t.Errorf("got %+v %v", m, err)
	}
	if err := (&PubCmd{Topic: "chat.*", Event: "tick", Count: 1, NATS: true}).Run(t.Context(), env); wire.CodeOf(err) != wire.InvalidArgument {
		t.Errorf("a wildcard: got %v", err)
	}
}

func TestCallOnTheBus(t *testing.T) {
	env, out, nc := busEnv(t)
	_, err := nc.Subscribe("fl.call.sum", func(m *nats.Msg) {
		_ = nc.PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{wire.HeaderProgress: {"1"}}, Data: []byte("half")})
		_ = m.Respond([]byte("3"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := (&CallCmd{Method: "sum", Data: "[1,2]", NATS: true}).Run(t.Context(), env); err != nil || out.String() != "3\n" {
		t.Errorf("got %q %v", out.String(), err)
	}
	if got := env.Stderr.(*bytes.Buffer).String(); got != "progress half\n" {
		t.Errorf("progress: got %q", got)
	}
	if err := (&CallCmd{Method: "nobody", NATS: true}).Run(t.Context(), env); wire.CodeOf(err) != wire.Unimplemented {
		t.Errorf("nobody: got %v", err)
	}
}

func TestToolsSayWhenTheGatewayIsAway(t *testing.T) {
	var stderr bytes.Buffer
	code := run(t.Context(), []string{"pub", "a", "1", "--url", "ws://127.0.0.1:1/ws"}, nil, &bytes.Buffer{}, &stderr)
	if code != exitFailure || !strings.Contains(stderr.String(), "UNAVAILABLE: ") || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("got %d %q", code, stderr.String())
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if code := run(t.Context(), []string{"version", "--json"}, nil, &out, &out); code != 0 || !strings.Contains(out.String(), `"go":"go`) {
		t.Errorf("got %d %q", code, out.String())
	}
}

func TestBenchRefusesRemoteHosts(t *testing.T) {
	var stderr bytes.Buffer
	code := run(t.Context(), []string{"bench", "connect", "--url", "ws://192.0.2.1/ws"}, nil, &bytes.Buffer{}, &stderr)
	if code != exitUsage || !strings.Contains(stderr.String(), "--allow-remote") {
		t.Errorf("got %d %q", code, stderr.String())
	}
}
