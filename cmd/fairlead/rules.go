package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// rulesTimeout bounds what a rules command waits for NATS.
const rulesTimeout = 10 * time.Second

// RulesCmd is `fairlead rules`.
type RulesCmd struct {
	Check   RulesCheckCmd   `cmd:"" help:"Validate a rules file and run its tests."`
	Apply   RulesApplyCmd   `cmd:"" help:"Replace the rules of every process."`
	Explain RulesExplainCmd `cmd:"" help:"Say which rule governs a topic and what it allows."`
}

// RulesCheckCmd is `fairlead rules check`: exit 2 for a bad file, 1 for a test
// that fails.
type RulesCheckCmd struct {
	File string `arg:"" help:"The rules file."`
	Mode string `enum:"run,dev" default:"run" help:"What left-out rights mean: run is authenticated users, dev is anyone."`
}

// Run implements the command.
func (c *RulesCheckCmd) Run(_ context.Context, env *Env) error {
	set, err := checkedRules(env, c.File, c.Mode)
	if err != nil {
		return err
	}
	for _, w := range set.Warnings {
		fmt.Fprintf(env.Stderr, "%s:%s (warning)\n", c.File, w)
	}
	bridges := ""
	if n := len(set.Bridges); n > 0 {
		bridges = fmt.Sprintf(" %d bridges,", n)
	}
	fmt.Fprintf(env.Stdout, "%s: ok: %d topic, %d call and %d group rules, %d limits,%s %d tests passed; digest %s\n",
		c.File, len(set.Topics), len(set.Calls), len(set.Groups), len(set.Limits), bridges, len(set.Tests), set.Digest())
	return nil
}

// RulesApplyCmd is `fairlead rules apply`.
type RulesApplyCmd struct {
	File string `arg:"" help:"The rules file."`
	Mode string `enum:"run,dev" default:"run" help:"What left-out rights mean: run is authenticated users, dev is anyone."`
}

// Run implements the command.
func (c *RulesApplyCmd) Run(ctx context.Context, env *Env) error {
	set, err := checkedRules(env, c.File, c.Mode)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rulesTimeout)
	defer cancel()
	store, closeStore, err := openRules(ctx, env)
	if err != nil {
		return &exitError{exitFailure, fmt.Errorf("apply %s: %w", c.File, err)}
	}
	defer closeStore()
	old, err := store.Put(ctx, set, "fairlead rules apply on "+hostname())
	if err != nil {
		return &exitError{exitFailure, fmt.Errorf("apply %s: %w", c.File, err)}
	}
	if old == "" {
		old = "none"
	}
	if old == set.Digest() {
		fmt.Fprintf(env.Stdout, "rules applied, nothing changed\ndigest  %s\n", old)
		return nil
	}
	fmt.Fprintf(env.Stdout, "rules applied\nold digest  %s\nnew digest  %s\n", old, set.Digest())
	return nil
}

// RulesExplainCmd is `fairlead rules explain`.
type RulesExplainCmd struct {
	Name      string            `arg:"" help:"A topic, or a pattern like chat.>; a method or group with --call or --group."`
	File      string            `arg:"" optional:"" help:"The rules file; without it the rules that count now."`
	As        string            `help:"The user who asks; without it an anonymous caller." placeholder:"USER"`
	Attr      map[string]string `help:"An attribute of the caller." placeholder:"NAME=VALUE"`
	Anonymous bool              `help:"Nobody vouched for the user."`
	Call      bool              `help:"The name is a method." xor:"kind"`
	Group     bool              `help:"The name is a group." xor:"kind"`
	Mode      string            `enum:"run,dev" default:"run" help:"What left-out rights mean."`
}

// Run implements the command.
func (c *RulesExplainCmd) Run(ctx context.Context, env *Env) error {
	right, check := rules.Subscribe, wire.CheckPattern
	switch {
	case c.Call:
		right, check = rules.CallMethod, wire.CheckMethod
	case c.Group:
		right, check = rules.JoinGroup, wire.CheckGroup
	}
	if err := check(c.Name); err != nil {
		return &exitError{exitUsage, err}
	}
	set, source, err := c.rules(ctx, env)
	if err != nil {
		return err
	}
	caller := rules.Caller{User: c.As, Anonymous: c.Anonymous || c.As == "", Attributes: c.Attr}
	return set.Explain(env.Stdout, source, wire.Namespace(env.Namespace), right, c.Name, caller)
}

// rules returns the file's, otherwise the bucket's, otherwise the built-in ones.
func (c *RulesExplainCmd) rules(ctx context.Context, env *Env) (set *rules.Set, source string, err error) {
	mode, err := rules.ParseMode(c.Mode)
	if err != nil {
		return nil, "", &exitError{exitUsage, err}
	}
	if c.File != "" {
		set, err := parseRules(env, c.File, c.Mode)
		return set, c.File, err
	}
	ctx, cancel := context.WithTimeout(ctx, rulesTimeout)
	defer cancel()
	store, closeStore, err := openRules(ctx, env)
	if err != nil {
		return nil, "", &exitError{exitFailure, fmt.Errorf("read the rules that count now (name a FILE to do without): %w", err)}
	}
	defer closeStore()
	set, _, err = store.Load(ctx, mode)
	if errors.Is(err, rules.ErrNoRules) {
		return rules.Builtin(mode), "built-in rules (" + c.Mode + ")", nil
	}
	if err != nil {
		return nil, "", &exitError{exitFailure, fmt.Errorf("read the rules that count now: %w", err)}
	}
	return set, "bucket " + store.Namespace.Bucket("config"), nil
}

// checkedRules returns the rules of a file that is valid and passes its tests.
// It has said what is wrong otherwise.
func checkedRules(env *Env, file, mode string) (*rules.Set, error) {
	set, err := parseRules(env, file, mode)
	if err != nil {
		return nil, err
	}
	if failed := set.RunTests(); len(failed) > 0 {
		printProblems(env.Stderr, file, failed)
		return nil, &exitError{exitFailure, fmt.Errorf("%s: %d of %d tests failed", file, len(failed), len(set.Tests))}
	}
	return set, nil
}

func parseRules(env *Env, file, mode string) (*rules.Set, error) {
	m, err := rules.ParseMode(mode)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	src, err := readRules(file)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	set, err := rules.Parse(src, m)
	var problems rules.Problems
	if errors.As(err, &problems) {
		printProblems(env.Stderr, file, problems)
		return nil, &exitError{code: exitUsage}
	}
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return set, nil
}

// readRules reads no more of a file than rules can have.
func readRules(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, rules.MaxSource+1))
}

func printProblems(w io.Writer, file string, problems rules.Problems) {
	for _, p := range problems {
		fmt.Fprintf(w, "%s:%s\n", file, p)
	}
}

// openRules returns the store of the rules on a connection that is up.
func openRules(ctx context.Context, env *Env) (store rules.Store, closeStore func(), err error) {
	nc, err := env.Connect(ctx)
	if err != nil {
		return rules.Store{}, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return rules.Store{}, nil, err
	}
	return rules.Store{JetStream: js, Namespace: wire.Namespace(env.Namespace), Replicas: env.Replicas}, nc.Close, nil
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "an unnamed host"
	}
	return name
}
