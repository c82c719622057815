package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Connect is the scenario of connections that come, each with a subscription
// to a topic of its own, and stay until the end.
type Connect struct {
	Connections int // default 1000
}

// Run opens the connections, [Target.InFlight] at a time.
func (o Connect) Run(ctx context.Context, target Target) (*Report, error) {
	def(&o.Connections, 1000)
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
	from, err := e.sample(ctx, srv, false)
	if err != nil {
		return nil, err
	}
	o2, err := e.open(ctx, ownTopics("bench.", o.Connections), func(*conn, int) agent { return leaving{} })
	if err != nil {
		return nil, err
	}
	to, err := e.sample(ctx, srv, true)
	if err != nil {
		return nil, err
	}
	r := e.report("connect", from, to, &tally{}, int64(o.Connections))
	r.Connections = float64(o.Connections) / o2.took.Seconds()
	q := o2.latency.Quantiles()
	r.Connect = &q
	r.Parameters["connections"] = o.Connections
	r.Parameters["inFlight"] = e.target.InFlight
	return r, nil
}

// ownTopics makes connections with a topic each, whose names begin so.
func ownTopics(prefix string, n int) []*conn {
	run := time.Now().UnixNano()
	conns := make([]*conn, n)
	for i := range conns {
		conns[i] = &conn{index: i, topic: fmt.Sprintf("%s%x.%d", prefix, run, i), next: firstNumber}
	}
	return conns
}
