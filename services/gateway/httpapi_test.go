package gateway

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

func withHTTPAPI(cfg *Config, _ *Deps, _ *rules.Options) { cfg.HTTPAPI = true }

// fetch sends a request and returns the answer with its body.
func (r *rig) fetch(req *http.Request) (*http.Response, string) {
	r.t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, strings.TrimSpace(string(b))
}

// post publishes over HTTP; header holds pairs of name and value.
func (r *rig) post(path, token, payload string, header ...string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), "POST", "http://"+r.addr+path, strings.NewReader(payload))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, text := r.fetch(req)
	if got := res.Header.Get("Access-Control-Allow-Origin"); got != "" {
		r.t.Errorf("%s: Access-Control-Allow-Origin %q, want none", path, got)
	}
	return res.StatusCode, text
}

func (r *rig) wantPosted(path, token, payload string, header ...string) {
	r.t.Helper()
	if status, text := r.post(path, token, payload, header...); status != 200 || text != `{}` {
		r.t.Fatalf("POST %s: %d %s, want 200 {}", path, status, text)
	}
}

func TestHTTPPublishToTopic(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode, withHTTPAPI)
	sub := hear(t, r.bus(), "fl.topic.>")
	shop := token(t, auth.Claims{User: "shop", Publish: []string{"chat.>", "räume.größe"}})
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	p.send(`{"op":"subscribe","id":2,"topic":"chat.lobby"}`)
	p.expect(`{"id":2,"ok":{"topic":"chat.lobby"}}`)

	// The body goes through byte for byte, and only the gateway names its user.
	r.wantPosted("/v1/topics/chat.lobby", shop, `{"n": 1.0 }`, "Fl-User", "root", "Fl-Conn", "c", "Fl-Exclude", "c")
	p.expect(`{"topic":"chat.lobby","event":"message","data":{"n": 1.0 }}`)
	msg := heard(t, sub)
	if string(msg.Data) != `{"n": 1.0 }` || msg.Header.Get("Fl-User") != "shop" || msg.Header.Get("Fl-Event") != "message" {
		t.Errorf("message %s %v", msg.Data, msg.Header)
	}
	for _, name := range []string{"Fl-Conn", "Fl-Exclude", "Fl-Topic"} {
		if got := msg.Header.Get(name); got != "" {
			t.Errorf("header %s: %q, want none", name, got)
		}
	}

	r.wantPosted("/v1/topics/chat.lobby?event=order.new", shop, `"x"`, "Idempotency-Key", "k1")
	p.expect(`{"topic":"chat.lobby","event":"order.new","data":"x"}`)
	if got := heard(t, sub).Header.Get("Fl-Event"); got != "order.new" {
		t.Errorf("event %q, want order.new", got)
	}
	r.wantPosted("/v1/topics/chat.lobby", shop, ``)
	p.expect(`{"topic":"chat.lobby","event":"message","data":null}`)
	heard(t, sub)
	r.wantPosted("/v1/topics/"+url.PathEscape("räume.größe"), shop, `1`)
	if got := heard(t, sub).Subject; got != "fl.topic.räume.größe" {
		t.Errorf("subject %q", got)
	}
}

func TestHTTPPublishToUser(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode, withHTTPAPI)
	sub := hear(t, r.bus(), "fl.user.*")
	shop := token(t, auth.Claims{User: "shop", Send: []string{"ann", "a b/c.d"}})
	phone, laptop := r.dial(), r.dial()
	for _, p := range []*peer{phone, laptop} {
		p.hello(token(t, auth.Claims{User: "ann"}))
	}
	r.wantPosted("/v1/users/ann?topic=orders&event=paid", shop, `{"n":1}`)
	for _, p := range []*peer{phone, laptop} {
		p.expect(`{"topic":"orders","event":"paid","data":{"n":1},"from":"shop","direct":true}`)
	}
	if msg := heard(t, sub); msg.Header.Get("Fl-User") != "shop" || msg.Header.Get("Fl-Topic") != "orders" || msg.Header.Get("Fl-Event") != "paid" {
		t.Errorf("headers %v", msg.Header)
	}
	r.wantPosted("/v1/users/"+url.PathEscape("a b/c.d"), shop, `1`)
	if got := heard(t, sub).Subject; got != "fl.user.a=20b=2Fc=2Ed" {
		t.Errorf("subject %q, want the user as one token", got)
	}
	everybody := token(t, auth.Claims{User: "shop", Send: []string{"*"}})
	r.wantPosted("/v1/users/ann", everybody, `2`)
	phone.expect(`{"event":"message","data":2,"from":"shop","direct":true}`)
}

// TestHTTPPublishRefused: nothing that is refused reaches NATS.
func TestHTTPPublishRefused(t *testing.T) {
	server := natsdev.Test(t)
	r := startGateway(t, server, jwtMode, withHTTPAPI, limited(func(l *Limits) { l.PayloadBytes = 1024 }))
	all := hear(t, r.bus(), "fl.>")
	full := token(t, auth.Claims{User: "shop", Publish: []string{">"}, Send: []string{"ann"}})
	plain := token(t, auth.Claims{User: "shop"})
	none := token(t, auth.Claims{User: "shop", Publish: []string{}, Send: []string{}})
	other := token(t, auth.Claims{User: "shop", Publish: []string{"doc.>"}, Send: []string{"bob"}})
	fits, large := `"`+strings.Repeat("x", 1022)+`"`, `"`+strings.Repeat("x", 1023)+`"`
	for _, c := range []struct {
		name, path, token, payload string
		status                     int
		code                       string
		header                     []string
	}{
		{"no token", "/v1/topics/chat.a", "", `1`, 401, "UNAUTHENTICATED", nil},
		{"no token for a user", "/v1/users/ann", "", `1`, 401, "UNAUTHENTICATED", nil},
		{"another scheme", "/v1/topics/chat.a", "", `1`, 401, "UNAUTHENTICATED", []string{"Authorization", "Basic YTpi"}},
		{"an empty token", "/v1/topics/chat.a", "", `1`, 401, "UNAUTHENTICATED", []string{"Authorization", "Bearer "}},
		{"a forged token", "/v1/topics/chat.a", forged(t, "shop"), `1`, 401, "UNAUTHENTICATED", nil},
		{"no publish list", "/v1/topics/chat.a", plain, `1`, 403, "PERMISSION_DENIED", nil},
		{"empty publish list", "/v1/topics/chat.a", none, `1`, 403, "PERMISSION_DENIED", nil},
		{"other publish list", "/v1/topics/chat.a", other, `1`, 403, "PERMISSION_DENIED", nil},
		{"no send list", "/v1/users/ann", plain, `1`, 403, "PERMISSION_DENIED", nil},
		{"empty send list", "/v1/users/ann", none, `1`, 403, "PERMISSION_DENIED", nil},
		{"other send list", "/v1/users/ann", other, `1`, 403, "PERMISSION_DENIED", nil},
		{"the rules deny", "/v1/topics/task.t_1", full, `1`, 403, "PERMISSION_DENIED", nil},
		{"a pattern", "/v1/topics/chat.*", full, `1`, 400, "INVALID_ARGUMENT", nil},
		{"a reserved topic", "/v1/topics/$SYS.a", full, `1`, 400, "INVALID_ARGUMENT", nil},
		{"a bad topic of a user", "/v1/users/ann?topic=a..b", full, `1`, 400, "INVALID_ARGUMENT", nil},
		{"a bad user", "/v1/users/a%00b", full, `1`, 400, "INVALID_ARGUMENT", nil},
		{"a bad event", "/v1/topics/chat.a?event=a%20b", full, `1`, 400, "INVALID_ARGUMENT", nil},
		{"a bad key", "/v1/topics/chat.a", full, `1`, 400, "INVALID_ARGUMENT", []string{"Idempotency-Key", strings.Repeat("k", 129)}},
		{"half a body", "/v1/topics/chat.a", full, `{"a":`, 400, "INVALID_ARGUMENT", nil},
		{"two values", "/v1/topics/chat.a", full, `1 2`, 400, "INVALID_ARGUMENT", nil},
		{"no UTF-8", "/v1/topics/chat.a", full, "\"\xff\"", 400, "INVALID_ARGUMENT", nil},
		{"too large", "/v1/topics/chat.a", full, large, 413, "RESOURCE_EXHAUSTED", nil},
		{"too large for a user", "/v1/users/ann", full, large, 413, "RESOURCE_EXHAUSTED", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, text := r.post(c.path, c.token, c.payload, c.header...)
			var answer struct {
				Error struct{ Code, Message string }
			}
			if err := json.Unmarshal([]byte(text), &answer); err != nil || status != c.status || answer.Error.Code != c.code || answer.Error.Message == "" {
				t.Errorf("%d %s, want %d and error %s", status, text, c.status, c.code)
			}
		})
	}
	r.wantPosted("/v1/topics/chat.last", full, fits)
	msg := heard(t, all)
	for strings.HasPrefix(msg.Subject, "fl.probe.") { // the gateway's own
		msg = heard(t, all)
	}
	if msg.Subject != "fl.topic.chat.last" {
		t.Errorf("%s reached NATS: %s", msg.Subject, msg.Data)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.addr+"/v1/topics/chat.a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, _ := r.fetch(req); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d, want 405", res.StatusCode)
	}

	off := startGateway(t, server, jwtMode)
	for _, path := range []string{"/v1/topics/chat.a", "/v1/users/ann"} {
		if status, text := off.post(path, full, `1`); status != http.StatusNotFound {
			t.Errorf("%s where it is off: %d %s, want 404", path, status, text)
		}
	}
}

// TestHTTPPublishInDev: that anonymous users are let in does not open it.
func TestHTTPPublishInDev(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withHTTPAPI)
	for _, authorization := range []string{"Basic YTpi", "Bearer ", "Bearer"} {
		if status, text := r.post("/v1/topics/chat.a", "", `1`, "Authorization", authorization); status != 401 {
			t.Errorf("%q: %d %s, want 401", authorization, status, text)
		}
	}
	if status, text := r.post("/v1/topics/chat.a", "", `1`); status != 401 {
		t.Errorf("without a token: %d %s, want 401", status, text)
	}
	// net/http trims "Bearer " on the way in; the check behind it stands alone.
	req := httptest.NewRequestWithContext(t.Context(), "POST", "http://localhost/v1/topics/chat.a", strings.NewReader(`1`))
	req.Header.Set("Authorization", "Bearer ")
	answer := httptest.NewRecorder()
	r.g.handler().ServeHTTP(answer, req)
	if answer.Code != 401 {
		t.Errorf("an empty token: %d %s, want 401", answer.Code, answer.Body)
	}
	p := r.dial()
	p.hello("")
	p.send(`{"op":"subscribe","id":2,"topic":"chat.a"}`)
	p.expect(`{"id":2,"ok":{"topic":"chat.a"}}`)
	r.wantPosted("/v1/topics/chat.a", token(t, auth.Claims{User: "shop", Publish: []string{"chat.*"}}), `1`)
	p.expect(`{"topic":"chat.a","event":"message","data":1,"from":"shop"}`)
}
