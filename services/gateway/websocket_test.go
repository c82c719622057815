package gateway

import (
	"net/http"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
)

// What can't be upgraded is told so before it has a place or takes anything of
// the limit of new connections.
func TestWhatIsNoHandshakeTakesNothing(t *testing.T) {
	r := startGateway(t, natsdev.Test(t),
		func(cfg *Config, _ *Deps, _ *rules.Options) { cfg.Limits.ConnectionsPerAddress = 1 },
		withRules("limits: {arrivals: {capacity: 2, refill: 1, per: 1h, key: address}}\nadmission: {connect: arrivals}\ntopics: [{match: \">\", subscribe: any}]\n"))
	decideLimits(t, r)
	asked := make(chan *nats.Msg, 64)
	nc := r.bus()
	if _, err := nc.ChanSubscribe("fl.svc.ratelimit.consume", asked); err != nil {
		t.Fatal(err)
	}
	settled(t, nc)
	proper := map[string]string{"Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
	try := func(header, value string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.addr+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range proper {
			req.Header.Set(name, value)
		}
		req.Header.Set(header, value)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	p := r.dial() // has the only place of the address
	p.hello("")
	for _, c := range []struct {
		header, value string
		want          int
	}{
		{"Connection", "close", http.StatusUpgradeRequired},
		{"Upgrade", "h2c", http.StatusUpgradeRequired},
		{"Sec-WebSocket-Version", "8", http.StatusBadRequest},
		{"Sec-WebSocket-Key", "short", http.StatusBadRequest},
		{"X-Other", "1", http.StatusTooManyRequests}, // a handshake
	} {
		if got := try(c.header, c.value); got != c.want {
			t.Errorf("%s: %s: got %d, want %d", c.header, c.value, got, c.want)
		}
	}
	r.leave(p)
	for range 5 {
		if got := try("Connection", "close"); got != http.StatusUpgradeRequired {
			t.Errorf("got %d, want %d", got, http.StatusUpgradeRequired)
		}
	}
	second := r.dial()
	second.hello("")
	r.leave(second)
	if got := try("X-Other", "1"); got != http.StatusTooManyRequests {
		t.Errorf("a third handshake: got %d, want %d", got, http.StatusTooManyRequests)
	}
	settled(t, nc)
	if n := len(asked); n != 3 {
		t.Errorf("the limit was asked for %d times, want for 3 handshakes", n)
	}
}

// A connection that nobody decided about is told to come again, not that there
// are too many.
func TestHelloWhileNobodyDecidesIsNotTooMany(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules("limits: {arrivals: {capacity: 2, refill: 1, per: 1h}}\nadmission: {connect: arrivals}\ntopics: [{match: \">\", subscribe: any}]\n"))
	p := r.dial()
	p.send(`{"op":"hello","id":1}`)
	p.expectError(1, "UNAVAILABLE")
	if code := p.closed(); code != 1013 {
		t.Errorf("closed with %d, want 1013", code)
	}
}
