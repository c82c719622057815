package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// SendCmd sends a direct message as a worker does.
type SendCmd struct {
	Args []string `arg:"" name:"[user] event [data]" help:"The user, unless --conn or --match says who; the event's name; the payload, JSON; - reads standard input; nothing is null."`

	Conn     string        `placeholder:"ID" help:"Send to this connection. Whether it is there is not known."`
	Match    string        `placeholder:"JSON" help:"Send to every connection with these attributes, such as '{\"role\":\"admin\"}'."`
	Topic    string        `help:"The topic that the message belongs to."`
	Coalesce string        `placeholder:"KEY" help:"A newer message with this key takes the place of one that waits."`
	Exclude  string        `placeholder:"ID" help:"The connection that does not get it."`
	Text     bool          `help:"DATA is any text: send it as a JSON string."`
	Wait     time.Duration `default:"200ms" help:"How long gateways may take to say how many they reached (default ${default})."`
}

// Run sends one message and prints how many connections it reached.
func (c *SendCmd) Run(ctx context.Context, env *Env) error {
	msg, err := c.message(env)
	if err != nil {
		return err
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	if c.Conn != "" {
		// With a reply subject it would be a request to the client.
		if err := nc.PublishMsg(msg); err != nil {
			return fmt.Errorf("publish %s: %w", msg.Subject, err)
		}
		if err := flush(ctx, nc); err != nil {
			return stopped(ctx, err)
		}
		fmt.Fprintln(env.Stderr, "sent")
		return nil
	}
	n, err := countReached(ctx, nc, msg, c.Wait, c.Wait)
	if errors.Is(err, nats.ErrNoResponders) {
		n, err = 0, nil // nobody listens: nobody is connected
	}
	if err != nil {
		return stopped(ctx, err)
	}
	return printReached(env, n)
}

// message is what is published.
func (c *SendCmd) message(env *Env) (*nats.Msg, error) {
	ns, args := wire.Namespace(env.Namespace), c.Args
	var subject string
	var err error
	header := nats.Header{}
	switch {
	case c.Wait <= 0 || c.Wait > time.Minute:
		return nil, usage(errors.New("--wait: up to 1m"))
	case c.Conn != "" && c.Match != "":
		return nil, usage(errors.New("--conn and --match: one of them"))
	case c.Conn != "":
		subject, err = ns.Conn(c.Conn)
	case c.Match != "":
		if _, bad := wire.ParseMatch(c.Match); bad != nil {
			return nil, usage(fmt.Errorf("--match: %w", bad))
		}
		subject, err = ns.Match(), wire.SetHeader(header, wire.HeaderMatch, c.Match)
	default:
		if err := wire.CheckUser(args[0]); err != nil { // there is one: kong wants it
			return nil, usage(err)
		}
		subject, err = ns.User(args[0])
		args = args[1:]
	}
	if err != nil {
		return nil, usage(err)
	}
	if len(args) < 1 || len(args) > 2 {
		return nil, usage(errors.New("fairlead send USER EVENT [DATA], or --conn or --match in place of USER"))
	}
	if err := wire.CheckEvent(args[0]); err != nil {
		return nil, usage(err)
	}
	if c.Topic != "" {
		if err := wire.CheckTopic(c.Topic); err != nil {
			return nil, usage(err)
		}
	}
	if c.Coalesce != "" {
		if err := wire.CheckKey(c.Coalesce); err != nil {
			return nil, usage(err)
		}
	}
	for name, value := range map[string]string{
		wire.HeaderEvent: args[0], wire.HeaderTopic: c.Topic, wire.HeaderCoalesce: c.Coalesce, wire.HeaderExclude: c.Exclude,
	} {
		if value == "" {
			continue
		}
		if err := wire.SetHeader(header, name, value); err != nil {
			return nil, usage(err)
		}
	}
	text := ""
	if len(args) == 2 {
		text = args[1]
	}
	data, err := payload(env, text, c.Text)
	return &nats.Msg{Subject: subject, Header: header, Data: data}, err
}

// countReached publishes a request that several gateways answer and adds up what
// they say within wait; the first answer may take until first. That none comes is
// an error, and so is the first refusal.
func countReached(ctx context.Context, nc *nats.Conn, msg *nats.Msg, wait, first time.Duration) (n int, err error) {
	first = max(wait, first)
	whole, end := context.WithTimeout(ctx, first)
	defer end()
	window, cancel := context.WithTimeout(whole, wait)
	defer cancel()
	msg.Reply = nc.NewInbox()
	answers, err := nc.SubscribeSync(msg.Reply)
	if err != nil {
		return 0, fmt.Errorf("subscribe %s: %w", msg.Reply, err)
	}
	if err := nc.PublishMsg(msg); err != nil {
		return 0, fmt.Errorf("publish %s: %w", msg.Subject, err)
	}
	answered := false
	for {
		m, err := answers.NextMsgWithContext(window)
		if errors.Is(err, context.DeadlineExceeded) && !answered {
			m, err = answers.NextMsgWithContext(whole)
		}
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return 0, err
		case errors.Is(err, context.DeadlineExceeded):
			if !answered {
				return 0, wire.Errorf(wire.DeadlineExceeded, "nobody said within %s how many were reached", first)
			}
			return n, nil
		case err != nil:
			return n, wire.AsError(err)
		}
		if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil {
			return n, e
		}
		var said wire.Reached
		if err := json.Unmarshal(m.Data, &said); err != nil {
			return n, fmt.Errorf("the answer %.80q: %w", m.Data, err)
		}
		answered = true
		n += said.Reached
	}
}

func printReached(env *Env, n int) error {
	what := "connections"
	if n == 1 {
		what = "connection"
	}
	_, err := fmt.Fprintf(env.Stdout, "%d %s reached\n", n, what)
	return err
}
