package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Target says what is loaded and by how much machinery.
type Target struct {
	// URL is the gateway's WebSocket address, ws:// only.
	URL     string
	Dialect Dialect // default Fairlead
	Token   string  // of every connection; empty for anonymous users
	// Loops is how many loops (threads) generate. Default: one per core.
	Loops int
	// InFlight bounds the connections that are being opened at a time. Default 64.
	InFlight int
	// AllowRemote lifts the refusal of hosts that aren't loopback.
	AllowRemote bool
	// Portable uses goroutines where epoll is to be had.
	Portable bool
	Server   Probe
}

// ErrRemote refuses to load a host that is not this one.
var ErrRemote = errors.New("not a loopback address: loading another machine needs --allow-remote")

// engine runs the loops of one benchmark.
type engine struct {
	target Target
	loops  []loop
	turns  []func() // per loop, replaced in the loop
	group  sync.WaitGroup
	failed chan error // capacity: one per loop
}

// start resolves the target and starts its loops.
func start(t Target) (*engine, error) {
	if t.Dialect == nil {
		t.Dialect = Fairlead{}
	}
	if t.Loops <= 0 {
		t.Loops = runtime.GOMAXPROCS(0)
	}
	if t.InFlight <= 0 {
		t.InFlight = 64
	}
	u, err := url.Parse(t.URL)
	if err != nil || u.Scheme != "ws" || u.Host == "" {
		return nil, fmt.Errorf("url %q: ws://host:port/path", t.URL)
	}
	addr, err := resolve(u, t.AllowRemote)
	if err != nil {
		return nil, err
	}
	if t.Server.Addr == "" {
		t.Server.Addr = addr
	}
	e := &engine{target: t, failed: make(chan error, t.Loops), turns: make([]func(), t.Loops)}
	upgrade := upgradeRequest(u.Host, u.RequestURI(), t.Dialect.Subprotocol())
	for i := range t.Loops {
		e.turns[i] = func() {}
		l, err := newLoop(loopConfig{addr: addr, upgrade: upgrade, turn: func() { e.turns[i]() }}, t.Portable)
		if err != nil {
			e.close(context.Background())
			return nil, err
		}
		e.loops = append(e.loops, l)
		e.group.Go(func() {
			if err := l.run(); err != nil {
				e.failed <- err
			}
		})
	}
	return e, nil
}

func resolve(u *url.URL, allowRemote bool) (string, error) {
	port := u.Port()
	if port == "" {
		port = "80"
	}
	a, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return "", err
	}
	if !a.IP.IsLoopback() && !allowRemote {
		return "", fmt.Errorf("%s: %w", u.Hostname(), ErrRemote)
	}
	return a.String(), nil
}

// close says goodbye on every connection, stops the loops, which drop what is
// left, and waits for them.
func (e *engine) close(ctx context.Context) {
	bye := appendFrame(nil, opClose, []byte{0x03, 0xe8}) // 1000
	err := e.each(ctx, func(i int, l loop) {
		e.turns[i] = func() {}
		for _, c := range l.all() {
			if c.state == stateOpen {
				c.agent = leaving{}
				l.send(c, bye)
			}
		}
	})
	for end := time.Now().Add(2 * time.Second); err == nil && time.Now().Before(end); {
		var left atomic.Int64
		err = e.each(ctx, func(_ int, l loop) { left.Add(int64(len(l.all()))) })
		if left.Load() == 0 {
			break
		}
		if err == nil {
			err = e.wait(ctx, 5*time.Millisecond)
		}
	}
	for _, l := range e.loops {
		l.stop()
	}
	e.group.Wait()
}

// leaving is the agent of connections that have nothing more to say.
type leaving struct{}

func (leaving) upgraded(*conn)            {}
func (leaving) text(*conn, []byte, int64) {}
func (leaving) closed(*conn, error)       {}

// each runs fn in every loop at once and waits for all.
func (e *engine) each(ctx context.Context, fn func(i int, l loop)) error {
	done := make(chan struct{}, len(e.loops))
	for i, l := range e.loops {
		l.post(func() {
			fn(i, l)
			done <- struct{}{}
		})
	}
	for range e.loops {
		select {
		case <-done:
		case err := <-e.failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// wait lets d pass unless the context ends or a loop fails first.
func (e *engine) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case err := <-e.failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Ids of the requests that open a connection; publishes use small ones.
const (
	helloID     = 1_000_001
	subscribeID = 1_000_002
)

// opened is what open measured.
type opened struct {
	took    time.Duration
	latency Histogram // from dialing to the reply to subscribe (or hello)
}

// open connects conns, which are spread over the loops, and hands each to
// then(c) once its subscription is live.
func (e *engine) open(ctx context.Context, conns []*conn, then func(c *conn, loop int) agent) (*opened, error) {
	if err := checkFiles(len(conns)); err != nil {
		return nil, err
	}
	results := make(chan error, len(e.loops))
	greeters := make([]*greeter, len(e.loops))
	for i, l := range e.loops {
		greeters[i] = &greeter{target: &e.target, loop: l, index: i, max: max(1, e.target.InFlight/len(e.loops)), then: then, result: results}
	}
	for i, c := range conns {
		g := greeters[i%len(greeters)]
		g.todo = append(g.todo, c)
	}
	began := time.Now()
	for _, g := range greeters {
		g.loop.post(g.more)
	}
	for range greeters {
		select {
		case err := <-results:
			if err != nil {
				return nil, err
			}
		case err := <-e.failed:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	o := &opened{took: time.Since(began)}
	for _, g := range greeters {
		o.latency.Merge(&g.latency)
	}
	return o, nil
}

// greeter opens connections in one loop, a bounded number at a time.
type greeter struct {
	target  *Target
	loop    loop
	index   int
	max     int
	then    func(c *conn, loop int) agent
	result  chan<- error
	todo    []*conn
	active  int
	over    bool
	latency Histogram
}

func (g *greeter) more() {
	for !g.over && g.active < g.max && len(g.todo) > 0 {
		c := g.todo[0]
		g.todo = g.todo[1:]
		g.active++
		c.agent, c.began = g, time.Now().UnixNano()
		g.loop.dial(c)
	}
	if g.active == 0 {
		g.finish(nil)
	}
}

func (g *greeter) finish(err error) {
	if !g.over {
		g.over = true
		g.result <- err
	}
}

func (g *greeter) upgraded(c *conn) {
	d, n := g.target.Dialect, 1
	if c.topic != "" {
		n = 2
	}
	b := d.Hello(d.Join(nil, 0, n), helloID, g.target.Token)
	if n == 2 {
		b = d.Join(b, 1, n)
		if c.followed != nil && c.followed.at.Seq > 0 {
			b = appendResume(b, subscribeID, c.topic, c.followed.at)
		} else {
			b = d.Subscribe(b, subscribeID, c.topic)
		}
	}
	g.loop.send(c, appendFrame(nil, opText, d.Join(b, n, n)))
}

func (g *greeter) text(c *conn, frame []byte, now int64) {
	last := int64(helloID)
	if c.topic != "" {
		last = subscribeID
	}
	scanReplies(frame, func(id int64, failed []byte) {
		switch {
		case failed != nil:
			g.finish(fmt.Errorf("connection %d: %s", c.index, short(failed)))
		case id == last:
			c.state = stateOpen
			c.agent = g.then(c, g.index)
			g.latency.Record(now - c.began)
			g.active--
		}
	})
	if c.state != stateOpen {
		return
	}
	if f := c.followed; f != nil && c.topic != "" { // messages may have come with the answer
		f.asked = f.at.Seq > 0
		c.agent.text(c, frame, now)
	}
	g.more()
}

func (g *greeter) closed(c *conn, err error) {
	g.finish(fmt.Errorf("connection %d: %w", c.index, err))
}
