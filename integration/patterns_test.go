//go:build browser

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The programs of docs/patterns.md are run as they stand there, against a
// gateway that they know only by what it does. What is expected of them is in
// testdata/patterns.mjs.

const patternRules = `
topics:
  - {match: "doc.>", subscribe: user, publish: user, replay: {size: 100, ttl: 1h}}
calls:
  - {match: ">", allow: user}
`

func TestPatternOfAChannelLosesRepeatsAndReordersNothing(t *testing.T) {
	t.Parallel()
	g, nats := startDev(t, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, patternRules))
	worker := built(t, "../examples/patterns/channel")
	for range 2 {
		startPattern(t, worker, nats)
	}
	runPattern(t, "channel", g.http(""))
}

func TestPatternOfDeltasFollowsADocument(t *testing.T) {
	t.Parallel()
	g, nats := startDev(t, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, patternRules))
	worker := built(t, "../examples/patterns/delta")
	for range 2 {
		startPattern(t, worker, nats)
	}
	runPattern(t, "delta", g.http(""))
}

func TestPatternOfFlowControlIsNeverSilent(t *testing.T) {
	t.Parallel()
	worker := built(t, "../examples/patterns/flow")
	for _, policy := range []string{"queue", "drop-new", "drop-oldest"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			g, nats := startDev(t, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, patternRules))
			startPattern(t, worker, nats, "POLICY="+policy)
			runPattern(t, "flow", g.http(""), policy)
		})
	}
}

func TestPatternOfALoginIsNotGuessed(t *testing.T) {
	t.Parallel()
	g, nats := startDev(t, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, patternRules+`
limits:
  login-asker: {capacity: 3, refill: 1, per: 2s, key: given}
  login-account: {capacity: 20, refill: 20, per: 1h, key: given}
`))
	worker := built(t, "../examples/patterns/login")
	for range 2 {
		startPattern(t, worker, nats)
	}
	runPattern(t, "login", g.http(""))
}

// startPattern starts a pattern's worker and returns when it listens.
func startPattern(t *testing.T, command []string, nats string, env ...string) {
	t.Helper()
	p := startProgram(t, "worker", append(env, "NATS_URL="+nats), command[0], command[1:]...)
	p.line(p.stdout, "ready")
}

// runPattern runs a pattern's clients under node, which must be there, as must
// the packages of the JavaScript client: what is not run here is run nowhere.
func runPattern(t *testing.T, args ...string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("the patterns' clients need Node: apt-get install nodejs npm: %v", err)
	}
	if _, err := os.Stat("../clients/js/node_modules/ws"); err != nil {
		t.Fatalf("the packages of the JavaScript client are missing: (cd clients/js && npm ci): %v", err)
	}
	program, err := filepath.Abs("testdata/patterns.mjs")
	must(t, err)
	cmd := exec.CommandContext(within(t), node, append([]string{program}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}
