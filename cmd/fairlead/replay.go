package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ReplayCmd asks the replay service on the bus (FAIRLEAD_NATS_URL).
type ReplayCmd struct {
	Head  ReplayHeadCmd  `cmd:"" help:"Print the newest position of a topic."`
	Since ReplaySinceCmd `cmd:"" help:"Print the messages after a position, one on a line, oldest first."`
	Gap   ReplayGapCmd   `cmd:"" help:"Say whether a message after a position is gone."`
	Clear ReplayClearCmd `cmd:"" help:"Remove all messages of a topic. Clients behind it are told that they missed some."`
}

type replayPosition struct {
	After int64 `default:"0" placeholder:"SEQ" help:"The position's sequence; 0 is the beginning."`
	Ts    int64 `placeholder:"MS" help:"The position's time, which tells a log that was wiped from this one."`
}

// ReplayHeadCmd prints where a topic's newest message stands.
type ReplayHeadCmd struct {
	Topic string `arg:""`
}

// Run prints {"seq":…,"ts":…,"at":…}.
func (c *ReplayHeadCmd) Run(ctx context.Context, env *Env) error {
	return askReplay(ctx, env, "head", wire.ReplayTopic{Topic: c.Topic}, printJSON(env))
}

// ReplaySinceCmd prints what a topic retains after a position.
type ReplaySinceCmd struct {
	Topic string `arg:""`
	replayPosition
	Limit int `default:"0" help:"At most so many; default: all."`
}

// Run prints a message on a line. That something is gone is said on standard
// error, and is exit code 1.
func (c *ReplaySinceCmd) Run(ctx context.Context, env *Env) error {
	at := wire.Position{Seq: c.After, Ts: c.Ts}
	gone := false
	for left, more := c.Limit, true; more; {
		limit := 1000
		if c.Limit > 0 {
			limit = min(left, limit)
		}
		err := askReplay(ctx, env, "since", wire.ReplaySinceRequest{Topic: c.Topic, After: at.Seq, Ts: at.Ts, Limit: limit}, func(page *wire.ReplayPage) error {
			if page.Truncated {
				gone = true
				fmt.Fprintf(env.Stderr, "messages from %d on are gone\n", page.MissingFrom)
			}
			for _, m := range page.Messages {
				at = m.Position
				line := wire.AppendMessage(nil, &wire.Message{Topic: c.Topic, Event: m.Event, Payload: m.Payload, From: m.User, Seq: m.Seq, Prev: m.Prev, Ts: m.Ts})
				if _, err := fmt.Fprintf(env.Stdout, "%s\n", line); err != nil {
					return err
				}
			}
			left -= len(page.Messages)
			more = page.More && (c.Limit == 0 || left > 0)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if gone {
		return &exitError{exitFailure, fmt.Errorf("%s: truncated", c.Topic)}
	}
	return nil
}

// ReplayGapCmd asks whether a position is still good.
type ReplayGapCmd struct {
	Topic string `arg:""`
	replayPosition
}

// Run prints {"truncated":…,"seq":…}.
func (c *ReplayGapCmd) Run(ctx context.Context, env *Env) error {
	return askReplay(ctx, env, "gap", wire.ReplayAfter{Topic: c.Topic, After: c.After, Ts: c.Ts}, printJSON(env))
}

// ReplayClearCmd empties a topic.
type ReplayClearCmd struct {
	Topic string `arg:""`
}

// Run prints nothing.
func (c *ReplayClearCmd) Run(ctx context.Context, env *Env) error {
	return askReplay(ctx, env, "clear-topic", wire.ReplayTopic{Topic: c.Topic}, func(json.RawMessage) error { return nil })
}

func askReplay[Req, Rep any](ctx context.Context, env *Env, endpoint string, req Req, then func(Rep) error) error {
	nc, err := env.Connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	rep, err := bus.Call[Req, Rep](ctx, nc, wire.Namespace(env.Namespace).Svc("replay", endpoint), req)
	if err != nil {
		return stopped(ctx, err)
	}
	return then(rep)
}

func printJSON(env *Env) func(json.RawMessage) error {
	return func(answer json.RawMessage) error {
		_, err := fmt.Fprintf(env.Stdout, "%s\n", bytes.TrimSpace(answer))
		return err
	}
}
