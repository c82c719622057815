//go:build unix

package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestSIGTERMWithoutConnectionsExitsAtOnce(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1, "FAIRLEAD_DRAIN_WINDOW=1m")
	g := s.gateways[0]
	g.signal()
	if code := g.exit(10 * time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestSIGTERMWithoutNATSExitsToo(t *testing.T) {
	t.Parallel()
	g := launchGateway(t, "nats://127.0.0.1:"+freePort(t))
	g.signal()
	if code := g.exit(10 * time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestDevDrainsToo(t *testing.T) {
	t.Parallel()
	g, _ := startDev(t)
	conn := dial(t, g.ws(), client.Options{})
	g.signal()
	if code := g.exit(20 * time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if e := conn.CloseError(); e == nil || e.Code != wire.CloseGoingAway {
		t.Errorf("the client that stayed: got %v, want close 1001", e)
	}
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1, "FAIRLEAD_DRAIN_WINDOW=1m")
	g := s.gateways[0]
	drains := make(chan client.Drain, 1)
	s.as(0, "ann").OnDrain(func(d client.Drain) { drains <- d })
	g.signal()
	receive(t, drains)
	g.signal()
	if code := g.exit(5 * time.Second); code != 1 {
		t.Errorf("exit code %d, want 1: it did not drain", code)
	}
}

// While a gateway drains it takes no more clients, and says so in a way that
// load balancers and clients understand; who is there is served to the end.
func TestDrainingGatewayRefusesNewClientsAndServesThoseItHas(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1, "FAIRLEAD_DRAIN_WINDOW=4s")
	g := s.gateways[0]
	ann := s.as(0, "ann")
	drains := make(chan client.Drain, 1)
	ann.OnDrain(func(d client.Drain) { drains <- d })
	room := subscribe(t, ann, "drain.room")

	worker := s.worker()
	asked := listen(t, worker, "fl.call.slow.work")
	answers := make(chan string, 1)
	go func() {
		answer, err := ann.Call(context.Background(), "slow.work", nil, client.CallOptions{Timeout: patience})
		answers <- fmt.Sprint(string(answer.Data), err)
	}()
	call := hear(t, asked)

	g.signal()
	if d := receive(t, drains); d.After < 0 || d.After > 4*time.Second {
		t.Errorf("drain frame says %s, want a delay within the window", d.After)
	}
	if status, body := get(t, g.http("/readyz")); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d %s, want 503", status, body)
	}
	if status, body := get(t, g.http("/healthz")); status != http.StatusOK {
		t.Errorf("/healthz: %d %s, want 200", status, body)
	}
	_, err := tryDial(t, s.url(0), client.Options{Token: token("bob", nil)})
	e := wire.AsError(err)
	if err == nil || e.Details["status"] != 503 || e.RetryAfter <= 0 {
		t.Errorf("upgrade while draining: got %v (retry after %s), want 503 with Retry-After", err, e.RetryAfter)
	}
	publish(t, ann, "drain.room", `"still here"`)
	expect(t, room, "ann", `"still here"`)
	must(t, call.Respond([]byte(`"done"`)))
	if got, want := receive(t, answers), `"done"<nil>`; got != want {
		t.Errorf("the call in flight: got %s, want %s", got, want)
	}
	if code := g.exit(20 * time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	<-ann.Done()
	if got := ann.CloseError(); got.Code != wire.CloseGoingAway {
		t.Errorf("who stayed: got %v, want close 1001", got)
	}
}

// Sixty clients talk through two gateways behind a balancer; one gateway is
// told to leave. Half of its clients move when asked, half wait until they are
// closed: nothing acknowledged is lost on any connection, whoever moved when
// asked has lost nothing at all.
func TestAcknowledgedMessagesSurviveADrainUnderLoad(t *testing.T) {
	t.Parallel()
	const clients, topics = 60, 6
	s := newStack(t, 2, "FAIRLEAD_DRAIN_WINDOW=2s")
	balancer := startLink(t, balance(s.gateways...), nil)
	r := &roamers{t: t, checker: newChecker(), url: "ws://" + balancer.addr() + "/ws"}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	for i := range clients {
		r.all.Go(func() {
			r.roam(ctx, fmt.Sprintf("user%d", i), fmt.Sprintf("drain.t%d", i%topics), i/2%2 == 0)
		})
	}
	eventually(t, "every client is subscribed", func() (any, bool) { return r.live.Load(), r.live.Load() == clients })
	before := r.acked.Load()
	eventually(t, "load is under way", func() (any, bool) { return r.acked.Load(), r.acked.Load() > before+500 })

	s.gateways[0].signal()
	if code := s.gateways[0].exit(20 * time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	eventually(t, "every client is on the other gateway", func() (any, bool) { return r.live.Load(), r.live.Load() == clients && r.moved.Load() > 0 })
	before = r.acked.Load()
	eventually(t, "load goes on", func() (any, bool) { return r.acked.Load(), r.acked.Load() > before+500 })
	r.quiet.Store(true)
	r.publishers.Wait()
	eventually(t, "everyone has what it is owed", func() (any, bool) {
		owed := r.checker.owed()
		return owed, len(owed) == 0
	})
	stop()
	r.all.Wait()
	r.checker.verify(t, r.checker.problems())
	if r.asked.Load() == 0 || r.closed.Load() == 0 {
		t.Errorf("%d clients moved when asked, %d when closed; want some of both", r.asked.Load(), r.closed.Load())
	}
	t.Logf("%d acknowledged, %d clients moved when asked, %d tried to and were late, %d moved when closed", r.acked.Load(), r.asked.Load(), r.late.Load(), r.closed.Load())
}

// Requests of workers to a client, and HTTP, end well in a drain too.
func TestRequestsToClientsAreAnsweredOverTheDrain(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1, "FAIRLEAD_DRAIN_WINDOW=500ms")
	ann := s.as(0, "ann")
	asked := make(chan struct{})
	ann.Serve("confirm", func(ctx context.Context, _ client.Request) (any, error) {
		close(asked)
		<-ctx.Done() // the connection ended before the client answered
		return nil, ctx.Err()
	})
	worker := s.worker()
	msg := nats.NewMsg("fl.conn." + ann.Welcome().Conn)
	msg.Header.Set("Fl-Event", "confirm")
	msg.Header.Set("Fl-Deadline", strconv.FormatInt(time.Now().Add(patience).UnixMilli(), 10))
	answers := make(chan *nats.Msg, 1)
	go func() {
		reply, err := worker.RequestMsg(msg, patience)
		if err != nil {
			t.Errorf("request: %v", err)
		}
		answers <- reply
	}()
	receive(t, asked)
	s.gateways[0].signal()
	reply := receive(t, answers)
	if reply == nil {
		return
	}
	if got := reply.Header.Get("Nats-Service-Error-Code"); got != "UNAVAILABLE" {
		t.Errorf("the worker hears %q, want UNAVAILABLE as the connection closes", got)
	}
	if code := s.gateways[0].exit(20 * time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// The bytes of a data directory outlive both a clean end and a start elsewhere.
func TestDevKeepsItsSecretOverADrain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	var tokens [2]string
	for i := range tokens {
		g, _ := startDevOn(t, dir, "127.0.0.1:0", "127.0.0.1:0", "FAIRLEAD_AUTH_JWT_SECRET=")
		out, errs, code := run(t, nil, "", "token", "--user", "ann", "--data", dir)
		if code != 0 {
			t.Fatalf("token: exit code %d: %s", code, errs)
		}
		tokens[i] = out[:len(out)-1]
		for _, token := range tokens[:i+1] {
			dial(t, g.ws(), client.Options{Token: token}).Close(wire.CloseNormal)
		}
		g.signal()
		if code := g.exit(20 * time.Second); code != 0 {
			t.Fatalf("exit code %d, want 0", code)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		t.Errorf("the data directory: %v, %v", entries, err)
	}
}
