//go:build compose

package obs

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/goccy/go-yaml"
)

// What only Prometheus itself can say: that its files are what it reads, that
// each expression parses, and that the alerts fire when alerts_test.yml says so
// and at no other time. promtool comes from the image that compose.yaml names. That
// it finds the replicas is seen where they are scaled, in integration/compose.
func TestPromtool(t *testing.T) {
	var compose struct {
		Services map[string]struct{ Image string }
	}
	parse(t, "../../compose.yaml", &compose, yaml.AllowDuplicateMapKey())
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	run := []string{"run", "--rm", "--network=none", "--entrypoint=promtool"}
	for _, file := range []string{"prometheus.yml", "alerts.yml", "alerts_test.yml"} {
		run = append(run, "--volume="+here+"/"+file+":/etc/prometheus/"+file+":ro")
	}
	run = append(run, compose.Services["prometheus"].Image)
	for _, args := range [][]string{{"check", "config", "/etc/prometheus/prometheus.yml"}, {"test", "rules", "/etc/prometheus/alerts_test.yml"}} {
		if out, err := exec.CommandContext(t.Context(), "docker", append(run, args...)...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
