package check

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

const page = "../../../docs/kubernetes.md"

func blocks(t *testing.T, language string) (all []string) {
	t.Helper()
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(read(t, page), -1) {
		all = append(all, m[1])
	}
	if len(all) == 0 {
		t.Fatalf("%s has no %s", page, language)
	}
	return all
}

// What the page shows can be applied.
func TestPageExamples(t *testing.T) {
	kinds := map[string]int{}
	for _, doc := range blocks(t, "yaml") {
		var what struct{ Kind string }
		if err := yaml.Unmarshal([]byte(doc), &what); err != nil {
			t.Fatal(err)
		}
		kinds[what.Kind]++
		var into any
		switch what.Kind {
		case "Kustomization":
			into = new(types.Kustomization)
			t.Run("Kustomization", func(t *testing.T) { overlay(t, doc) })
		case "NetworkPolicy":
			into = new(networkingv1.NetworkPolicy)
		case "Ingress":
			into = new(networkingv1.Ingress)
		case "Deployment":
			into = new(appsv1.Deployment)
		default:
			t.Errorf("%s: nobody looks at it", what.Kind)
			continue
		}
		if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
			t.Errorf("%s: %v", what.Kind, err)
		}
		if d, ok := into.(*appsv1.Deployment); ok && d.Spec.Template.Labels[worker] != "true" {
			t.Errorf("the worker's pods have labels %v", d.Spec.Template.Labels)
		}
		if i, ok := into.(*networkingv1.Ingress); ok {
			path := i.Spec.Rules[0].HTTP.Paths[0].Backend.Service
			if service := bundle(t, "../base").Services[0]; path.Name != service.Name || path.Port.Name != service.Spec.Ports[0].Name {
				t.Errorf("the ingress leads to %s %s", path.Name, path.Port.Name)
			}
		}
	}
	for _, kind := range []string{"Kustomization", "NetworkPolicy", "Ingress", "Deployment"} {
		if kinds[kind] != 1 {
			t.Errorf("%d examples of a %s, want 1", kinds[kind], kind)
		}
	}
}

// overlay renders the user's own kustomization of the page: all that holds for
// the base holds for it.
func overlay(t *testing.T, doc string) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	base, err := filepath.Abs("../base")
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(dir, base)
	if err != nil {
		t.Fatal(err)
	}
	const there = "../fairlead/deploy/k8s/base"
	if !strings.Contains(doc, there) {
		t.Fatalf("the page does not name %s", there)
	}
	write(t, filepath.Join(dir, "kustomization.yaml"), strings.Replace(doc, there, filepath.ToSlash(relative), 1))
	write(t, filepath.Join(dir, "rules.yaml"), "topics: [{match: mine}]\n")
	b := bundle(t, dir)
	for name, check := range checks {
		for _, problem := range check(t, b) {
			t.Errorf("%s: %s", name, problem)
		}
	}
	gateway := container(deployment(b, "gateway"))
	if want := "registry.example.com/fairlead:1.0.0"; gateway.Image != want {
		t.Errorf("image %s, want %s", gateway.Image, want)
	}
	for name, want := range map[string]string{"FAIRLEAD_LOG_LEVEL": "warn", "FAIRLEAD_NATS_REPLICAS": "3", "FAIRLEAD_ORIGINS": "https://app.example.com"} {
		if got, _ := env(b, gateway, name); got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
	for _, m := range b.ConfigMaps {
		if strings.HasPrefix(m.Name, "fairlead-rules") && !strings.Contains(m.Data["rules.yaml"], "match: mine") {
			t.Errorf("the rules are %s", m.Data["rules.yaml"])
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// created are the secrets, as name/key, that the page's commands make.
func created(t *testing.T) (all []string) {
	t.Helper()
	for _, script := range blocks(t, "sh") {
		script = strings.ReplaceAll(script, "\\\n", " ")
		for line := range strings.Lines(script) {
			m := regexp.MustCompile(`create secret generic (\S+)`).FindStringSubmatch(line)
			if m == nil {
				continue
			}
			for _, key := range regexp.MustCompile(`--from-literal=([a-z]+)=`).FindAllStringSubmatch(line, -1) {
				all = append(all, m[1]+"/"+key[1])
			}
		}
	}
	return all
}

// The secrets that pods and NATS read are those that the page makes.
func TestSecretsAreMade(t *testing.T) {
	made, read := created(t), Secrets(bundle(t, "../base"))
	for _, name := range read {
		if !slices.Contains(made, name) {
			t.Errorf("%s is read and not made", name)
		}
	}
	if len(read) != len(services)+2 {
		t.Errorf("pods read %v", read)
	}
	for _, name := range natsEnvironment(t) {
		if !slices.Contains(made, name) {
			t.Errorf("NATS reads %s, which nobody makes", name)
		}
	}
}

// natsEnvironment are the secrets of nats-values.yaml by the variable.
func natsEnvironment(t *testing.T) map[string]string {
	t.Helper()
	var values struct {
		Config struct {
			Merge map[string]string `json:"merge"`
		} `json:"config"`
		Container struct {
			Env map[string]any `json:"env"`
		} `json:"container"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "../nats-values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	if file := values.Config.Merge["00$include"]; file != "accounts.conf" {
		t.Errorf("NATS includes %q", file)
	}
	all := map[string]string{}
	for name, value := range values.Container.Env {
		if _, plain := value.(string); plain {
			continue
		}
		content, err := yaml.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		var v corev1.EnvVar
		if err := yaml.UnmarshalStrict(content, &v); err != nil || v.ValueFrom == nil || v.ValueFrom.SecretKeyRef == nil {
			t.Fatalf("%s: %s: %v", name, content, err)
		}
		all[name] = secretKey(v.ValueFrom.SecretKeyRef)
	}
	return all
}

// NATS has a password for each user of accounts.conf, and each pod is one of
// those users, with the same password.
func TestNATSUsers(t *testing.T) {
	accounts := read(t, "../../nats/accounts.conf")
	env := natsEnvironment(t)
	passwords := map[string]string{} // of each user
	for _, m := range regexp.MustCompile(`user: ([a-z]+), password: \$([A-Z_]+)`).FindAllStringSubmatch(accounts, -1) {
		if env[m[2]] == "" {
			t.Errorf("nats-values.yaml has no %s", m[2])
		}
		passwords[m[1]] = env[m[2]]
	}
	if len(passwords) != len(env) || strings.Count(accounts, "password:") != len(passwords) {
		t.Errorf("%d users in accounts.conf, %d found, %d passwords", strings.Count(accounts, "password:"), len(passwords), len(env))
	}
	for _, name := range Secrets(bundle(t, "../base")) {
		if user, ok := strings.CutPrefix(name, "fairlead-nats/"); ok && passwords[user] != name {
			t.Errorf("%s signs in with %s, NATS wants %s", user, name, passwords[user])
		}
	}
}

// The table of the page says when things happen to a pod that goes; these are
// the manifests' figures.
func TestPageFigures(t *testing.T) {
	b := bundle(t, "../overlays/keda")
	gateway := deployment(b, "gateway")
	c := container(gateway)
	delay, _ := env(b, c, "FAIRLEAD_DRAIN_DELAY")
	window, _ := env(b, c, "FAIRLEAD_DRAIN_WINDOW")
	text := read(t, page)
	for what, want := range map[string]bool{
		"`preStop`: 5 s":                                      c.Lifecycle.PreStop.Sleep.Seconds == 5,
		"`FAIRLEAD_DRAIN_DELAY`: 5 s":                         delay == "5s",
		"`FAIRLEAD_DRAIN_WINDOW`: 20 s":                       window == "20s",
		"`terminationGracePeriodSeconds`: 45":                 *gateway.Spec.Template.Spec.TerminationGracePeriodSeconds == 45,
		"wants 10,000 for each gateway":                       b.ScaledObjects[0].Spec.Triggers[0].Metadata["threshold"] == "10000",
		b.ScaledObjects[0].Spec.Triggers[0].Metadata["query"]: true,
	} {
		if !want || !strings.Contains(text, what) {
			t.Errorf("page and manifests differ about %s", what)
		}
	}
}
