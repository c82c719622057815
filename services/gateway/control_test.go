package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// aged is the token of a user that was issued a minute ago.
func aged(t *testing.T, user string) string {
	t.Helper()
	return token(t, auth.Claims{User: user, IssuedAt: time.Now().Add(-time.Minute), ExpiresAt: time.Now().Add(time.Hour)})
}

// said is the gateway's answer to a control message.
func said(m *nats.Msg) string {
	if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil {
		return e.Error()
	}
	return string(m.Data)
}

// tellControl sends a control message and returns the gateway's answer.
func tellControl(t *testing.T, nc *nats.Conn, target, body string) string {
	t.Helper()
	m, err := nc.Request("fl.control."+target, []byte(body), patience)
	if err != nil {
		t.Fatalf("%s %s: %v", target, body, err)
	}
	return said(m)
}

// only is the gateway's one connection.
func (r *rig) only() (c *connection) {
	r.t.Helper()
	r.g.connections.each(func(one *connection) { c = one })
	return c
}

// queue is how many wait for the connection's turn, behind whoever has it.
func (t *turn) queue() (taken bool, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken, len(t.waiting)
}

// What clients publish fills a socket that takes nothing; operators are heard,
// and answered, all the same.
func TestControlIsAnsweredWhileNothingCanBePublished(t *testing.T) {
	server := natsdev.Test(t)
	d := newDam(server.InProcess(), "fairlead-gateway-requests")
	r := startGateway(t, server, func(_ *Config, deps *Deps, _ *rules.Options) { deps.NATS = bus.Config{InProcess: d} })
	t.Cleanup(d.lift)
	nc := r.bus()
	ann, bob := r.dial(), r.dial()
	ann.hello(aged(t, "ann"))
	bob.hello(aged(t, "bob"))
	d.shut()
	ann.send(`{"op":"publish","topic":"a","data":1}`)
	await(t, "the socket takes nothing", d.met)
	if got, want := tellControl(t, nc, "user.nobody", `{"action":"disconnect"}`), `{"reached":0}`; got != want {
		t.Errorf("disconnect: got %s, want %s", got, want)
	}
	if got := tellControl(t, nc, "user.nobody", `{"action":"nothing"}`); !strings.Contains(got, "INVALID_ARGUMENT") {
		t.Errorf("what is wrong: got %s, want INVALID_ARGUMENT", got)
	}
	if got, want := tellControl(t, nc, "user.bob", `{"action":"disconnect"}`), `{"reached":1}`; got != want {
		t.Errorf("disconnect: got %s, want %s", got, want)
	}
	if got := bob.closed(); got != 4403 {
		t.Errorf("closed with %d, want 4403", got)
	}
}

// Behind a connection whose ops wait for something nobody else's revoke waits.
func TestABusyConnectionHoldsUpNobodyElse(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	conn, _, _ := r.dial().hello("")
	queue := func(target string) uint64 {
		return maphash.String(r.g.controls.seed, "fl.control."+target) % controlWorkers
	}
	other := ""
	for i := 0; other == "" || queue("user."+other) != queue("conn."+conn); i++ {
		other = fmt.Sprint("u", i)
	}
	busy := r.only()
	busy.turn.Lock()
	defer busy.turn.Unlock()
	answers := hear(t, nc, nc.NewInbox())
	tell := func(target, body string) {
		t.Helper()
		if err := nc.PublishRequest("fl.control."+target, answers.Subject, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	tell("conn."+conn, `{"action":"subscribe","topic":"x"}`)
	eventually(t, "it waits for its turn", func() bool { _, n := busy.turn.queue(); return n == 1 })
	tell("user."+other, `{"action":"revoke"}`)
	if got, want := said(heard(t, answers)), `{"reached":0}`; got != want {
		t.Errorf("the first answer is %s, want the revoke's %s", got, want)
	}
	if got := said(heard(t, answers)); !strings.Contains(got, "UNAVAILABLE") || !strings.Contains(got, "busy") {
		t.Errorf("the second answer is %s, want UNAVAILABLE: busy", got)
	}
	if took := time.Since(begun); took >= controlWait {
		t.Errorf("it was waited for %s, want about %s", took, turnWait)
	}
}

// What stands in one array does not run on behind a revoke, nor do the messages
// of a batch.
func TestNothingRunsBehindARevoke(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	spy := hear(t, nc, "fl.topic.>")
	eve := r.dial()
	eve.hello(aged(t, "eve"))
	c := r.only()
	c.turn.Lock()
	eve.send("[" + strings.Repeat(`{"op":"publish","topic":"t","data":1},`, 200) + `{"op":"subscribe","id":7,"topic":"u"}]`)
	eventually(t, "the array has been read", func() bool { _, n := c.turn.queue(); return n == 1 })
	if got, want := tellControl(t, nc, "user.eve", `{"action":"revoke"}`), `{"reached":1}`; got != want {
		t.Fatalf("revoke: got %s, want %s", got, want)
	}
	c.turn.Unlock()
	if got := eve.closed(); got != 4403 {
		t.Errorf("closed with %d, want 4403", got)
	}
	eventually(t, "the connection has ended", func() bool { return r.only() == nil })
	silent(t, r, nc, spy, 0)
	eventually(t, "its subscriptions have ended", func() bool { return forClients(r.nats) == 1 }) // the spy's
}

func TestABatchEndsAtARevoke(t *testing.T) {
	server := natsdev.Test(t)
	d := newDam(server.InProcess(), "fairlead-gateway-requests")
	r := startGateway(t, server, func(_ *Config, deps *Deps, _ *rules.Options) { deps.NATS = bus.Config{InProcess: d} })
	t.Cleanup(d.lift)
	nc := r.bus()
	spy := hear(t, nc, "fl.topic.>")
	eve := r.dial()
	eve.hello(aged(t, "eve"))
	c := r.only()
	// Each is more than waits for the socket: the first does not return.
	message := `{"topic":"t","data":"` + strings.Repeat("x", 100_000) + `"}`
	d.shut()
	eve.send(`{"op":"batch","id":2,"messages":[` + strings.Repeat(message+",", 4) + message + `]}`)
	await(t, "the socket takes nothing", d.met)
	eventually(t, "the batch has begun", func() bool { taken, _ := c.turn.queue(); return taken })
	if err := nc.Publish("fl.control.user.eve", []byte(`{"action":"disconnect"}`)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is being closed", func() bool { return c.out.Leaving() })
	d.lift()
	if got := eve.closed(); got != 4403 {
		t.Errorf("closed with %d, want 4403", got)
	}
	eventually(t, "the connection has ended", func() bool { return r.only() == nil })
	silent(t, r, nc, spy, 1)
}

// silent fails the test if the gateway has published more than most messages that
// a spy hears.
func silent(t *testing.T, r *rig, nc *nats.Conn, spy *nats.Subscription, most int) {
	t.Helper()
	if err := errors.Join(r.g.requests.FlushTimeout(patience), nc.FlushTimeout(patience)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := spy.Pending(); n > most || err != nil {
		t.Errorf("%d messages were published, %v; want %d at most", n, err, most)
	}
}

// A bucket that is lost takes no revocation back while a gateway knows of it; a
// deletion does.
func TestRevocationsOutliveTheirBucket(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	nc := r.bus()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	old := aged(t, "eve")
	if got, want := tellControl(t, nc, "user.eve", `{"action":"revoke"}`), `{"reached":0}`; got != want {
		t.Fatalf("revoke: got %s, want %s", got, want)
	}
	bucket := kv.Open(nc, "fl", kv.Shared(0).Name)
	eventually(t, "the gateway has read that it is stored", func() bool { return len(r.g.revocations.unstored(time.Now())) == 0 })
	if err := js.DeleteStream(t.Context(), "KV_fl_config"); err != nil {
		t.Fatal(err)
	}
	tellControl(t, nc, "user.mallory", `{"action":"revoke"}`) // somebody makes it again
	eventually(t, "it is stored again", func() bool {
		e, err := bucket.Get(t.Context(), revokedKey("eve"))
		return err == nil && !e.Deleted
	})
	p := r.dial()
	p.send(`{"op":"hello","id":1,"token":"` + old + `"}`)
	p.expectError(1, "UNAUTHENTICATED")
	eventually(t, "the gateway has read that it is stored", func() bool { return len(r.g.revocations.unstored(time.Now())) == 0 })
	e, err := bucket.Get(t.Context(), revokedKey("eve"))
	if err == nil {
		_, err = bucket.Put(t.Context(), kv.Write{Key: e.Key, Expect: e.Revision, Delete: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is taken back", func() bool { return r.g.revocations.before("eve") == 0 })
	r.dial().hello(old)
}

// text is a log that can be read.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *text) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// Who is thrown out is said; what may come in any number is not.
func TestControlIsLogged(t *testing.T) {
	log := &text{}
	r := startGateway(t, natsdev.Test(t), func(_ *Config, d *Deps, _ *rules.Options) { d.Log = slog.New(slog.NewTextHandler(log, nil)) })
	nc := r.bus()
	for _, action := range []string{`"refresh"`, `"unsubscribe","topic":"x"`, `"subscribe","topic":"x"`, `"disconnect"`, `"revoke"`} {
		tellControl(t, nc, "user.ann", `{"action":`+action+`}`)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	for action, want := range map[string]bool{"refresh": false, "unsubscribe": false, "subscribe": false, "disconnect": true, "revoke": true} {
		if got := strings.Contains(log.b.String(), "msg=control service=gateway gateway="+r.g.id+" action="+action+" "); got != want {
			t.Errorf("%s: logged %t, want %t", action, got, want)
		}
	}
}
