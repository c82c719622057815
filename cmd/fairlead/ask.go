package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// AskCmd asks a user's client and prints its answer.
type AskCmd struct {
	User  string `arg:"" help:"The user."`
	Event string `arg:"" help:"What is asked, such as confirm: the event that the client serves."`
	Data  string `arg:"" optional:"" help:"The question, JSON; - reads standard input; nothing is null."`

	Text    bool          `help:"DATA is any text."`
	Conn    string        `placeholder:"ID" help:"The connection that is to answer, if the user has it; default: the newest."`
	Timeout time.Duration `default:"5s" placeholder:"TIME" help:"How long the client may take, up to 1m (default ${default})."`
}

// askSlack is how much longer than the client the answer may take.
const askSlack = 2 * time.Second

// Run asks on the bus (FAIRLEAD_NATS_URL), and prints the answer on standard
// output.
func (c *AskCmd) Run(ctx context.Context, env *Env) error {
	if c.Timeout <= 0 || c.Timeout > time.Minute {
		return usage(errors.New("--timeout: more than 0, up to 1m"))
	}
	if err := wire.CheckUser(c.User); err != nil {
		return usage(err)
	}
	if err := wire.CheckEvent(c.Event); err != nil {
		return usage(err)
	}
	subject, err := wire.Namespace(env.Namespace).Ask(c.User)
	if err != nil {
		return usage(err)
	}
	data, err := payload(env, c.Data, c.Text)
	if err != nil {
		return err
	}
	msg := &nats.Msg{Subject: subject, Header: nats.Header{wire.HeaderEvent: {c.Event}}, Data: data}
	if c.Conn != "" {
		if err := wire.SetHeader(msg.Header, wire.HeaderConn, c.Conn); err != nil {
			return usage(err)
		}
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	msg.Header[wire.HeaderDeadline] = []string{wire.Deadline(time.Now().Add(c.Timeout).UnixMilli())}
	bounded, cancel := context.WithTimeout(ctx, c.Timeout+askSlack)
	defer cancel()
	reply, err := nc.RequestMsgWithContext(bounded, msg)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return wire.Errorf(wire.Unavailable, "nobody serves %s: is the presence service there?", subject)
	case err != nil:
		return stopped(ctx, wire.AsError(err))
	}
	if e := wire.ParseErrorHeader(reply.Header, reply.Data); e != nil {
		return e
	}
	_, err = fmt.Fprintf(env.Stdout, "%s\n", reply.Data)
	return err
}
