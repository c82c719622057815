//go:build browser

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestNodeWorkerAnswersCalls(t *testing.T) {
	t.Parallel()
	answersCalls(t, inNode(t, "calls.mjs"))
}

func TestNodeWorkerReachesClients(t *testing.T) {
	t.Parallel()
	reachesClients(t, inNode(t, "reach.mjs"))
}

// inNode returns how to run a worker of docs/workers.md under node, which must
// be there, as must its packages: what is not run here is run nowhere.
func inNode(t *testing.T, file string) []string {
	t.Helper()
	const dir = "../examples/workers/node"
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("the workers in Node need it: apt-get install nodejs npm: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules/@nats-io/transport-node")); err != nil {
		t.Fatalf("the packages of the workers in Node are missing: (cd examples/workers/node && npm ci): %v", err)
	}
	program, err := filepath.Abs(filepath.Join(dir, file))
	must(t, err)
	return []string{node, program}
}
