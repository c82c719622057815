package gateway

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// dam is a way to a NATS server on which the sockets of one name can be made to
// take nothing, for as long as a test likes.
type dam struct {
	server nats.InProcessConnProvider
	name   []byte
	met    chan struct{} // has an element when somebody waits for a socket

	mu   sync.Mutex
	open chan struct{} // closed while the sockets take what comes
}

func newDam(server nats.InProcessConnProvider, name string) *dam {
	d := &dam{server: server, name: []byte(name), met: make(chan struct{}, 1), open: make(chan struct{})}
	close(d.open)
	return d
}

func (d *dam) InProcessConn() (net.Conn, error) {
	nc, err := d.server.InProcessConn()
	return &dammed{Conn: nc, dam: d}, err
}

// shut makes the sockets take nothing.
func (d *dam) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = make(chan struct{})
}

// lift ends that; again does nothing.
func (d *dam) lift() {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.open:
	default:
		close(d.open)
	}
}

type dammed struct {
	net.Conn
	dam  *dam
	mine bool // of Write, which is called by one at a time
}

func (c *dammed) Write(b []byte) (int, error) {
	c.mine = c.mine || bytes.Contains(b, c.dam.name)
	if c.mine {
		c.dam.mu.Lock()
		open := c.dam.open
		c.dam.mu.Unlock()
		select {
		case <-open:
		default:
			select {
			case c.dam.met <- struct{}{}:
			default:
			}
			<-open
		}
	}
	return c.Conn.Write(b)
}

// SetWriteDeadline does nothing: it is the test that says how long.
func (c *dammed) SetWriteDeadline(time.Time) error { return nil }

// However long the socket takes nothing that the gateway answers with: whoever
// the messages of a shard are for gets them, and whom a match is for.
func TestNothingWaitsForAnswersToBePublished(t *testing.T) {
	server := natsdev.Test(t)
	d := newDam(server.InProcess(), "fairlead-gateway-requests")
	r := startGateway(t, server, limited(func(l *Limits) { l.PendingPerConnection = 1 }),
		func(_ *Config, deps *Deps, _ *rules.Options) { deps.NATS = bus.Config{InProcess: d} })
	t.Cleanup(d.lift)
	nc := r.bus()
	p := r.dial()
	conn, _, _ := p.hello(token(t, auth.Claims{User: "ann", Attributes: map[string]string{"role": "admin"}}))
	reply, answers := inbox(t, nc)
	asks := 0
	ask := func(subject, data string, header nats.Header) {
		t.Helper()
		asks++
		if err := nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: []byte(data), Header: header}); err != nil {
			t.Fatal(err)
		}
	}
	d.shut()
	ask("fl.user.ann", `0`, nil)
	p.expect(`{"event":"message","data":0,"direct":true}`)
	await(t, "the socket takes nothing", d.met)

	for range 2 { // the second of a kind waits where the first is stuck
		ask("fl.user.ann", ``, nats.Header{"Fl-Probe": {"1"}})
		ask("fl.user.ann", `no batch`, nats.Header{"Fl-Batch": {"1"}})
		ask("fl.conn."+conn, `1`, nats.Header{"Fl-Deadline": {"1"}})
		ask("fl.conn."+conn, `1`, nats.Header{"Fl-Target": {"bob"}})
		ask("fl.match", `1`, nats.Header{"Fl-Match": {"no criteria"}})
		ask("fl.match", `1`, nats.Header{"Fl-Match": {`{"role":"nobody"}`}})
	}
	ask("fl.user.ann", `1`, nil)
	p.expect(`{"event":"message","data":1,"direct":true}`)
	ask("fl.conn."+conn, `2`, nil)
	asked(t, p)
	ask("fl.conn."+conn, `2`, nil) // one too many
	tell(t, nc, "fl.conn."+conn, `3`)
	p.expect(`{"event":"message","data":3,"direct":true}`)
	ask("fl.match", `4`, nats.Header{"Fl-Match": {`{"role":"admin"}`}})
	p.expect(`{"event":"message","data":4,"direct":true}`)
	tell(t, nc, "fl.user.ann", `5`)
	p.expect(`{"event":"message","data":5,"direct":true}`)

	d.lift()
	for range asks - 1 { // one is the client's to answer
		await(t, "an answer", answers)
	}
	if n := r.g.answers.dropped.Load(); n != 0 {
		t.Errorf("%d answers were dropped", n)
	}
}

// What is too much is dropped and counted: nobody waits for room.
func TestAnswersAreBounded(t *testing.T) {
	as := newAnswers()
	for range answersMost + 3 {
		as.add(&nats.Msg{})
	}
	if got, want := as.dropped.Load(), int64(3); got != want {
		t.Errorf("%d dropped, want %d", got, want)
	}
}
