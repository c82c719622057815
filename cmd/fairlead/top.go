package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// TopCmd shows the topics that clients publish to most.
type TopCmd struct {
	Limit int  `default:"20" placeholder:"N" help:"How many topics, up to 100 (default ${default})."`
	Once  bool `help:"Print them once; so it is where the output is no terminal."`
	JSON  bool `name:"json" help:"Print JSON: one object in a line."`
}

const (
	topEvery = time.Second
	topWait  = 5 * time.Second
	// homeAndClear moves to the upper left corner of a terminal, and clears it.
	homeAndClear = "\x1b[H\x1b[2J"
)

// Run asks any gateway, on the bus (FAIRLEAD_NATS_URL): once, or each second
// until it is interrupted.
func (c *TopCmd) Run(ctx context.Context, env *Env) error {
	if c.Limit < 1 || c.Limit > 100 {
		return usage(errors.New("--limit: from 1 to 100"))
	}
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	again := !c.Once && onTerminal(env.Stdout)
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	for {
		top, err := c.ask(ctx, env, nc)
		if err != nil {
			return stopped(ctx, err)
		}
		page, err := c.page(top)
		if err != nil {
			return err
		}
		if again && !c.JSON {
			page = append([]byte(homeAndClear), page...)
		}
		if _, err := env.Stdout.Write(page); err != nil {
			return err
		}
		if !again {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *TopCmd) ask(ctx context.Context, env *Env, nc *nats.Conn) (wire.Top, error) {
	ctx, cancel := context.WithTimeout(ctx, topWait)
	defer cancel()
	return bus.Call[wire.TopRequest, wire.Top](ctx, nc, wire.Namespace(env.Namespace).Svc("gateway", "top"), wire.TopRequest{Limit: c.Limit})
}

// page is what is printed.
func (c *TopCmd) page(top wire.Top) ([]byte, error) {
	if c.JSON {
		line, err := json.Marshal(top)
		if err != nil {
			return nil, fmt.Errorf("encode: %w", err)
		}
		return append(line, '\n'), nil
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "topic\tmsg/s\tKB/s\tsubscribers\n")
	for _, t := range top.Topics {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%d\n", shown(t.Topic), t.Messages, t.Bytes/1000, t.Subscribers)
	}
	if err := w.Flush(); err != nil {
		return nil, fmt.Errorf("print: %w", err)
	}
	if top.Gateways == 0 {
		fmt.Fprintln(&b, "no gateway has told its figures yet: they come every 5 s")
	} else {
		fmt.Fprintf(&b, "gateways: %d; what clients published in the last 5 s\n", top.Gateways)
	}
	return b.Bytes(), nil
}

// shown is a name as a terminal may show it: what others chose could be a
// command to it.
func shown(name string) string {
	if !printable([]byte(name)) {
		return strconv.QuoteToGraphic(name)
	}
	return name
}
