package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// load is publishers that go on until they are stopped.
type load struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
}

func (c *cluster) load() (*load, context.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	c.t.Cleanup(l.stop)
	return l, ctx
}

func (l *load) stop() {
	l.cancel()
	l.all.Wait()
}

// keyed publishes numbered messages of a user, each with a key and as often as
// it takes until it is acknowledged: the one under way when it is stopped too.
func (c *cluster) keyed(ctx context.Context, l *load, gateway int, user, topic string) {
	c.t.Helper()
	conn := c.as(gateway, user)
	l.all.Go(func() {
		for n := 1; ctx.Err() == nil; n++ {
			if err := c.insist(conn, message{topic, user, n}); err != nil {
				c.t.Errorf("%s: %v", message{topic, user, n}, err)
				return
			}
		}
	})
}

// pace leaves the machine some air between the messages of one publisher.
func pace(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(2 * time.Millisecond):
	}
}

// insist publishes a message until it is acknowledged.
func (c *cluster) insist(conn *client.Client, m message) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.ledger.try(m)
	for {
		res, err := conn.Publish(ctx, m.Topic, "", m.data(), client.PublishOptions{Key: m.String()})
		if err == nil {
			c.ledger.ack(m, res.Seq, res.Duplicate)
			return nil
		}
		e := wire.AsError(err)
		outcome, _ := e.Details["outcome"].(string)
		if ctx.Err() != nil || conn.CloseError() != nil || outcome == "" {
			return fmt.Errorf("publish: %w", err)
		}
		c.ledger.refuse(m, outcome)
		pace(ctx)
	}
}

// plain publishes as a worker does that knows nothing but NATS: with a request,
// and only once.
func (c *cluster) plain(ctx context.Context, l *load, node int, topic string) {
	c.t.Helper()
	nc := connect(c.t, c.nodes[node].ClientURL())
	l.all.Go(func() {
		for n := 1; ctx.Err() == nil; n++ {
			m := message{topic, "worker", n}
			c.ledger.try(m)
			seq, err := request(nc, m)
			if err == nil {
				c.ledger.ack(m, seq, false)
			} else if errors.Is(err, nats.ErrNoResponders) {
				c.ledger.refuse(m, "none")
			} else {
				c.ledger.refuse(m, "unknown")
			}
			pace(ctx)
		}
	})
}

func request(nc *nats.Conn, m message) (seq int64, err error) {
	reply, err := nc.Request("fl.topic."+m.Topic, m.data(), time.Second)
	if err != nil {
		return 0, err
	}
	var ack struct {
		Seq   int64
		Error *struct{ Description string }
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, err
	}
	if ack.Error != nil {
		return 0, errors.New(ack.Error.Description)
	}
	return ack.Seq, nil
}
