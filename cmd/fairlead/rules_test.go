package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

const (
	goodRules = "topics: [{match: 'chat.>'}]\ntests: [{as: {user: bob}, publish: chat.a, expect: allow}]\n"
	badRules  = "topics:\n  - {match: a, slow: never}\n  - {macth: b}\n"
	failRules = "topics: [{match: a}]\ntests: [{publish: a, expect: allow}]\n"
)

// rulesEnv writes the file and returns an Env on url that notes its output.
func rulesEnv(t *testing.T, src, url string) (file string, env *Env, out, errs *bytes.Buffer) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	env = &Env{Stdout: out, Stderr: errs, Namespace: "fl", Replicas: 1, Connect: func(context.Context) (*nats.Conn, error) {
		return nats.Connect(url)
	}}
	return file, env, out, errs
}

func codeOf(err error) int {
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.code
	}
	return -1
}

func TestRulesCheck(t *testing.T) {
	tests := []struct {
		name, src, out, errs string
		code                 int
	}{
		{"good", goodRules, "ok: 1 topic, 0 call and 0 group rules, 0 limits, 1 tests passed", "", 0},
		{"warning", "topics:\n  - match: '>'\n  - match: a\n", "ok", ":3:5: topics[1]: governs nothing", 0},
		{"bad", badRules, "", ":2:22: topics[0].slow: disconnect, drop-oldest or conflate; got \"never\"", exitUsage},
		{"every problem", badRules, "", ":3:6: topics[1].macth: unknown key; did you mean match?", exitUsage},
		{"failing test", failRules, "", ":2:9: tests[0]: an anonymous caller may publish a: got deny by rule a", exitFailure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file, env, out, errs := rulesEnv(t, tt.src, "")
			err := (&RulesCheckCmd{File: file, Mode: "run"}).Run(t.Context(), env)
			if got := codeOf(err); got != tt.code {
				t.Errorf("got exit %d (%v), want %d", got, err, tt.code)
			}
			if !strings.Contains(out.String(), tt.out) || (tt.out == "") != (out.Len() == 0) {
				t.Errorf("got output %q, want %q", out, tt.out)
			}
			if want := tt.errs; want != "" && !strings.Contains(errs.String(), file+want) || want == "" && errs.Len() > 0 {
				t.Errorf("got %q, want %q", errs, want)
			}
		})
	}
	_, env, _, _ := rulesEnv(t, "", "")
	if err := (&RulesCheckCmd{File: "/does/not/exist", Mode: "run"}).Run(t.Context(), env); codeOf(err) != exitUsage || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("got %v, want exit 2 that names the file", err)
	}
}

func TestRulesApplyAndExplain(t *testing.T) {
	s := natsdev.Test(t)
	file, env, out, _ := rulesEnv(t, goodRules, s.ClientURL())
	explain := func(c RulesExplainCmd) string {
		t.Helper()
		out.Reset()
		c.Mode = "run"
		if err := c.Run(t.Context(), env); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if got := explain(RulesExplainCmd{Name: "chat.a"}); !strings.Contains(got, "built-in rules (run)") {
		t.Errorf("nothing applied yet: got\n%s", got)
	}
	out.Reset()
	if err := (&RulesApplyCmd{File: file, Mode: "run"}).Run(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "old digest  none\nnew digest  ") {
		t.Errorf("got %q, want both digests", got)
	}
	if got := explain(RulesExplainCmd{Name: "chat.a", As: "bob"}); !strings.Contains(got, "rule chat, match \"chat.>\", at bucket fl_config:") || !strings.Contains(got, "publish    allowed") {
		t.Errorf("got\n%s", got)
	}
	if got := explain(RulesExplainCmd{Name: "chat.a", File: file}); !strings.Contains(got, file+":1") || !strings.Contains(got, "publish    denied") {
		t.Errorf("got\n%s", got)
	}
	if got := explain(RulesExplainCmd{Name: "orders.create", Call: true}); !strings.Contains(got, "No rule of bucket fl_config matches the method") {
		t.Errorf("got\n%s", got)
	}
	if err := (&RulesExplainCmd{Name: "a..b", Mode: "run"}).Run(t.Context(), env); codeOf(err) != exitUsage {
		t.Errorf("a bad topic: got %v, want exit 2", err)
	}
	out.Reset()
	if err := (&RulesApplyCmd{File: file, Mode: "run"}).Run(t.Context(), env); err != nil || !strings.Contains(out.String(), "nothing changed") {
		t.Errorf("again: got %q, %v", out, err)
	}
}

func TestRulesApplyRefuses(t *testing.T) {
	s := natsdev.Test(t)
	for src, code := range map[string]int{badRules: exitUsage, failRules: exitFailure} {
		file, env, _, _ := rulesEnv(t, src, s.ClientURL())
		if err := (&RulesApplyCmd{File: file, Mode: "run"}).Run(t.Context(), env); codeOf(err) != code {
			t.Errorf("%s: got %v, want exit %d", src, err, code)
		}
	}
	s.Shutdown()
	file, env, _, _ := rulesEnv(t, goodRules, s.ClientURL())
	if err := (&RulesApplyCmd{File: file, Mode: "run"}).Run(t.Context(), env); codeOf(err) != exitFailure {
		t.Errorf("NATS away: got %v, want exit 1", err)
	}
}
