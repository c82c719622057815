package bench

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Idle is the scenario of connections that are there and silent, each with a
// subscription to a topic of its own: what one of them costs the server.
type Idle struct {
	Connections int           // default 1000
	Settle      time.Duration // between the last connection and the measuring; default 5 s
}

// Run measures the server before and after.
func (o Idle) Run(ctx context.Context, target Target) (*Report, error) {
	def(&o.Connections, 1000)
	def(&o.Settle, 5*time.Second)
	if o.Connections < 1 {
		return nil, errors.New("connections: at least 1")
	}
	e, err := start(target)
	if err != nil {
		return nil, err
	}
	defer e.close(ctx)
	srv := e.target.Server.find(ctx)
	defer srv.close()
	collected := srv.collect(ctx, 3) // what earlier work left is not the connections'
	before := srv.usage(ctx, true)
	if before.Source == "" {
		return nil, errors.New("the server's memory is unknown: give --pid or --admin")
	}
	quiet := &listeners{pong: e.target.Dialect.Pong}
	if _, err := e.open(ctx, ownTopics("bench.", o.Connections), func(*conn, int) agent { return quiet }); err != nil {
		return nil, err
	}
	from, err := e.sample(ctx, srv, false)
	if err != nil {
		return nil, err
	}
	if err := e.wait(ctx, o.Settle); err != nil {
		return nil, err
	}
	to, err := e.sample(ctx, srv, true)
	if err != nil {
		return nil, err
	}
	n := float64(o.Connections)
	each := func(a, b int64) *float64 {
		if a == 0 || b == 0 {
			return nil
		}
		v := float64(b-a) / n
		return &v
	}
	p := &PerConnection{RSS: float64(to.server.RSS-before.RSS) / n, Goroutines: each(before.Goroutines, to.server.Goroutines)}
	if collected && srv.collect(ctx, 3) {
		after := srv.usage(ctx, true)
		p.RSSAfterGC, p.Heap, p.Stack = each(before.RSS, after.RSS), each(before.Heap, after.Heap), each(before.Stack, after.Stack)
	}
	t := &tally{closed: quiet.gone.Load()}
	r := e.report("idle", from, to, t, 0)
	r.PerConnection = p
	r.Parameters["connections"] = o.Connections
	r.Parameters["settle"] = o.Settle.String()
	return r, nil
}

// listeners is the agent of silent connections of any loop.
type listeners struct {
	pong func([]byte) []byte
	gone atomic.Int64
}

func (*listeners) upgraded(*conn) {}

func (l *listeners) text(c *conn, frame []byte, _ int64) {
	if answer := l.pong(frame); answer != nil {
		c.loop.send(c, appendFrame(nil, opText, answer))
	}
}

func (l *listeners) closed(*conn, error) { l.gone.Add(1) }
