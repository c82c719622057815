//go:build compose

package obs

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// What only Prometheus itself can say: that its files are what it reads, that
// each expression parses, and that the alerts fire when alerts_test.yml says so
// and at no other time. promtool comes from the image that compose.yaml names.
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

// Prometheus of the compose file scrapes each gateway, whatever their number
// becomes, and answers what the dashboard asks. Nothing else of the stack has to
// run: a gateway has metrics while it waits for NATS.
func TestPrometheusFindsReplicas(t *testing.T) {
	p := prometheus{t: t, project: fmt.Sprintf("fairlead-obs-%d", os.Getpid()), port: freePort(t)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		p.compose(ctx, "down", "--volumes", "--timeout", "1")
	})
	for _, gateways := range []int{3, 1} {
		p.compose(t.Context(), "up", "--detach", "--no-deps", "--scale", fmt.Sprint("gateway=", gateways), "prometheus", "gateway")
		p.awaitValue(`count(up{job="fairlead", service="gateway"} == 1)`, fmt.Sprint(gateways))
		p.awaitValue(`count(fairlead_gateway_nats_rtt_microseconds)`, fmt.Sprint(gateways))
	}
	for _, panel := range overview(t).Panels {
		for _, q := range panel.Targets {
			if _, err := p.query(strings.ReplaceAll(q.Expr, "$__rate_interval", "1m")); err != nil {
				t.Errorf("%s, %s: %v", panel.Title, q.RefID, err)
			}
		}
	}
	// No NATS and no other service: an alert of each kind that it can see.
	p.awaitValue(`count(ALERTS{alertname="FairleadNatsAway", instance!="", severity="page"})`, "1")
	p.awaitValue(`count(ALERTS{alertname="FairleadServiceGone", service="presence"})`, "1")
}

// prometheus is the one of a compose project of the test's own.
type prometheus struct {
	t       *testing.T
	project string
	port    string
}

func (p prometheus) compose(ctx context.Context, args ...string) {
	p.t.Helper()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"compose", "--project-name", p.project, "--profile", "obs"}, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "FAIRLEAD_PROMETHEUS_PORT="+p.port)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("compose %v: %v\n%s", args, err, out)
	}
}

// awaitValue asks until the answer is one sample with that value.
func (p prometheus) awaitValue(expr, want string) {
	p.t.Helper()
	deadline := time.After(time.Minute)
	for {
		got, err := p.query(expr)
		if err == nil && len(got) == 1 && got[0] == want {
			return
		}
		select {
		case <-deadline:
			p.t.Fatalf("%s: got %v (%v), want %s", expr, got, err, want)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// query returns the values of the samples that an expression has now.
func (p prometheus) query(expr string) (values []string, err error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+p.port+"/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return nil, err
	}
	rep, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer rep.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []struct{ Value []any } }
	}
	if err := json.NewDecoder(rep.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	for _, r := range answer.Data.Result {
		values = append(values, fmt.Sprint(r.Value[len(r.Value)-1]))
	}
	return values, nil
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
