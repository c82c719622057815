package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// CallCmd calls a worker's method and prints its answer.
type CallCmd struct {
	Method string `arg:"" help:"The method, such as orders.create."`
	Data   string `arg:"" optional:"" help:"The argument, JSON; - reads standard input; nothing is null."`

	Text    bool          `help:"DATA is any text: send it as a JSON string."`
	Timeout time.Duration `placeholder:"TIME" help:"How long to wait; default: the rule's, or 5s on the bus."`
	NATS    bool          `name:"nats" help:"Ask on the bus (FAIRLEAD_NATS_URL), not through a gateway."`

	socketFlags `embed:"" group:"Gateway"`
}

// Run prints the answer on standard output, and progress on standard error.
func (c *CallCmd) Run(ctx context.Context, env *Env) error {
	if c.Timeout < 0 || c.Timeout > time.Minute {
		return usage(errors.New("--timeout: up to 1m"))
	}
	data, err := payload(env, c.Data, c.Text)
	if err != nil {
		return err
	}
	progress := func(p []byte) { fmt.Fprintf(env.Stderr, "progress %s\n", p) }
	var answer []byte
	if c.NATS {
		answer, err = c.onBus(ctx, env, data, progress)
	} else {
		answer, err = c.asUser(ctx, env, data, progress)
	}
	if err != nil {
		return stopped(ctx, err)
	}
	_, err = fmt.Fprintf(env.Stdout, "%s\n", answer)
	return err
}

func (c *CallCmd) asUser(ctx context.Context, env *Env, data []byte, progress func([]byte)) ([]byte, error) {
	conn, err := c.dial(ctx, env)
	if err != nil {
		return nil, err
	}
	defer quiet(conn)
	answer, err := conn.Call(ctx, c.Method, data, client.CallOptions{
		Timeout:    c.Timeout,
		OnProgress: func(p json.RawMessage) { progress(p) },
	})
	return answer.Payload(), err
}

// onBus asks as a gateway would, without a user.
func (c *CallCmd) onBus(ctx context.Context, env *Env, data []byte, progress func([]byte)) ([]byte, error) {
	if err := wire.CheckMethod(c.Method); err != nil {
		return nil, err
	}
	subject, err := wire.Namespace(env.Namespace).Call(c.Method)
	if err != nil {
		return nil, err
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", inbox, err)
	}
	header := nats.Header{}
	deadline, _ := ctx.Deadline()
	if err := wire.SetHeader(header, wire.HeaderDeadline, wire.Deadline(deadline.UnixMilli())); err != nil {
		return nil, err
	}
	if err := nc.PublishMsg(&nats.Msg{Subject: subject, Reply: inbox, Header: header, Data: data}); err != nil {
		return nil, fmt.Errorf("publish %s: %w", subject, err)
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return nil, wire.Errorf(wire.Unimplemented, "nobody serves %s", subject)
		case err != nil:
			return nil, wire.AsError(err)
		}
		if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil {
			return nil, e
		}
		if wire.HeaderValue(m.Header, wire.HeaderProgress) == "" {
			return m.Data, nil
		}
		progress(m.Data)
	}
}
