package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// jwtMode is a gateway as `fairlead run` has it: no token, no identity.
func jwtMode(cfg *Config, _ *Deps, ro *rules.Options) {
	cfg.Development, cfg.AllowAnonymous, cfg.Auth.Mode = false, false, auth.ModeJWT
	ro.Mode = rules.Run
}

func bearing(token string) dialOption { return header("Authorization", "Bearer "+token) }

// forged returns a token of the user that another secret signed.
func forged(t *testing.T, user string) string {
	t.Helper()
	s, err := auth.Mint([]byte("a secret that no gateway of the tests knows"), auth.Claims{User: user})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// greeting is the answer to hello, with all that it may say.
type greeting struct {
	ID int64
	OK struct {
		Conn, User, Session, Gateway            string
		HeartbeatMs, MaxPayloadBytes, ExpiresAt int64
		Topics                                  []string
	}
}

func (p *peer) greeting() (g greeting) {
	p.t.Helper()
	got := p.read()
	if err := json.Unmarshal([]byte(got), &g); err != nil || g.OK.Conn == "" {
		p.t.Fatalf("frame:\n got %s\nwant the answer to hello", got)
	}
	return g
}

func TestHelloIsOptionalInDev(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	opened := hear(t, r.bus(), "fl.event.connection.opened")
	p := r.dial()
	p.send(`{"op":"publish","id":1,"topic":"chat.lobby","data":1}`)
	p.expect(`{"id":1,"ok":{}}`)
	var e eventJSON
	if err := json.Unmarshal(heard(t, opened).Data, &e); err != nil || !auth.IsAnonymousUser(e.User) {
		t.Errorf("the first op made user %q (%v), want an anonymous one", e.User, err)
	}
	p.send(`{"op":"hello","id":2}`)
	p.expectError(2, "FAILED_PRECONDITION")
}

func TestHelloIsRequiredOfTokens(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode)
	p := r.dial()
	for _, frame := range []string{
		`{"op":"subscribe","id":7,"topic":"chat.lobby"}`,
		`{"op":"unsubscribe","id":7,"topic":"chat.lobby"}`,
		`{"op":"publish","id":7,"topic":"chat.lobby","data":1}`,
		`{"op":"batch","id":7,"messages":[{"topic":"chat.lobby","data":1}]}`,
		`{"op":"call","id":7,"method":"orders.create"}`,
		`{"op":"refresh","id":7,"token":"` + token(t, auth.Claims{User: "ann"}) + `"}`,
	} {
		p.send(frame)
		p.expectError(7, "UNAUTHENTICATED")
	}
	p.send(`{"op":"publish","topic":"chat.lobby","data":1}`)
	p.expectError(0, "UNAUTHENTICATED")
	// The connection lives on, and hello still serves.
	if _, user, _ := p.hello(token(t, auth.Claims{User: "ann"})); user != "ann" {
		t.Errorf("user %q, want ann", user)
	}
}

func TestHelloAnswer(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode)
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	p := r.dial()
	p.send(`{"op":"hello","id":41,"token":"` + token(t, auth.Claims{User: "ann", ExpiresAt: expires}) + `"}`)
	g := p.greeting()
	if g.ID != 41 || g.OK.User != "ann" || g.OK.Session == "" || g.OK.Gateway != r.g.ID() ||
		g.OK.HeartbeatMs != 25_000 || g.OK.MaxPayloadBytes != 1_000_000 || g.OK.ExpiresAt != expires.UnixMilli() {
		t.Errorf("answer %+v", g)
	}
}

func TestSecondHello(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode)
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	p.send(`{"op":"hello","id":2,"token":"` + token(t, auth.Claims{User: "ann"}) + `"}`)
	p.expectError(2, "FAILED_PRECONDITION")
	p.send(`{"op":"hello","id":3,"token":"` + forged(t, "ann") + `"}`)
	p.expectError(3, "FAILED_PRECONDITION")
	p.send(`{"op":"publish","id":4,"topic":"chat.lobby","data":1}`)
	p.expect(`{"id":4,"ok":{}}`)
}

func TestBadTokenCloses(t *testing.T) {
	server := natsdev.Test(t)
	for _, mode := range []struct {
		name    string
		options []option
	}{{"dev", nil}, {"jwt", []option{jwtMode}}} {
		r := startGateway(t, server, mode.options...)
		past := time.Now().Add(-time.Hour)
		for name, bad := range map[string]string{
			"forged":  forged(t, "ann"),
			"garbage": "x",
			"expired": token(t, auth.Claims{User: "ann", IssuedAt: past, ExpiresAt: past.Add(time.Minute)}),
		} {
			t.Run(mode.name+"/"+name, func(t *testing.T) {
				p := r.dial()
				p.t = t
				// What stands behind the hello that is refused has no effect.
				p.send(`[{"op":"hello","id":5,"token":"` + bad + `"},{"op":"publish","id":6,"topic":"chat.lobby","data":1}]`)
				p.expectError(5, "UNAUTHENTICATED")
				frame, err := p.next()
				if code := websocket.CloseStatus(err); code != 4401 {
					t.Errorf("behind the error: %s, closed with %d, want 4401", frame, code)
				}
			})
		}
	}
	r := startGateway(t, server, jwtMode)
	p := r.dial()
	p.send(`{"op":"hello","id":5}`)
	p.expectError(5, "UNAUTHENTICATED")
	if code := p.closed(); code != 4401 {
		t.Errorf("hello without a token closed with %d, want 4401", code)
	}
}

func TestHelloTimeout(t *testing.T) {
	server := natsdev.Test(t)
	soon := func(cfg *Config, _ *Deps, _ *rules.Options) { cfg.HelloTimeout = 100 * time.Millisecond }
	r := startGateway(t, server, jwtMode, soon)
	greeted, admitted := r.dial(), r.dial(bearing(token(t, auth.Claims{User: "bob"})))
	greeted.hello(token(t, auth.Claims{User: "ann"}))
	silent := r.dial()
	silent.send(`{"op":"pong"}`) // no op that says who it is
	if code := silent.closed(); code != 4408 {
		t.Errorf("closed with %d, want 4408", code)
	}
	for _, p := range []*peer{greeted, admitted} {
		p.send(`{"op":"unsubscribe","id":2,"topic":"chat.lobby"}`)
		p.expect(`{"id":2,"ok":{}}`)
	}
	// Where hello is optional, silence is no offence.
	dev := startGateway(t, server, soon)
	p := dev.dial()
	eventually(t, "connection in dev is older than the timeout", func() bool {
		old := false
		dev.g.connections.each(func(c *connection) { old = old || time.Since(c.opened) > 3*dev.g.cfg.HelloTimeout })
		return old
	})
	p.send(`{"op":"unsubscribe","id":2,"topic":"chat.lobby"}`)
	p.expect(`{"id":2,"ok":{}}`)
}

func TestSessionKeepsIdentity(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	resume := func(token, session string) greeting {
		p := r.dial()
		p.send(`{"op":"hello","id":1,"token":"` + token + `","session":"` + session + `"}`)
		return p.greeting()
	}
	_, anon, session := r.dial().hello("")
	if again := resume("", session); again.OK.User != anon || again.OK.Session != session {
		t.Errorf("anonymous came back as %q/%q, want %q/%q", again.OK.User, again.OK.Session, anon, session)
	}
	if other := resume("", "made-up"); other.OK.User == anon || other.OK.Session == "made-up" {
		t.Errorf("a made-up session gave %+v", other.OK)
	}
	ann := token(t, auth.Claims{User: "ann"})
	conn, _, session := r.dial().hello(ann)
	if again := resume(ann, session); again.OK.Session != session || again.OK.Conn == conn {
		t.Errorf("ann came back as %+v, want session %q on a new connection", again.OK, session)
	}
	if bob := resume(token(t, auth.Claims{User: "bob"}), session); bob.OK.User != "bob" || bob.OK.Session == session {
		t.Errorf("bob with ann's session: %+v", bob.OK)
	}
	p := r.dial(bearing(ann))
	p.send(`{"op":"hello","id":1,"session":"` + session + `"}`)
	if again := p.greeting(); again.OK.Session != session {
		t.Errorf("behind the header: session %q, want %q", again.OK.Session, session)
	}
}

func TestClaimedTopics(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode)
	nc := r.bus()
	for round := range 50 { // a message may come at once behind the answer
		a, b := fmt.Sprintf("chat.a%d", round), fmt.Sprintf("chat.b%d", round)
		p := r.dial()
		p.send(`{"op":"hello","id":1,"token":"` + token(t, auth.Claims{User: "ann",
			Subscribe: []string{"chat.>"}, Topics: []string{a, b, a, "doc.denied", "chat.*"}}) + `"}`)
		g := p.greeting()
		if want := []string{a, b}; !slices.Equal(g.OK.Topics, want) {
			t.Fatalf("topics %q, want %q: once each, and no more than the claim and the rules allow", g.OK.Topics, want)
		}
		for _, topic := range []string{b, a} {
			tell(t, nc, "fl.topic."+topic, `1`)
			p.expect(`{"topic":"` + topic + `","event":"message","data":1}`)
		}
		p.send(`{"op":"unsubscribe","id":2,"topic":"` + a + `"}`)
		p.expect(`{"id":2,"ok":{}}`)
		tell(t, nc, "fl.topic."+a, `2`)
		tell(t, nc, "fl.topic."+b, `3`)
		p.expect(`{"topic":"` + b + `","event":"message","data":3}`)
		p.ws.CloseNow()
	}
}

func TestJoinAllAnswersBeforeAnyMessage(t *testing.T) {
	c := &connection{}
	interests := []*interest{{subject: "b"}, {subject: "a"}, {subject: "c"}}
	other := &connection{}
	interests[0].join(other, nil)
	answered := 0
	members := joinAll(interests, c, func() {
		answered++
		for _, in := range interests {
			if in.mu.TryLock() {
				t.Errorf("%s can deliver while the answer is sent", in.subject)
				in.mu.Unlock()
			}
		}
	})
	if answered != 1 {
		t.Errorf("answered %d times, want once", answered)
	}
	for i, m := range members {
		if m.in != interests[i] || m.in.members[m.index] != m {
			t.Errorf("member %d is not in its place in %s", i, interests[i].subject)
		}
		m.in.leave(m)
	}
	if n := interests[0].count(); n != 1 {
		t.Errorf("%d members of b are left, want the one who was there", n)
	}
}

// TestDirectBehindHello: the answer to hello promises that nothing sent to the
// user or the connection from then on is missed.
func TestDirectBehindHello(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode)
	nc := r.bus()
	for round := range 200 {
		p := r.dial()
		conn, user, _ := p.hello(token(t, auth.Claims{User: fmt.Sprintf("u%d", round)}))
		subject := "fl.user." + user
		if round%2 == 1 {
			subject = "fl.conn." + conn
		}
		tell(t, nc, subject, `"first"`)
		p.expect(`{"event":"message","data":"first","direct":true}`)
		p.ws.CloseNow()
	}
}

func TestRefresh(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode)
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann", Publish: []string{"chat.>"}}))
	for _, c := range []struct{ token, code string }{
		{token(t, auth.Claims{User: "bob"}), "PERMISSION_DENIED"},
		{forged(t, "ann"), "UNAUTHENTICATED"},
		{"x", "UNAUTHENTICATED"},
	} {
		p.send(`{"op":"refresh","id":2,"token":"` + c.token + `"}`)
		p.expectError(2, c.code)
		// The connection stays, and its rights with it.
		p.send(`[{"op":"publish","id":3,"topic":"chat.lobby","data":1},{"op":"publish","id":4,"topic":"doc.1","data":1}]`)
		p.expect(`{"id":3,"ok":{}}`)
		p.expectError(4, "PERMISSION_DENIED")
	}
	expires := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	p.send(`[{"op":"refresh","id":5,"token":"` + token(t, auth.Claims{User: "ann", Publish: []string{"doc.>"}, ExpiresAt: expires}) + `"},` +
		`{"op":"publish","id":6,"topic":"doc.1","data":1},{"op":"publish","id":7,"topic":"chat.lobby","data":1}]`)
	p.expect(fmt.Sprintf(`{"id":5,"ok":{"expiresAt":%d}}`, expires.UnixMilli()))
	p.expect(`{"id":6,"ok":{}}`)
	p.expectError(7, "PERMISSION_DENIED")
}

func TestExpiryCloses(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), jwtMode)
	closed := hear(t, r.bus(), "fl.event.connection.closed")
	now := time.Now()
	brief := func(user string) string { // one to two seconds: tokens count in whole ones
		return token(t, auth.Claims{User: user, IssuedAt: now.Add(-time.Minute), ExpiresAt: now.Add(2 * time.Second)})
	}
	lapsed, renewed, silent := r.dial(), r.dial(), r.dial(bearing(brief("eve")))
	lapsed.hello(brief("ann"))
	renewed.hello(brief("bob"))
	renewed.send(`{"op":"refresh","id":2,"token":"` + token(t, auth.Claims{User: "bob"}) + `"}`)
	if got := renewed.read(); !strings.Contains(got, `"expiresAt"`) {
		t.Fatalf("refresh: %s", got)
	}
	for _, p := range []*peer{lapsed, silent} {
		if code := p.closed(); code != 4401 {
			t.Errorf("closed with %d, want 4401", code)
		}
	}
	users := map[string]bool{}
	for range 2 {
		var e eventJSON
		if err := json.Unmarshal(heard(t, closed).Data, &e); err != nil || e.Code != 4401 {
			t.Errorf("closed event %+v (%v), want code 4401", e, err)
		}
		users[e.User] = true
	}
	if !users["ann"] || !users["eve"] {
		t.Errorf("closed events of %v, want ann and eve", users)
	}
	renewed.send(`{"op":"publish","id":3,"topic":"chat.lobby","data":1}`)
	renewed.expect(`{"id":3,"ok":{}}`)
}

// A client whose upgrade request said who it is need not send anything to hear
// what is sent to its user.
func TestPureListenerHearsItsUser(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	opened, err := nc.SubscribeSync("fl.event.connection.opened")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	p := r.dial(header("Authorization", "Bearer "+token(t, auth.Claims{User: "ann"})))
	if _, err := opened.NextMsg(patience); err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("fl.user.ann", []byte(`1`)); err != nil {
		t.Fatal(err)
	}
	p.expect(`{"event":"message","data":1,"direct":true}`)
	if _, user, _ := p.hello(""); user != "ann" {
		t.Errorf("a hello afterwards says %q", user)
	}
}

// Who is told behind its greeting what is away holds no lock of others meanwhile.
func TestAGreetingWaitsForNothingWithLocks(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	ds := r.g.dependencies
	ds.telling.Lock()
	defer ds.telling.Unlock()
	p := r.dial()
	p.send(`{"op":"hello","id":1}`)
	p.read()
	eventually(t, "the index of attributes is free", func() bool {
		free := r.g.attributes.mu.TryLock()
		if free {
			r.g.attributes.mu.Unlock()
		}
		return free
	})
}
