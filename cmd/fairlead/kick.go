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

// revokeWait is how long it may take until a gateway says that a revocation is
// stored: with JetStream slow, gateways try for 5 s.
const revokeWait = 10 * time.Second

// KickCmd disconnects, as an operator does.
type KickCmd struct {
	User string `arg:"" optional:"" help:"The user, all of whose connections are closed."`

	Conn   string        `placeholder:"ID" help:"Close this connection only."`
	Revoke bool          `help:"Refuse the user's tokens that were issued until now, from now on: without it they can come back at once."`
	Reason string        `help:"What the client is told."`
	Code   int           `placeholder:"CODE" help:"The close code in place of 4403: 1000, 1001, 1013, or 3000-4999."`
	Wait   time.Duration `default:"1s" help:"How long gateways may take to say how many they closed (default ${default}); the first, to say that tokens are refused, 10s."`
}

// Run publishes one control message and prints how many connections it closed.
func (c *KickCmd) Run(ctx context.Context, env *Env) error {
	ns, target := wire.Namespace(env.Namespace), wire.ControlOfUser
	var subject string
	var err error
	switch {
	case c.Wait <= 0 || c.Wait > time.Minute:
		return usage(errors.New("--wait: up to 1m"))
	case (c.User == "") == (c.Conn == ""):
		return usage(errors.New("fairlead kick USER, or fairlead kick --conn ID"))
	case c.Conn != "":
		target = wire.ControlOfConn
		subject, err = ns.ControlConn(c.Conn)
	default:
		if err := wire.CheckUser(c.User); err != nil {
			return usage(err)
		}
		subject, err = ns.ControlUser(c.User)
	}
	if err != nil {
		return usage(err)
	}
	want := wire.Control{Action: wire.ControlDisconnect, Code: c.Code, Reason: c.Reason}
	first := c.Wait
	if c.Revoke {
		// Without a time: the gateways' clocks are better than this machine's.
		want.Action, first = wire.ControlRevoke, revokeWait
	}
	body, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if _, bad := wire.ParseControl(target, body, time.Now()); bad != nil {
		return usage(bad)
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	n, err := countReached(ctx, nc, &nats.Msg{Subject: subject, Data: body}, c.Wait, first)
	if errors.Is(err, nats.ErrNoResponders) {
		err = wire.Errorf(wire.Unavailable, "no gateway is there: nothing was done")
	}
	if err != nil {
		return stopped(ctx, err)
	}
	return printReached(env, n)
}
