package gateway

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// system reads the next frame, which says what became of NATS.
func (p *peer) system(event string) {
	p.t.Helper()
	if got := p.read(); !strings.HasPrefix(got, `{"op":"system","event":"`+event+`","what":"nats","at":`) {
		p.t.Fatalf("frame %s, want %s", got, event)
	}
}

// NATS lost and back, twice: each client hears of it once, however many NATS
// connections were lost, and everything that was subscribed before is live
// from `recovered` on.
func TestSubscriptionsOutliveNATS(t *testing.T) {
	const clients, topics = 40, 5
	server := natsdev.Test(t)
	r := startGateway(t, server)
	peers, users := make([]*peer, clients), make([]string, clients)
	for i := range peers {
		peers[i] = r.dial()
		_, users[i], _ = peers[i].hello("")
		for topic := range topics {
			peers[i].subscribe(topic+2, fmt.Sprintf("t.%d", topic))
		}
		peers[i].subscribe(9, "w.*")
	}
	for round := range 2 {
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		for _, p := range peers {
			p.system("degraded")
			p.system("recovered")
		}
		nc := r.bus()
		for topic := range topics {
			tell(t, nc, fmt.Sprintf("fl.topic.t.%d", topic), fmt.Sprintf(`"marked %d"`, round))
		}
		tell(t, nc, "fl.topic.w.x", fmt.Sprint(round))
		for _, user := range users {
			tell(t, nc, "fl.user."+user, fmt.Sprint(round))
		}
		for i, p := range peers {
			got := map[string]int{}
			for range topics + 2 {
				got[p.read()]++
			}
			want := []string{
				fmt.Sprintf(`{"topic":"w.x","event":"message","data":%d}`, round),
				fmt.Sprintf(`{"event":"message","data":%d,"direct":true}`, round),
			}
			for topic := range topics {
				want = append(want, fmt.Sprintf(`{"topic":"t.%d","event":"message","data":"marked %d"}`, topic, round))
			}
			for _, frame := range want {
				if got[frame] != 1 {
					t.Errorf("round %d, client %d: %d of %s, want one", round, i, got[frame], frame)
				}
			}
			p.silent()
		}
	}
}

// NATS may be away when the gateway begins: it lets clients in, says that it
// can't serve them yet, and serves them when NATS comes.
func TestNATSComesLater(t *testing.T) {
	server := natsdev.Test(t)
	server.Shutdown()
	r := launchGateway(t, server)
	status := func(path string) int {
		res, err := http.Get("http://" + r.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		http.DefaultClient.CloseIdleConnections()
		return res.StatusCode
	}
	if got := status("/healthz"); got != http.StatusOK {
		t.Errorf("/healthz: %d, want 200: it is up", got)
	}
	if got := status("/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d, want 503", got)
	}
	p := r.dial()
	for _, frame := range []string{`{"op":"hello","id":1}`, `{"op":"subscribe","id":1,"topic":"a.b"}`, `{"op":"publish","id":1,"topic":"a.b","data":1}`} {
		p.send(frame)
		if details := p.expectError(1, "UNAVAILABLE"); details["outcome"] != "none" {
			t.Errorf("%s: details %v, want outcome none", frame, details)
		}
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	r.awaitReady()
	if got := status("/readyz"); got != http.StatusOK {
		t.Errorf("/readyz: %d, want 200", got)
	}
	p.hello("") // no word of a NATS that it never had
	p.subscribe(2, "a.b")
	tell(t, r.bus(), "fl.topic.a.b", "1")
	p.expect(`{"topic":"a.b","event":"message","data":1}`)
}

// heardOf is what clients were told, by a link of two connections that are
// tested as the test says.
func heardOf(tested func() error, alive func() bool) (l *link, a, b *nats.Conn, told *[]string) {
	told = new([]string)
	return &link{
		log: slog.New(slog.DiscardHandler), down: map[*nats.Conn]bool{}, tested: tested, alive: alive,
		tell: func(event string) { *told = append(*told, event) },
	}, new(nats.Conn), new(nats.Conn), told
}

func TestLinkIsBackWhenBothConnectionsAre(t *testing.T) {
	l, a, b, told := heardOf(func() error { return nil }, func() bool { return true })
	if l.up() {
		t.Error("up before it was connected")
	}
	l.connected(nil)
	steps := []struct {
		step func()
		up   bool
		told string
	}{
		{func() {}, true, "[]"},
		{func() { l.disconnected(a, nil) }, false, "[degraded]"},
		{func() { l.disconnected(b, nil) }, false, "[degraded]"},
		{func() { l.connected(a) }, false, "[degraded]"},
		{func() { l.connected(b) }, true, "[degraded recovered]"},
		{func() { l.connected(b) }, true, "[degraded recovered]"},
		{func() { l.disconnected(b, nil) }, false, "[degraded recovered degraded]"},
		{func() { l.connected(b) }, true, "[degraded recovered degraded recovered]"},
	}
	for i, s := range steps {
		if s.step(); l.up() != s.up || fmt.Sprint(*told) != s.told {
			t.Errorf("step %d: up %t, told %v; want %t, %s", i, l.up(), *told, s.up, s.told)
		}
	}
}

// A server that does not answer in time, though the connection stands, is asked
// again; nothing else would come to say that it is back.
func TestLinkIsTestedUntilItAnswers(t *testing.T) {
	tests := 0
	l, a, _, told := heardOf(func() error {
		if tests++; tests%3 != 0 {
			return errors.New("timeout")
		}
		return nil
	}, func() bool { return true })
	l.connected(nil)
	l.disconnected(a, nil)
	l.connected(a)
	if got := fmt.Sprint(*told); got != "[degraded recovered]" || !l.up() || tests != 6 {
		t.Errorf("told %s, up %t after %d tests; want degraded and recovered after 6", got, l.up(), tests)
	}
}

// A connection that is lost again while it is tested ends the test: its own
// return is the next.
func TestLinkLostWhileItIsTested(t *testing.T) {
	alive := true
	l, a, _, told := heardOf(func() error {
		if alive {
			return nil
		}
		return nats.ErrConnectionClosed
	}, func() bool { return alive })
	l.connected(nil)
	l.disconnected(a, nil)
	alive = false
	l.connected(a)
	if got := fmt.Sprint(*told); got != "[degraded]" || l.up() {
		t.Errorf("told %s, up %t; want degraded only", got, l.up())
	}
	alive = true
	l.connected(a)
	if got := fmt.Sprint(*told); got != "[degraded recovered]" || !l.up() {
		t.Errorf("told %s, up %t; want recovered", got, l.up())
	}
}
