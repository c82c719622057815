package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

func offering(subprotocols ...string) dialOption {
	return func(o *websocket.DialOptions) { o.Subprotocols = subprotocols }
}

func host(name string) dialOption {
	return func(o *websocket.DialOptions) { o.Host = name }
}

// refused tries an upgrade that must not happen and returns what answered it.
func (r *rig) refused(t *testing.T, status int, options ...dialOption) (*http.Response, string) {
	t.Helper()
	p, res, err := r.tryDial(options...)
	if err == nil {
		p.ws.CloseNow()
		t.Fatalf("upgraded, want %d", status)
	}
	if res == nil {
		t.Fatalf("no response: %v", err)
	}
	text := body(t, res)
	if res.StatusCode != status {
		t.Fatalf("status %d (%s), want %d", res.StatusCode, text, status)
	}
	return res, text
}

// message returns the next WebSocket message as it came.
func (p *peer) message() []byte {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	_, data, err := p.ws.Read(ctx)
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	return data
}

// hear subscribes to a subject as a backend does; the server has it on return.
func hear(t *testing.T, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	settled(t, nc)
	return sub
}

func heard(t *testing.T, sub *nats.Subscription) *nats.Msg {
	t.Helper()
	msg, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatalf("%s: %v", sub.Subject, err)
	}
	return msg
}

func tell(t *testing.T, nc *nats.Conn, subject, data string) {
	t.Helper()
	if err := nc.Publish(subject, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func settled(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
}

func TestSubprotocols(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	for _, offered := range [][]string{{"fairlead.v2"}, {"graphql-ws", "mqtt"}, {"FAIRLEAD.V1"}} {
		if _, text := r.refused(t, 400, offering(offered...)); !strings.Contains(text, "fairlead.v1") {
			t.Errorf("offering %q: 400 says %q, want the name of the known one", offered, text)
		}
	}
	for _, c := range []struct {
		offered []string
		chosen  string
	}{{nil, ""}, {[]string{"fairlead.v1"}, "fairlead.v1"}, {[]string{"fairlead.v2", "fairlead.v1"}, "fairlead.v1"}} {
		p := r.dial(offering(c.offered...))
		if got := p.ws.Subprotocol(); got != c.chosen {
			t.Errorf("offering %q: chose %q, want %q", c.offered, got, c.chosen)
		}
		p.hello("")
	}
}

// TestPlainClientsGetOneObjectPerMessage sends bursts until a client of
// fairlead.v1 has been sent an array: the same frames reach a client that
// offered no subprotocol one by one.
func TestPlainClientsGetOneObjectPerMessage(t *testing.T) {
	const burst = 1000
	r := startGateway(t, natsdev.Test(t))
	plain, batched := r.dial(offering()), r.dial()
	for _, p := range []*peer{plain, batched} {
		p.hello("")
		p.send(`{"op":"subscribe","id":2,"topic":"burst"}`)
		p.expect(`{"id":2,"ok":{"topic":"burst"}}`)
	}
	nc := r.bus()
	n, arrays := 0, 0
	receive := func(p *peer, from int, whole func(data []byte)) {
		for next := from; next < from+burst; {
			data := p.message()
			whole(data)
			if data[0] != '[' {
				data = fmt.Appendf(nil, "[%s]", data)
			}
			if err := json.Unmarshal(data, &p.queued); err != nil {
				t.Fatal(err)
			}
			for ; len(p.queued) > 0; next++ {
				p.expect(fmt.Sprintf(`{"topic":"burst","event":"message","data":%d}`, next))
			}
		}
	}
	eventually(t, "array sent to a client of fairlead.v1", func() bool {
		for i := range burst {
			tell(t, nc, "fl.topic.burst", fmt.Sprint(n+i))
		}
		settled(t, nc)
		receive(batched, n, func(data []byte) {
			if data[0] == '[' {
				arrays++
			}
		})
		receive(plain, n, func(data []byte) {
			if data[0] != '{' || bytes.Contains(data, []byte("}{")) {
				t.Fatalf("a client without a subprotocol was sent %.100s", data)
			}
		})
		n += burst
		return arrays > 0
	})
	// It may send arrays all the same, and the answers come one by one.
	plain.send(`[{"op":"unsubscribe","id":3,"topic":"x"},{"op":"unsubscribe","id":4,"topic":"x"}]`)
	for id := 3; id <= 4; id++ {
		if got, want := string(plain.message()), fmt.Sprintf(`{"id":%d,"ok":{}}`, id); got != want {
			t.Errorf("answer %s, want %s", got, want)
		}
	}
}

func TestUpgradeOrigins(t *testing.T) {
	server := natsdev.Test(t)
	r := startGateway(t, server, jwtMode)
	for _, origin := range []string{"https://evil.example", "null", "http://" + r.addr + ".evil.example", "http://localhost:3000"} {
		if _, text := r.refused(t, 403, header("Origin", origin)); !strings.Contains(text, origin) || !strings.Contains(text, "FAIRLEAD_ORIGINS") {
			t.Errorf("403 says %q, want the origin %s and the variable that would allow it", text, origin)
		}
	}
	ann := token(t, auth.Claims{User: "ann"})
	r.dial(header("Origin", "http://"+r.addr)).hello(ann)
	r.dial().hello(ann) // no browser

	listed := startGateway(t, server, jwtMode, func(cfg *Config, _ *Deps, _ *rules.Options) {
		cfg.Origins = []string{"https://*.example.com"}
	})
	listed.dial(header("Origin", "https://app.example.com")).hello(ann)
	listed.refused(t, 403, header("Origin", "http://app.example.com"))
	listed.refused(t, 403, header("Origin", "http://"+listed.addr))

	dev := startGateway(t, server)
	dev.dial(header("Origin", "http://localhost:3000")).hello("")
	dev.refused(t, 403, header("Origin", "https://evil.example"))
}

func TestDevAnswersToThisMachineOnly(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), func(cfg *Config, _ *Deps, _ *rules.Options) { cfg.Hosts = []string{"box.local"} })
	_, port, _ := strings.Cut(r.addr, ":")
	if _, text := r.refused(t, 403, host("rebound.example:"+port)); !strings.Contains(text, "rebound.example") || !strings.Contains(text, "--host") {
		t.Errorf("403 says %q, want the host and the flag that would allow it", text)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "[::1]", "box.local"} {
		r.dial(host(name + ":" + port)).hello("")
	}
	// Every path is behind the check, for a page elsewhere could read it too.
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.addr+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "rebound.example"
	if res, _ := r.fetch(req); res.StatusCode != 403 {
		t.Errorf("/readyz for another host: %d, want 403", res.StatusCode)
	}
}

func TestHostIsNotCheckedOutsideDev(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode)
	r.dial(host("realtime.example.com")).hello(token(t, auth.Claims{User: "ann"}))
}

// TestCookie: a browser sends a cookie from whichever page asks, so the page
// has to be an allowed one.
func TestCookie(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode, func(cfg *Config, _ *Deps, _ *rules.Options) { cfg.Auth.Cookie = "session" })
	ann := token(t, auth.Claims{User: "ann"})
	cookie, own := header("Cookie", "theme=dark; session="+ann), header("Origin", "http://"+r.addr)
	if _, text := r.refused(t, 403, cookie); !strings.Contains(text, "FAIRLEAD_ORIGINS") {
		t.Errorf("403 says %q, want the variable", text)
	}
	r.refused(t, 403, cookie, header("Origin", "https://evil.example"))
	r.refused(t, 401, own, header("Cookie", "session="+forged(t, "ann")))
	p := r.dial(own, cookie)
	p.send(`{"op":"hello","id":1}`)
	if g := p.greeting(); g.OK.User != "ann" {
		t.Errorf("user %q, want ann", g.OK.User)
	}
	// The header counts before the cookie; another cookie is none.
	p = r.dial(own, cookie, bearing(token(t, auth.Claims{User: "bob"})))
	p.send(`{"op":"hello","id":1}`)
	if g := p.greeting(); g.OK.User != "bob" {
		t.Errorf("user %q, want bob", g.OK.User)
	}
	p = r.dial(header("Cookie", "other="+ann))
	p.send(`{"op":"publish","id":1,"topic":"chat.lobby","data":1}`)
	p.expectError(1, "UNAUTHENTICATED")
}

func TestRequestID(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	opened := hear(t, r.bus(), "fl.event.connection.opened")
	for _, c := range []struct {
		sent string
		kept bool
	}{
		{"req-42", true}, {strings.Repeat("x", 128), true},
		{"", false}, {strings.Repeat("x", 129), false}, {"two words", false}, {"caf\xc3\xa9", false},
	} {
		var options []dialOption
		if c.sent != "" {
			options = append(options, header("X-Request-Id", c.sent))
		}
		conn, user, _ := r.dial(options...).hello("")
		var e eventJSON
		if err := json.Unmarshal(heard(t, opened).Data, &e); err != nil {
			t.Fatal(err)
		}
		if e.Conn != conn || e.User != user || e.Gateway != r.g.ID() || e.Address != "127.0.0.1" || e.At == 0 {
			t.Errorf("opened %+v, want connection %s of %s", e, conn, user)
		}
		if c.kept != (e.RequestID == c.sent) || len(e.RequestID) == 0 || len(e.RequestID) > 128 || strings.Contains(e.RequestID, " ") || strings.Contains(e.RequestID, "\xc3") {
			t.Errorf("request id %q became %q, want it kept: %t", c.sent, e.RequestID, c.kept)
		}
	}
}

func TestAuthorizationHeader(t *testing.T) {
	server := natsdev.Test(t)
	for name, options := range map[string][]option{"dev": nil, "jwt": {jwtMode}} {
		t.Run(name, func(t *testing.T) {
			r := startGateway(t, server, options...)
			_, res, err := r.tryDial(bearing(forged(t, "ann")))
			if err == nil || res == nil || res.StatusCode != 401 {
				t.Fatalf("a forged token: %v, %v, want 401", res, err)
			}
			if text := body(t, res); !strings.Contains(text, "token") {
				t.Errorf("401 says %q, want what is wrong with the token", text)
			}
			p := r.dial(bearing(token(t, auth.Claims{User: "ann"})))
			p.send(`{"op":"subscribe","id":1,"topic":"user.ann.inbox"}`)
			p.expect(`{"id":1,"ok":{"topic":"user.ann.inbox"}}`)
			p = r.dial(bearing(token(t, auth.Claims{User: "ann"})))
			p.send(`{"op":"hello","id":1}`)
			if g := p.greeting(); g.OK.User != "ann" {
				t.Errorf("hello behind the header answers user %q, want ann", g.OK.User)
			}
			p = r.dial(bearing(token(t, auth.Claims{User: "ann"})))
			p.send(`{"op":"hello","id":1,"token":"` + token(t, auth.Claims{User: "bob"}) + `"}`)
			p.expectError(1, "PERMISSION_DENIED")
		})
	}
}

// TestHeaderWithoutHello: where hello is optional, leaving it out costs nothing:
// direct messages come all the same, and the backend hears of the connection.
func TestHeaderWithoutHello(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode)
	nc := r.bus()
	opened := hear(t, nc, "fl.event.connection.opened")
	p := r.dial(bearing(token(t, auth.Claims{User: "ann"})))
	p.send(`{"op":"publish","id":1,"topic":"chat.lobby","data":1}`)
	p.expect(`{"id":1,"ok":{}}`)
	tell(t, nc, "fl.user.ann", `"hi"`)
	p.expect(`{"event":"message","data":"hi","direct":true}`)
	var e eventJSON
	if err := json.Unmarshal(heard(t, opened).Data, &e); err != nil || e.User != "ann" {
		t.Errorf("opened for user %q (%v), want ann", e.User, err)
	}
}
