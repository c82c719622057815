package obs

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// metric is a row of the tables of operations.md.
type metric struct {
	kind   string // counter, gauge or histogram
	labels string // the row's text: it names the metric's labels in backticks
}

// foreign are the metrics of others than the five services: Prometheus itself,
// Go's client library, the load balancer, and those that the collector makes of
// spans.
var foreign = map[string]metric{
	"up":                                      {"gauge", ""},
	"ALERTS":                                  {"gauge", "`alertstate`"},
	"go_goroutines":                           {"gauge", ""},
	"process_cpu_seconds_total":               {"counter", ""},
	"process_resident_memory_bytes":           {"gauge", ""},
	"process_start_time_seconds":              {"gauge", ""},
	"haproxy_backend_active_servers":          {"gauge", "`proxy`"},
	"haproxy_backend_connection_errors_total": {"counter", "`proxy`"},
	"haproxy_backend_retry_warnings_total":    {"counter", "`proxy`"},
	"haproxy_frontend_current_sessions":       {"gauge", "`proxy`"},
	"haproxy_frontend_http_responses_total":   {"counter", "`proxy` `code`"},
	"haproxy_frontend_sessions_total":         {"counter", "`proxy`"},
	"traces_spans_calls_total":                {"counter", "`span_name`"},
	"traces_spans_duration_seconds":           {"histogram", "`span_name`"},
}

// Labels that Prometheus gives to all it scrapes here, and a histogram's own.
var common = []string{"job", "service", "instance", "le"}

// known reads the metrics that there are from the page whose tables follow the code.
func known(t *testing.T) map[string]metric {
	t.Helper()
	metrics := map[string]metric{}
	for name, m := range foreign {
		metrics[name] = m
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(fairlead_[a-z_]+)` \\| ([a-z]+) \\| (.*) \\|$").FindAllStringSubmatch(read(t, page), -1) {
		metrics[m[1]] = metric{kind: m[2], labels: m[3]}
	}
	if len(metrics) < len(foreign)+100 {
		t.Fatalf("%s: %d metrics found, want more than 100", page, len(metrics)-len(foreign))
	}
	return metrics
}

var (
	quoted    = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	selectors = regexp.MustCompile(`\{([^}]*)\}`)
	grouping  = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
	window    = regexp.MustCompile(`\[[^\]]*\]|\boffset\s+\w+`)
	word      = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)
	keywords  = []string{"and", "or", "unless", "bool"}
)

// wrong lists what is wrong with the metrics and labels of a PromQL expression:
// names that do not exist, counters of which no rate is taken and gauges of which
// one is, labels that none of its metrics has. That it parses is promtool's to say.
func wrong(expr string, metrics map[string]metric) (problems []string) {
	bare := quoted.ReplaceAllString(expr, `""`)
	var labels []string
	for _, m := range append(selectors.FindAllStringSubmatch(bare, -1), grouping.FindAllStringSubmatch(bare, -1)...) {
		labels = append(labels, word.FindAllString(m[1], -1)...)
	}
	for _, other := range []*regexp.Regexp{selectors, grouping, window} {
		bare = other.ReplaceAllString(bare, "")
	}
	rows := ""
	for _, at := range word.FindAllStringIndex(bare, -1) {
		name, before, after := bare[at[0]:at[1]], strings.TrimSpace(bare[:at[0]]), strings.TrimSpace(bare[at[1]:])
		digit := at[0] > 0 && bare[at[0]-1] >= '0' && bare[at[0]-1] <= '9' // as in 1e6
		if digit || strings.HasPrefix(after, "(") || slices.Contains(keywords, name) || slices.Contains([]string{"sum", "max", "min", "count"}, name) {
			continue
		}
		m, exists := metrics[name]
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if of, is := metrics[strings.TrimSuffix(name, suffix)]; !exists && is && of.kind == "histogram" {
				m, exists = metric{"counter", of.labels}, true
			}
		}
		rated := strings.HasSuffix(before, "rate(") || strings.HasSuffix(before, "increase(")
		switch {
		case !exists:
			problems = append(problems, fmt.Sprintf("there is no metric %s", name))
		case m.kind == "histogram":
			problems = append(problems, fmt.Sprintf("%s is a histogram: its series are _bucket, _count and _sum", name))
		case m.kind == "counter" && !rated:
			problems = append(problems, fmt.Sprintf("%s is a counter: take its rate or increase", name))
		case m.kind == "gauge" && rated:
			problems = append(problems, fmt.Sprintf("%s is a gauge: it has no rate", name))
		}
		rows += m.labels
	}
	for _, label := range labels {
		if !slices.Contains(common, label) && !strings.Contains(rows, "`"+label+"`") {
			problems = append(problems, fmt.Sprintf("no metric of it has the label %s", label))
		}
	}
	return problems
}

// The check itself: what it must find, and what it must not.
func TestWrong(t *testing.T) {
	metrics := map[string]metric{"a_total": {"counter", "by `code`"}, "b": {"gauge", ""}, "c_seconds": {"histogram", ""}}
	for _, c := range []struct {
		expr string
		want int
	}{
		{`sum by (code) (rate(a_total{code="1013"}[5m])) > 3 * (sum(increase(a_total[1m] offset 1h)) or vector(0))`, 0},
		{`histogram_quantile(0.99, sum by (le) (rate(c_seconds_bucket[$__rate_interval]))) / 1e6`, 0},
		{`max(b{job="x", instance=~"a|b"}) == 0 and b > 10`, 0},
		{`rate(gone_total[5m])`, 1},
		{`a_total > 5`, 1},
		{`rate(b[5m])`, 1},
		{`c_seconds`, 1},
		{`sum by (reason) (rate(a_total[5m]))`, 1},
		{`b{code="1"}`, 1},
		{`absent(missing == 1) or rate(b[1m])`, 2},
	} {
		if got := wrong(c.expr, metrics); len(got) != c.want {
			t.Errorf("%s: got %q, want %d problems", c.expr, got, c.want)
		}
	}
}

const page = "../../docs/operations.md"

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
