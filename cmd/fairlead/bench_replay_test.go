package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/bench"
)

// builtBinary builds this program: the benchmarks of replay start it.
func builtBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fairlead")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return path
}

// Each benchmark of replay runs, checks every message and loses none.
func TestReplayBenchmarksAreWhole(t *testing.T) {
	exe := builtBinary(t)
	const moment = 200 * time.Millisecond
	tests := []struct {
		name     string
		scenario replayScenario
		checked  int64 // at least
		sides    string
	}{
		{"live", bench.ReplayLive{Rate: 100, Rounds: 2, Duration: moment, Warmup: moment}, 40, "plain replayed plain, NATS alone replayed, NATS alone"},
		{"publish", bench.ReplayPublish{Pairs: 4, Outstanding: 2, Rounds: 2, Duration: moment, Warmup: moment}, 100, "plain replayed"},
		{"since", bench.ReplaySince{Messages: 3000, Sparse: 3, Recent: 2, Workers: 2, Rounds: 1, Duration: moment}, 1000, "recent recent, 2 at a time sparse sparse, 2 at a time 10 of 249 topics 10 of 249 topics, 2 at a time bare request bare request, 2 at a time"},
		{"resumes", bench.ReplayResumes{Clients: 10, Messages: 6000, Rate: 100, Rounds: 1, Duration: moment}, 2000, "publish, quiet publish, during resumes resume of 100 messages"},
		{"storm", bench.ReplayStorm{Clients: 20, Topics: 4, Missed: 5, Rounds: 2}, 2 * 20 * 6, "plain connect resume after the kill"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c, err := tt.scenario.Run(ctx, bench.SiteConfig{Executable: exe})
			if err != nil {
				t.Fatal(err)
			}
			if c.Failed() || c.Checked < tt.checked {
				t.Errorf("got %d checked, want at least %d without a fault: %+v", c.Checked, tt.checked, c)
			}
			var names []string
			for _, s := range c.Sides {
				names = append(names, s.Name)
				if s.Count == 0 {
					t.Errorf("%s: nothing was measured", s.Name)
				}
			}
			if got := strings.Join(names, " "); got != tt.sides {
				t.Errorf("got %s, want %s", got, tt.sides)
			}
			if len(c.Verdicts) == 0 {
				t.Error("no goal was judged")
			}
		})
	}
}

// A benchmark whose processes don't come up says which, and why.
func TestReplayBenchmarkSaysWhatFailed(t *testing.T) {
	_, err := bench.ReplayLive{}.Run(t.Context(), bench.SiteConfig{Executable: "/bin/false"})
	if err == nil || !strings.Contains(err.Error(), "nats is not ready: it ended") {
		t.Errorf("got %v, which does not say that the NATS server ended", err)
	}
}
