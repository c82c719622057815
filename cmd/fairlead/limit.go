package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// LimitCmd asks the ratelimit service on the bus (FAIRLEAD_NATS_URL).
type LimitCmd struct {
	Peek    LimitPeekCmd    `cmd:"" help:"Print what is left, and take nothing. Exit code 1: it would be refused."`
	Consume LimitConsumeCmd `cmd:"" help:"Take tokens, as a request does. Exit code 1: there are not as many."`
	Refund  LimitRefundCmd  `cmd:"" help:"Give tokens back."`
	Reset   LimitResetCmd   `cmd:"" help:"Fill the bucket and end its ban."`
	Ban     LimitBanCmd     `cmd:"" help:"Refuse everything of the key for a time, on every gateway."`
	Unban   LimitUnbanCmd   `cmd:"" help:"End the ban of a key."`
	Policy  LimitPolicyCmd  `cmd:"" help:"Print a limit as it counts now."`
	Clear   LimitClearCmd   `cmd:"" help:"Forget all that was taken: of one limit, or with --all of every one."`
}

type limitBucket struct {
	Policy string `arg:"" help:"The limit's name in the rules."`
	Key    string `arg:"" help:"Whose bucket: a user, an address, or what else the limit counts by."`
}

func (b limitBucket) take(cost int64) wire.LimitTake {
	return wire.LimitTake{Policy: b.Policy, Key: b.Key, Cost: &cost}
}

func (b limitBucket) key() wire.LimitKey { return wire.LimitKey{Policy: b.Policy, Key: b.Key} }

// LimitPeekCmd looks at a bucket.
type LimitPeekCmd struct {
	limitBucket
	Cost int64 `default:"1" help:"Would so many be given?"`
}

// Run prints the verdict.
func (c *LimitPeekCmd) Run(ctx context.Context, env *Env) error {
	return askVerdict(ctx, env, "peek", c.take(c.Cost))
}

// LimitConsumeCmd takes from a bucket.
type LimitConsumeCmd struct {
	limitBucket
	Cost int64 `default:"1" help:"Tokens; 0 takes none."`
}

// Run prints the verdict.
func (c *LimitConsumeCmd) Run(ctx context.Context, env *Env) error {
	return askVerdict(ctx, env, "consume", c.take(c.Cost))
}

// LimitRefundCmd gives back.
type LimitRefundCmd struct {
	limitBucket
	Cost int64  `default:"1" help:"Tokens."`
	ID   string `placeholder:"ID" required:"" help:"What it is for: the same one within a minute gives back nothing more."`
}

// Run prints {"remaining":…}.
func (c *LimitRefundCmd) Run(ctx context.Context, env *Env) error {
	return askLimit(ctx, env, "refund", wire.LimitRefund{Policy: c.Policy, Key: c.Key, Cost: &c.Cost, ID: c.ID}, printJSON(env))
}

// LimitResetCmd fills a bucket.
type LimitResetCmd struct{ limitBucket }

// Run prints nothing.
func (c *LimitResetCmd) Run(ctx context.Context, env *Env) error {
	return askLimit(ctx, env, "reset", c.key(), silent)
}

// LimitBanCmd bans a key.
type LimitBanCmd struct {
	limitBucket
	For time.Duration `placeholder:"TIME" help:"How long; default: what the limit's block says, else 1m."`
}

// Run prints nothing.
func (c *LimitBanCmd) Run(ctx context.Context, env *Env) error {
	req := wire.LimitBan{Policy: c.Policy, Key: c.Key}
	switch {
	case c.For < 0:
		return usage(errors.New("--for: more than 0"))
	case c.For > 0:
		req.Duration = c.For.String()
	}
	return askLimit(ctx, env, "ban", req, silent)
}

// LimitUnbanCmd ends a ban.
type LimitUnbanCmd struct{ limitBucket }

// Run prints nothing.
func (c *LimitUnbanCmd) Run(ctx context.Context, env *Env) error {
	return askLimit(ctx, env, "unban", c.key(), silent)
}

// LimitPolicyCmd shows a limit.
type LimitPolicyCmd struct {
	Policy string `arg:"" help:"The limit's name in the rules."`
}

// Run prints the limit.
func (c *LimitPolicyCmd) Run(ctx context.Context, env *Env) error {
	return askLimit(ctx, env, "policy", wire.LimitPolicyRequest{Policy: c.Policy}, printJSON(env))
}

// LimitClearCmd forgets.
type LimitClearCmd struct {
	Policy string `arg:"" optional:"" help:"The limit's name in the rules."`
	All    bool   `help:"Every limit."`
}

// Run prints {"count":…}.
func (c *LimitClearCmd) Run(ctx context.Context, env *Env) error {
	if (c.Policy == "") != c.All {
		return usage(errors.New("fairlead limit clear POLICY, or fairlead limit clear --all"))
	}
	return askLimit(ctx, env, "clear", wire.LimitPolicyRequest{Policy: c.Policy}, printJSON(env))
}

// askVerdict prints what becomes of a take; what is refused is exit code 1.
func askVerdict(ctx context.Context, env *Env, endpoint string, take wire.LimitTake) error {
	if take.Cost != nil && *take.Cost < 0 {
		return usage(errors.New("--cost: 0 or more"))
	}
	return askLimit(ctx, env, endpoint, wire.LimitRequest{LimitTake: take}, func(answer json.RawMessage) error {
		if err := printJSON(env)(answer); err != nil {
			return err
		}
		var v wire.LimitVerdict
		if err := json.Unmarshal(answer, &v); err != nil {
			return err
		}
		if !v.Allowed {
			return &exitError{exitFailure, nil}
		}
		return nil
	})
}

func silent(json.RawMessage) error { return nil }

func askLimit[Req any](ctx context.Context, env *Env, endpoint string, req Req, then func(json.RawMessage) error) error {
	nc, err := env.Connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	defer nc.Close()
	answer, err := bus.Call[Req, json.RawMessage](ctx, nc, wire.Namespace(env.Namespace).Svc("ratelimit", endpoint), req)
	if err != nil {
		return stopped(ctx, err)
	}
	return then(answer)
}
