package check

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var update = flag.Bool("update", false, "write what is rendered to testdata")

var services = []string{"gateway", "presence", "ratelimit", "replay", "tasks"}

// kustomizations are what a user applies, and what it is rendered to.
var kustomizations = map[string]string{"../base": "base.yaml", "../overlays/keda": "keda.yaml"}

func bundle(t *testing.T, dir string) *Bundle {
	t.Helper()
	rendered, err := Render(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Read(rendered)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// documented are the variables of docs/configuration.md with their defaults.
func documented(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| ((?:`FAIRLEAD_[A-Z_]+`(?:, )?)+) \\| (?:`([^`]*)`)? ?\\|").FindAllStringSubmatch(read(t, "../../../docs/configuration.md"), -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			all[strings.Trim(name, "`")] = row[2]
		}
	}
	if len(all) < 40 || all["FAIRLEAD_DRAIN_WINDOW"] == "" {
		t.Fatalf("docs/configuration.md: %d variables found", len(all))
	}
	return all
}

// measured reports whether a query is about a metric of docs/operations.md.
func measured(t *testing.T) func(query string) bool {
	t.Helper()
	page := read(t, "../../../docs/operations.md")
	return func(query string) bool {
		name := regexp.MustCompile(`fairlead_[a-z_]+`).FindString(query)
		return name != "" && strings.Contains(page, "| `"+name+"` |")
	}
}

// check is one promise about what is rendered.
type check func(*testing.T, *Bundle) []string

var checks = map[string]check{
	"commands":    func(_ *testing.T, b *Bundle) []string { return Commands(b, services) },
	"probes":      func(_ *testing.T, b *Bundle) []string { return Probes(b) },
	"grace":       func(t *testing.T, b *Bundle) []string { return Grace(b, documented(t)) },
	"variables":   func(t *testing.T, b *Bundle) []string { return Variables(b, documented(t)) },
	"privileges":  func(_ *testing.T, b *Bundle) []string { return Privileges(b) },
	"memory":      func(_ *testing.T, b *Bundle) []string { return Memory(b) },
	"selectors":   func(_ *testing.T, b *Bundle) []string { return Selectors(b) },
	"budgets":     func(_ *testing.T, b *Bundle) []string { return Budgets(b) },
	"scaling":     func(_ *testing.T, b *Bundle) []string { return Scaling(b) },
	"connections": func(t *testing.T, b *Bundle) []string { return Connections(b, measured(t)) },
	"network":     func(_ *testing.T, b *Bundle) []string { return Network(b) },
}

func TestManifests(t *testing.T) {
	for dir := range kustomizations {
		b := bundle(t, dir)
		for name, check := range checks {
			for _, problem := range check(t, b) {
				t.Errorf("%s: %s: %s", dir, name, problem)
			}
		}
	}
}

// What is applied is what was looked at: go test -update writes it.
func TestRendered(t *testing.T) {
	for dir, file := range kustomizations {
		got, err := Render(dir)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", file)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := read(t, path); string(got) != want {
			t.Errorf("%s renders to something else than %s: look at the difference after go test -update", dir, path)
		}
	}
}

// Every check can fail: each is shown what it is there to find.
func TestChecksFind(t *testing.T) {
	gateway := func(b *Bundle) *corev1.PodSpec { return &deployment(b, "gateway").Spec.Template.Spec }
	for _, c := range []struct {
		check, what string
		breaks      func(*Bundle)
	}{
		{"commands", "a service without a Deployment", func(b *Bundle) { b.Deployments = b.Deployments[1:] }},
		{"commands", "another user's password", func(b *Bundle) { gateway(b).Containers[0].Env[0].ValueFrom.SecretKeyRef.Key = "tasks" }},
		{"probes", "ready while it only lives", func(b *Bundle) { gateway(b).Containers[0].ReadinessProbe.HTTPGet.Path = "/healthz" }},
		{"probes", "a port that is not there", func(b *Bundle) { gateway(b).Containers[0].LivenessProbe.HTTPGet.Port = intstr.FromString("web") }},
		{"grace", "Kubernetes' default", func(b *Bundle) { *gateway(b).TerminationGracePeriodSeconds = 30 }},
		{"grace", "a longer window", func(b *Bundle) {
			gateway(b).Containers[0].Env = append([]corev1.EnvVar{{Name: "FAIRLEAD_DRAIN_WINDOW", Value: "1m"}}, gateway(b).Containers[0].Env...)
		}},
		{"grace", "no preStop", func(b *Bundle) { gateway(b).Containers[0].Lifecycle = nil }},
		{"variables", "a typo", func(b *Bundle) {
			gateway(b).Containers[0].Env = append(gateway(b).Containers[0].Env, corev1.EnvVar{Name: "FAIRLEAD_DRAIN_WINDOWS", Value: "1m"})
		}},
		{"variables", "a password that stands behind", func(b *Bundle) {
			e := gateway(b).Containers[0].Env
			e[0], e[1] = e[1], e[0]
		}},
		{"variables", "rules that are not mounted", func(b *Bundle) { gateway(b).Containers[0].VolumeMounts = nil }},
		{"privileges", "a writable image", func(b *Bundle) { gateway(b).Containers[0].SecurityContext.ReadOnlyRootFilesystem = nil }},
		{"privileges", "variables of other Services", func(b *Bundle) { gateway(b).EnableServiceLinks = nil }},
		{"memory", "a limit that was raised alone", func(b *Bundle) {
			gateway(b).Containers[0].Resources.Limits[corev1.ResourceMemory] = resource.MustParse("2Gi")
		}},
		{"selectors", "a Service of everybody", func(b *Bundle) {
			b.Services[0].Spec.Selector = map[string]string{"app.kubernetes.io/part-of": "fairlead"}
		}},
		{"budgets", "a budget of nobody", func(b *Bundle) { b.Budgets[0].Spec.Selector.MatchLabels["app.kubernetes.io/name"] = "gate" }},
		{"budgets", "a single replica", func(b *Bundle) { *deployment(b, "tasks").Spec.Replicas = 1 }},
		{"scaling", "a target that is gone", func(b *Bundle) { b.ScaledObjects[0].Spec.ScaleTargetRef.Name = "gate" }},
		{"scaling", "two that decide", func(b *Bundle) { n := int32(3); deployment(b, "gateway").Spec.Replicas = &n }},
		{"connections", "a threshold above the limit", func(b *Bundle) { b.ScaledObjects[0].Spec.Triggers[0].Metadata["threshold"] = "30000" }},
		{"connections", "a metric that nobody has", func(b *Bundle) {
			b.ScaledObjects[0].Spec.Triggers[0].Metadata["query"] = "sum(fairlead_gateway_connections)"
		}},
		{"connections", "no answer taken for none", func(b *Bundle) { delete(b.ScaledObjects[0].Spec.Triggers[0].Metadata, "ignoreNullValues") }},
		{"network", "no policies", func(b *Bundle) { b.Policies = nil }},
		{"network", "one policy less", func(b *Bundle) { b.Policies = b.Policies[:len(b.Policies)-1] }},
		{"network", "a label that is another", func(b *Bundle) {
			deployment(b, "tasks").Spec.Template.Labels["app.kubernetes.io/name"] = "task"
		}},
	} {
		b := bundle(t, "../overlays/keda")
		c.breaks(b)
		if len(checks[c.check](t, b)) == 0 {
			t.Errorf("%s does not find %s", c.check, c.what)
		}
	}
}

// A field that Kubernetes does not know, and a kind that nobody looks at, are
// errors.
func TestReadIsStrict(t *testing.T) {
	for _, doc := range []string{
		"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {prots: []}\n",
		"apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nspec: {minReplicas: 2}\n",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
	} {
		if _, err := Read([]byte(doc)); err == nil {
			t.Errorf("taken: %s", doc)
		}
	}
}
