package gateway

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
)

// longDrain is a window that no test waits for: what ends a drain is that
// everybody has left.
const longDrain = time.Hour

func draining(window, delay time.Duration) option {
	return func(cfg *Config, _ *Deps, _ *rules.Options) { cfg.DrainWindow, cfg.DrainDelay = window, delay }
}

// drained reads the next frame, which asks the client to leave, and returns
// after how long.
func (p *peer) drained() time.Duration {
	p.t.Helper()
	var f struct {
		Op      string
		AfterMs *int64
	}
	if got := p.read(); json.Unmarshal([]byte(got), &f) != nil || f.Op != "drain" || f.AfterMs == nil {
		p.t.Fatalf("frame %s, want drain", got)
	}
	return time.Duration(*f.AfterMs) * time.Millisecond
}

// wantDraining checks that nobody is sent here any more.
func (r *rig) wantDraining() {
	r.t.Helper()
	if err := r.g.Ready(); err == nil || err.Error() != "draining" {
		r.t.Errorf("readiness: %v, want draining", err)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), "GET", "http://"+r.addr+"/readyz", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if res, text := r.fetch(req); res.StatusCode != http.StatusServiceUnavailable {
		r.t.Errorf("/readyz: %d %s, want 503", res.StatusCode, text)
	}
	res, text := r.refused(r.t, http.StatusServiceUnavailable)
	if after := res.Header.Get("Retry-After"); after == "" || after == "0" {
		r.t.Errorf("503 with Retry-After %q says %q, want when to try again", after, text)
	}
}

// While it drains a gateway serves whom it has, and it ends when they have left.
func TestDrainServesWhoIsThere(t *testing.T) {
	server := natsdev.Test(t)
	r := startGateway(t, server, draining(longDrain, 0))
	nc := r.bus()
	worker := hear(t, nc, "fl.call.slow")
	baseline := server.Connections() - 4 // without the gateway's own

	peers := make([]*peer, 40)
	for i := range peers {
		peers[i] = r.dial()
		peers[i].hello("")
	}
	caller := peers[0]
	caller.subscribe(2, "a.b")
	caller.send(`{"op":"call","id":3,"method":"slow","timeoutMs":60000}`)
	call := heard(t, worker)

	r.stop()
	delays := map[time.Duration]bool{}
	for _, p := range peers {
		after := p.drained()
		if after < 0 || after > longDrain {
			t.Errorf("asked to leave after %s, want it within the window", after)
		}
		delays[after] = true
	}
	if len(delays) < len(peers)/2 {
		t.Errorf("%d delays for %d clients, want them spread", len(delays), len(peers))
	}
	r.wantDraining()

	// What is under way goes on.
	if err := call.Respond([]byte(`"done"`)); err != nil {
		t.Fatal(err)
	}
	caller.expect(`{"id":3,"ok":"done"}`)
	tell(t, nc, "fl.topic.a.b", "1")
	caller.expect(`{"topic":"a.b","event":"message","data":1}`)
	caller.subscribe(4, "c.d")
	caller.send(`{"op":"publish","id":5,"topic":"x.y","data":1}`)
	caller.expect(`{"id":5,"ok":{}}`)

	for _, p := range peers {
		p.ws.CloseNow()
	}
	r.end() // long before the window
	if n := r.g.connections.size(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	eventually(t, "the gateway's NATS connections are closed", func() bool { return server.Connections() == baseline })
}

// Who does not leave is closed with 1001, behind what was queued; what it
// published last has reached NATS when Run returns.
func TestDrainClosesWhoStays(t *testing.T) {
	server := natsdev.Test(t)
	r := startGateway(t, server, draining(100*time.Millisecond, 0))
	nc := r.bus()
	published, closed := hear(t, nc, "fl.topic.x.y"), hear(t, nc, "fl.event.connection.closed")
	p := r.dial()
	p.hello("")
	r.stop()
	if after := p.drained(); after > 100*time.Millisecond {
		t.Errorf("asked to leave after %s, want it within the window", after)
	}
	p.send(`{"op":"publish","topic":"x.y","data":"last"}`)
	if code := p.closed(); code != 1001 {
		t.Errorf("closed with %d, want 1001", code)
	}
	r.end()
	if msg := heard(t, published); string(msg.Data) != `"last"` {
		t.Errorf("published %s", msg.Data)
	}
	var e eventJSON
	if err := json.Unmarshal(heard(t, closed).Data, &e); err != nil || e.Code != 1001 {
		t.Errorf("closed event %+v (%v), want code 1001", e, err)
	}
}

// During the delay load balancers notice, and clients don't: whoever is still sent
// here is taken in, also by a gateway that had nobody. Behind it nobody is.
func TestDrainDelay(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), draining(longDrain, 3*time.Second))
	r.stop()
	eventually(t, "readiness fails", func() bool { return r.g.Ready() != nil })
	p := r.dial()
	p.hello("")
	p.silent()
	p.drained()
	r.wantDraining()
	p.ws.CloseNow()
	r.end()
}

// Calls whose client stays to the end are told to the workers as cancelled.
func TestDrainCancelsCallsOfWhoStays(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), draining(100*time.Millisecond, 0))
	started, cancelled := cancellable(t, r, "slow")
	p := r.dial()
	p.hello("")
	p.send(`{"op":"call","id":2,"method":"slow","timeoutMs":60000}`)
	subject := await(t, "the call arrives", started)
	r.stop()
	p.drained()
	if code := p.closed(); code != 1001 {
		t.Errorf("closed with %d, want 1001", code)
	}
	if got := await(t, "the drain cancels", cancelled); got != subject {
		t.Errorf("cancelled %s, want %s", got, subject)
	}
	r.end()
}

// Run returns without an error and without a client's help.
func TestStopWithoutNATS(t *testing.T) {
	server := natsdev.Test(t)
	r := startGateway(t, server)
	p := r.dial()
	p.hello("")
	server.Shutdown()
	p.system("degraded")
	r.stop()
	p.drained()
	if code := p.closed(); code != 1001 {
		t.Errorf("closed with %d, want 1001", code)
	}
	r.end()
}

// What a backend asks of a client that is being closed is answered.
func TestDrainAnswersRequestsToClients(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), draining(100*time.Millisecond, 0))
	nc := r.bus()
	p := r.dial()
	conn, _, _ := p.hello("")
	inbox := nc.NewInbox()
	answers := hear(t, nc, inbox)
	if err := nc.PublishMsg(&nats.Msg{Subject: "fl.conn." + conn, Reply: inbox, Data: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	asked(t, p)
	r.stop()
	p.drained()
	p.closed()
	if code := heard(t, answers).Header.Get("Nats-Service-Error-Code"); code != "UNAVAILABLE" {
		t.Errorf("answered with code %q, want UNAVAILABLE", code)
	}
	r.end()
}
