//go:build compose

package compose

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// watch has Prometheus look at the stack from now on, as the profile obs does.
func (p *proof) watch() {
	p.t.Helper()
	p.compose("--profile", "obs", "up", "-d", "--no-deps", "prometheus")
}

// sees waits until Prometheus has answers from as many gateways as there are.
func (p *proof) sees(gateways int) {
	p.t.Helper()
	if p.t.Failed() || *only != "" { // then there may be another number of them
		return
	}
	p.eventually(fmt.Sprintf("Prometheus finds %d gateways", gateways), func() (any, bool) {
		return p.asked(`count(up{job="fairlead", service="gateway"} == 1)`, fmt.Sprint(gateways))
	})
}

// watched checks that Prometheus has found the other services too, and answers all
// that the dashboard asks. Then it goes.
func (p *proof) watched() {
	p.t.Helper()
	if p.t.Failed() {
		return
	}
	for _, service := range []string{"presence", "replay", "ratelimit", "tasks"} {
		p.eventually("Prometheus finds "+service, func() (any, bool) {
			return p.asked(fmt.Sprintf(`count(up{job="fairlead", service=%q} == 1)`, service), "1")
		})
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err := os.ReadFile(root + "/deploy/obs/grafana/dashboards/overview.json")
	if err == nil {
		err = json.Unmarshal(text, &dashboard)
	}
	if err != nil || len(dashboard.Panels) == 0 {
		p.t.Fatalf("the dashboard: %d panels, %v", len(dashboard.Panels), err)
	}
	for _, panel := range dashboard.Panels {
		for _, q := range panel.Targets {
			if _, err := p.query(strings.ReplaceAll(q.Expr, "$__rate_interval", "1m")); err != nil {
				p.t.Errorf("%s, %s: %v", panel.Title, q.Expr, err)
			}
		}
	}
	p.compose("--profile", "obs", "rm", "-sf", "prometheus")
}

// asked reports whether Prometheus answers with one sample of that value.
func (p *proof) asked(expr, want string) (got any, ok bool) {
	values, err := p.query(expr)
	if err != nil {
		return err, false
	}
	return values, len(values) == 1 && values[0] == want
}

// query returns the values of the samples that an expression has now.
func (p *proof) query(expr string) (values []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	where := "http://127.0.0.1:" + p.setting("FAIRLEAD_PROMETHEUS_PORT") + "/api/v1/query?query=" + url.QueryEscape(expr)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
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
		return nil, errors.New(answer.Status + ": " + answer.Error)
	}
	for _, r := range answer.Data.Result {
		if len(r.Value) > 0 {
			values = append(values, fmt.Sprint(r.Value[len(r.Value)-1]))
		}
	}
	return values, nil
}
