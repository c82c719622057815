package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// PubCmd publishes messages as a user, or as a worker on the bus.
type PubCmd struct {
	Topic string `arg:"" help:"The topic, such as chat.lobby."`
	Data  string `arg:"" optional:"" help:"The payload, JSON; - reads standard input; nothing is null."`

	Event string `default:"message" help:"The event's name (default ${default})."`
	Key   string `placeholder:"KEY" help:"Idempotency key: publishing it again stores nothing."`
	Text  bool   `help:"DATA is any text: send it as a JSON string."`
	Count int    `default:"1" placeholder:"N" help:"Publish it so many times."`
	NATS  bool   `name:"nats" help:"Publish on the bus (FAIRLEAD_NATS_URL) as a worker would, not through a gateway."`

	socketFlags `embed:"" group:"Gateway"`
}

// Run publishes one message at a time and waits for each acknowledgement.
func (c *PubCmd) Run(ctx context.Context, env *Env) error {
	if c.Count < 1 || c.Key != "" && c.Count > 1 {
		return usage(errors.New("--count: at least 1, and 1 with --key"))
	}
	data, err := payload(env, c.Data, c.Text)
	if err != nil {
		return err
	}
	if c.NATS {
		return stopped(ctx, c.onBus(ctx, env, data))
	}
	conn, err := c.dial(ctx, env)
	if err != nil {
		return stopped(ctx, err)
	}
	defer quiet(conn)
	for range c.Count {
		r, err := conn.Publish(ctx, c.Topic, c.Event, data, client.PublishOptions{Key: c.Key})
		if err != nil {
			return stopped(ctx, err)
		}
		if r.Seq > 0 {
			note := ""
			if r.Duplicate {
				note = ", a duplicate"
			}
			fmt.Fprintf(env.Stderr, "stored as seq %d%s\n", r.Seq, note)
		}
	}
	return nil
}

// onBus publishes what `nats pub` would, and returns when the server has it.
func (c *PubCmd) onBus(ctx context.Context, env *Env, data []byte) error {
	if err := errors.Join(wire.CheckTopic(c.Topic), wire.CheckEvent(c.Event)); err != nil {
		return err
	}
	subject, err := wire.Namespace(env.Namespace).Topic(c.Topic)
	if err != nil {
		return err
	}
	header := nats.Header{}
	if err := wire.SetHeader(header, wire.HeaderEvent, c.Event); err != nil {
		return err
	}
	if c.Key != "" { // unique per stream, not per topic
		if err := wire.SetHeader(header, nats.MsgIdHdr, c.Topic+"|"+c.Key); err != nil {
			return err
		}
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	for range c.Count {
		if err := nc.PublishMsg(&nats.Msg{Subject: subject, Header: header, Data: data}); err != nil {
			return fmt.Errorf("publish %s: %w", subject, err)
		}
	}
	return flush(ctx, nc)
}

// flush waits until the NATS server has everything.
func flush(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		return wire.Errorf(wire.Unavailable, "NATS does not answer: %v", err)
	}
	return nil
}
