package obs

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// parse reads a YAML file. The parser takes what overrides a merged key for a
// duplicate, so a file with merges needs leave for that.
func parse(t *testing.T, file string, into any, options ...yaml.DecodeOption) {
	t.Helper()
	if err := yaml.UnmarshalWithOptions([]byte(read(t, file)), into, options...); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

type alert struct {
	Alert, Expr, For string
	Labels           struct{ Severity, Service string }
	Annotations      struct{ Summary string }
}

func alerts(t *testing.T) (all []alert) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []alert
		}
	}
	parse(t, "alerts.yml", &file)
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("alerts.yml: no alerts")
	}
	return all
}

func TestAlertsAskForMetricsThatExist(t *testing.T) {
	metrics := known(t)
	for _, a := range alerts(t) {
		for _, problem := range wrong(a.Expr, metrics) {
			t.Errorf("%s: %s", a.Alert, problem)
		}
		if a.Annotations.Summary == "" {
			t.Errorf("%s has no summary", a.Alert)
		}
	}
}

// Each alert has a row in operations.md that says what to do, with the severity
// that it has, and each row its alert.
func TestAlertsAreExplained(t *testing.T) {
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(Fairlead[A-Za-z]+)` \\| ([a-z]+) \\| .{20}").FindAllStringSubmatch(read(t, page), -1) {
		rows[m[1]] = m[2]
	}
	for _, a := range alerts(t) {
		if got, want := rows[a.Alert], a.Labels.Severity; got != want || want != "page" && want != "ticket" {
			t.Errorf("%s: operations.md says severity %q, alerts.yml %q; want page or ticket in both", a.Alert, got, want)
		}
	}
	for name := range rows {
		if !slices.ContainsFunc(alerts(t), func(a alert) bool { return a.Alert == name }) {
			t.Errorf("operations.md explains %s, which does not exist", name)
		}
	}
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               struct{ UID string }
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []struct{ RefID, Expr, LegendFormat string }
}

type dashboard struct {
	UID, Title string
	Templating struct {
		List []struct {
			Name, Type string
			Current    struct{ Value string }
		}
	}
	Annotations struct{ List []struct{ Name, Expr string } }
	Panels      []panel
}

func overview(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, "grafana/dashboards/overview.json")), &d); err != nil {
		t.Fatalf("overview.json: %v", err)
	}
	if d.UID == "" || len(d.Panels) == 0 {
		t.Fatal("overview.json: no uid or no panels")
	}
	return d
}

func TestDashboardAsksForMetricsThatExist(t *testing.T) {
	metrics, asked := known(t), 0
	for _, p := range overview(t).Panels {
		for _, q := range p.Targets {
			asked++
			for _, problem := range append(wrong(q.Expr, metrics), unlabelled(q.Expr, q.LegendFormat)...) {
				t.Errorf("%s, %s: %s", p.Title, q.RefID, problem)
			}
		}
	}
	for _, a := range overview(t).Annotations.List {
		asked++
		for _, problem := range wrong(a.Expr, metrics) {
			t.Errorf("annotation %s: %s", a.Name, problem)
		}
	}
	if asked < 40 {
		t.Errorf("%d expressions found, want all of them", asked)
	}
}

// unlabelled finds labels in a legend that the expression has summed away: the
// legend would show nothing in their place.
func unlabelled(expr, legend string) (problems []string) {
	kept := grouping.FindStringSubmatch(expr)
	aggregated := kept != nil || regexp.MustCompile(`^(sum|max|count|histogram_quantile)\s*\(`).MatchString(expr)
	for _, m := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(legend, -1) {
		if aggregated && (kept == nil || !slices.Contains(word.FindAllString(kept[1], -1), m[1])) {
			problems = append(problems, fmt.Sprintf("the legend names %s, which is summed away", m[1]))
		}
	}
	return problems
}

func TestUnlabelled(t *testing.T) {
	for _, c := range []struct {
		expr, legend string
		want         int
	}{
		{`sum by (code) (rate(a[1m]))`, "{{code}}", 0},
		{`a`, "{{instance}}", 0},
		{`sum by (code) (rate(a[1m]))`, "{{instance}}", 1},
		{`sum(rate(a[1m]))`, "{{instance}} {{code}}", 2},
	} {
		if got := unlabelled(c.expr, c.legend); len(got) != c.want {
			t.Errorf("%s as %s: got %q, want %d problems", c.expr, c.legend, got, c.want)
		}
	}
}

// Every panel has a number and a place of its own, says what it shows, and asks
// the source that Grafana is provisioned with.
func TestDashboardIsWhole(t *testing.T) {
	d := overview(t)
	var provisioned struct{ Datasources []struct{ UID, Type string } }
	parse(t, "grafana/datasources/prometheus.yaml", &provisioned)
	if len(provisioned.Datasources) != 1 || len(d.Templating.List) != 1 || d.Templating.List[0].Current.Value != provisioned.Datasources[0].UID {
		t.Errorf("the dashboard begins with %+v, Grafana has %+v", d.Templating.List, provisioned.Datasources)
	}
	ids, cells := map[int]string{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if other, taken := ids[p.ID]; taken {
			t.Errorf("%q and %q have the id %d", p.Title, other, p.ID)
		}
		ids[p.ID] = p.Title
		if p.Type != "row" && (p.Title == "" || p.Description == "" || len(p.Targets) == 0 || p.Datasource.UID != "${"+d.Templating.List[0].Name+"}") {
			t.Errorf("panel %d lacks a title, a description, a query or the source: %+v", p.ID, p)
		}
		if p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 || p.GridPos.H == 0 {
			t.Errorf("%q does not fit the 24 columns: %+v", p.Title, p.GridPos)
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, taken := cells[cell]; taken {
					t.Fatalf("%q lies on %q", p.Title, other)
				}
				cells[cell] = p.Title
			}
		}
	}
}

// What a pipeline of the collector names is there, and what is there is used.
func TestCollectorPipelines(t *testing.T) {
	var file struct {
		Receivers, Processors, Connectors, Exporters map[string]any
		Service                                      struct {
			Pipelines map[string]struct{ Receivers, Processors, Exporters []string }
		}
	}
	parse(t, "otel-collector.yaml", &file)
	used := map[string]bool{}
	check := func(pipeline, kind string, names []string, parts ...map[string]any) {
		for _, name := range names {
			used[name] = true
			if !slices.ContainsFunc(parts, func(m map[string]any) bool { _, is := m[name]; return is }) {
				t.Errorf("pipeline %s: there is no %s %s", pipeline, kind, name)
			}
		}
	}
	for name, p := range file.Service.Pipelines {
		check(name, "receiver", p.Receivers, file.Receivers, file.Connectors)
		check(name, "processor", p.Processors, file.Processors)
		check(name, "exporter", p.Exporters, file.Exporters, file.Connectors)
		if len(p.Processors) == 0 || p.Processors[0] != "memory_limiter" {
			t.Errorf("pipeline %s begins with %v, want the memory_limiter", name, p.Processors)
		}
	}
	for _, parts := range []map[string]any{file.Receivers, file.Processors, file.Connectors, file.Exporters} {
		for name := range parts {
			if !used[name] {
				t.Errorf("%s is in no pipeline", name)
			}
		}
	}
}

// Prometheus asks for services that compose.yaml has, and the dashboard's rows
// for jobs that Prometheus scrapes.
func TestScrapesAreServices(t *testing.T) {
	var scrape struct {
		ScrapeConfigs []struct {
			Job string `yaml:"job_name"`
			DNS []struct {
				Names []string
				Port  int
			} `yaml:"dns_sd_configs"`
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	parse(t, "prometheus.yml", &scrape)
	var compose struct {
		Services map[string]struct {
			Profiles, Volumes []string
		}
	}
	parse(t, "../../compose.yaml", &compose, yaml.AllowDuplicateMapKey())
	jobs := map[string]bool{}
	for _, s := range scrape.ScrapeConfigs {
		jobs[s.Job] = true
		hosts := []string{}
		for _, d := range s.DNS {
			hosts = append(hosts, d.Names...)
		}
		for _, st := range s.Static {
			for _, target := range st.Targets {
				hosts = append(hosts, target[:strings.LastIndex(target, ":")])
			}
		}
		for _, host := range hosts {
			if _, is := compose.Services[host]; !is && host != "127.0.0.1" {
				t.Errorf("job %s scrapes %s, which is no service of compose.yaml", s.Job, host)
			}
		}
	}
	for _, m := range regexp.MustCompile(`job=\\?"([^"\\]+)`).FindAllStringSubmatch(read(t, "alerts.yml")+read(t, "grafana/dashboards/overview.json"), -1) {
		if !jobs[m[1]] {
			t.Errorf("job %s is asked for and not scraped", m[1])
		}
	}
	for _, name := range []string{"prometheus", "grafana", "otel-collector"} {
		s := compose.Services[name]
		if !slices.Contains(s.Profiles, "obs") {
			t.Errorf("service %s: profiles %v, want obs", name, s.Profiles)
		}
		for _, v := range s.Volumes {
			if source, _, _ := strings.Cut(v, ":"); strings.HasPrefix(source, "./") {
				if found, err := filepath.Glob(filepath.Join("../..", source)); err != nil || len(found) != 1 {
					t.Errorf("service %s mounts %s: no such file", name, source)
				}
			}
		}
	}
}
