package deploy

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// service is what these tests read of a service in compose.yaml.
type service struct {
	Image       string         `yaml:"image"`
	Command     []string       `yaml:"command"`
	Environment map[string]any `yaml:"environment"`
	Ports       []string       `yaml:"ports"`
	Scale       any            `yaml:"scale"`
	Profiles    []string       `yaml:"profiles"`
	Build       any            `yaml:"build"`
	Restart     string         `yaml:"restart"`
	ReadOnly    bool           `yaml:"read_only"`
	MemLimit    string         `yaml:"mem_limit"`
	GracePeriod string         `yaml:"stop_grace_period"`
	Healthcheck struct {
		Test          []string `yaml:"test"`
		StartInterval string   `yaml:"start_interval"`
	} `yaml:"healthcheck"`
	CapDrop []string       `yaml:"cap_drop"`
	Logging map[string]any `yaml:"logging"`
	Ulimits any            `yaml:"ulimits"`
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func services(t *testing.T) map[string]service {
	t.Helper()
	var file struct {
		Services map[string]service `yaml:"services"`
	}
	if err := yaml.NewDecoder(strings.NewReader(read(t, "../compose.yaml")), yaml.AllowDuplicateMapKey()).Decode(&file); err != nil {
		t.Fatal(err)
	}
	if len(file.Services) < 9 {
		t.Fatalf("compose.yaml: %d services", len(file.Services))
	}
	return file.Services
}

// variables of a file with NAME=value lines.
func variables(t *testing.T, path string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(read(t, path)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			all[name] = value
		}
	}
	return all
}

// expanded replaces ${NAME}, ${NAME:-default} and the like as compose does where
// only .env says anything, and $$ by $.
func expanded(text string, env map[string]string) string {
	var out bytes.Buffer
	for {
		at := strings.Index(text, "$")
		if at < 0 || at+1 == len(text) {
			return out.String() + text
		}
		out.WriteString(text[:at])
		switch text = text[at+1:]; text[0] {
		case '$':
			out.WriteByte('$')
			text = text[1:]
		case '{':
			end, depth := 1, 1
			for ; depth > 0; end++ {
				switch text[end] {
				case '{':
					depth++
				case '}':
					depth--
				}
			}
			inner := text[1 : end-1]
			text = text[end:]
			name := identifier.FindString(inner)
			value, rest := env[name], inner[len(name):]
			switch {
			case strings.HasPrefix(rest, ":-") && value == "":
				value = expanded(rest[2:], env)
			case strings.HasPrefix(rest, ":+") && value != "":
				value = expanded(rest[2:], env)
			}
			out.WriteString(value)
		default:
			out.WriteByte('$')
		}
	}
}

var identifier = regexp.MustCompile(`^\w+`)

// used are the variables that a text takes from the environment of compose.
func used(text string) (names []string) {
	for _, m := range regexp.MustCompile(`\$\{(\w+)`).FindAllStringSubmatch(strings.ReplaceAll(text, "$$", ""), -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func TestExpanded(t *testing.T) {
	env := map[string]string{"A": "1", "E": ""}
	for text, want := range map[string]string{
		"x${A}y": "x1y", "${B:-2}": "2", "${E:-${A}}": "1", "${A:+,${A}}": ",1", "${B:+x}": "", "$$A": "$A", "${A:?is needed}": "1", "${A:-3}-": "1-",
	} {
		if got := expanded(text, env); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// The tables of docs/deploy.md have each port that is published, and no other.
func TestPortsOfThePage(t *testing.T) {
	want := map[string]bool{}
	env := variables(t, "../.env")
	for name, s := range services(t) {
		for _, port := range s.Ports {
			published := expanded(port, env)
			if !strings.HasPrefix(published, "127.0.0.1:") {
				t.Errorf("%s: %s is published on more than 127.0.0.1", name, port)
			}
			parts := strings.Split(published, ":")
			variable := slices.DeleteFunc(used(port), func(name string) bool { return strings.HasSuffix(name, "_BIND") })
			want[fmt.Sprintf("%s %s %s %s", name, parts[2], parts[1], strings.Join(variable, " "))] = true
		}
	}
	got := map[string]bool{}
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| (\\d+) \\| (\\d+), `(FAIRLEAD_\\w+)` \\|")
	for _, m := range row.FindAllStringSubmatch(read(t, "../docs/deploy.md"), -1) {
		got[strings.Join(m[1:], " ")] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("docs/deploy.md has\n%v\ncompose.yaml publishes\n%v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// What opens the stack to clients does not open NATS, and the settings that the
// page shows for others to reach it have no demo page.
func TestOpening(t *testing.T) {
	all := services(t)
	for name, want := range map[string]string{"lb": "FAIRLEAD_BIND", "nats": "FAIRLEAD_NATS_BIND", "nats-2": "FAIRLEAD_NATS_BIND", "nats-3": "FAIRLEAD_NATS_BIND"} {
		for _, port := range all[name].Ports {
			if !strings.HasPrefix(port, "${"+want+":-127.0.0.1}:") {
				t.Errorf("%s is published by %s, want %s", name, port, want)
			}
		}
	}
	settings := regexp.MustCompile("(?m)^```sh\n(COMPOSE_PROJECT_NAME=(?:.*\n)+?)```$").FindStringSubmatch(read(t, "../docs/deploy.md"))
	if settings == nil {
		t.Fatal("docs/deploy.md has no settings")
	}
	known := used(read(t, "../compose.yaml"))
	env := variables(t, "../.env")
	for line := range strings.Lines(settings[1]) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if env[name] = value; !slices.Contains(known, name) && !strings.HasPrefix(name, "COMPOSE_") {
			t.Errorf("docs/deploy.md sets %s, which compose.yaml does not use", name)
		}
	}
	if got := expanded(fmt.Sprint(all["demo"].Scale), env); got != "0" {
		t.Errorf("%s demo pages, want none", got)
	}
}

// Every variable that a process of ours gets is one that it knows.
func TestVariablesExist(t *testing.T) {
	page := read(t, "../docs/configuration.md")
	for name, s := range services(t) {
		for variable := range s.Environment {
			if strings.HasPrefix(variable, "FAIRLEAD_") && !strings.Contains(page, "`"+variable+"`") {
				t.Errorf("%s: %s is not in docs/configuration.md", name, variable)
			}
		}
	}
}

// What compose.yaml takes from .env is there, and nothing that nobody takes.
func TestEnvironmentFile(t *testing.T) {
	text, env := read(t, "../compose.yaml"), variables(t, "../.env")
	// Those with a default that few change need not stand there, nor those of the cluster.
	optional := regexp.MustCompile(`\$\{(\w+):[-+]`)
	may := map[string]bool{}
	for _, m := range optional.FindAllStringSubmatch(text, -1) {
		may[m[1]] = true
	}
	names := used(text)
	for _, name := range names {
		if _, ok := env[name]; !ok && !may[name] {
			t.Errorf(".env lacks %s", name)
		}
	}
	for name := range env {
		if !slices.Contains(names, name) {
			t.Errorf(".env has %s, which compose.yaml does not use", name)
		}
	}
	if secret := env["FAIRLEAD_AUTH_JWT_SECRET"]; len(secret) < 32 {
		t.Errorf("FAIRLEAD_AUTH_JWT_SECRET has %d bytes, and at least 32 are needed", len(secret))
	}
	for name := range variables(t, "cluster.env") {
		if !slices.Contains(names, name) && name != "COMPOSE_PROFILES" {
			t.Errorf("cluster.env has %s, which compose.yaml does not use", name)
		}
	}
}

// The passwords that NATS reads are given to it, and each user of accounts.conf
// has the password of its name.
func TestNATSUsers(t *testing.T) {
	nats := services(t)["nats"]
	conf := read(t, "nats/nats.conf") + read(t, "nats/accounts.conf") + read(t, "nats/cluster.conf")
	for _, m := range regexp.MustCompile(`\$(NATS_\w+)`).FindAllStringSubmatch(conf, -1) {
		if _, ok := nats.Environment[m[1]]; !ok {
			t.Errorf("deploy/nats reads %s, which compose.yaml does not give it", m[1])
		}
	}
	users := regexp.MustCompile(`user: (\w+), password: \$NATS_(\w+)_PASSWORD`).FindAllStringSubmatch(conf, -1)
	if len(users) < 9 {
		t.Fatalf("%d users", len(users))
	}
	page := read(t, "../docs/deploy.md")
	for _, m := range users {
		if strings.ToUpper(m[1]) != m[2] {
			t.Errorf("user %s has the password of %s", m[1], m[2])
		}
		if !strings.Contains(page, "| `"+m[1]+"` |") {
			t.Errorf("docs/deploy.md does not say who the user %s is", m[1])
		}
	}
}

// Every service is bounded, hardened and looked after.
func TestServices(t *testing.T) {
	builds := 0
	for name, s := range services(t) {
		asked := len(s.Healthcheck.Test) > 0 || name == "otel-collector" // whose image has nothing that could ask
		if s.Restart != "unless-stopped" || s.MemLimit == "" || s.Logging == nil || !asked {
			t.Errorf("%s: restart %q, mem_limit %q, logging %v, healthcheck %v", name, s.Restart, s.MemLimit, s.Logging, s.Healthcheck.Test)
		}
		if s.Healthcheck.StartInterval != "" || s.Ulimits != nil {
			t.Errorf("%s: start_interval needs an engine of 25, ulimits a host that allows them", name)
		}
		if s.Build != nil {
			builds++
		}
		if !strings.HasPrefix(s.Image, "fairlead:") {
			continue
		}
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.GracePeriod == "" {
			t.Errorf("%s: read_only %v, cap_drop %v, stop_grace_period %q", name, s.ReadOnly, s.CapDrop, s.GracePeriod)
		}
		if want := fmt.Sprint([]string{"run", name}); name != "demo" && fmt.Sprint(s.Command) != want {
			t.Errorf("%s: command %v, want %s", name, s.Command, want)
		}
		var limit, within int
		fmt.Sscanf(s.MemLimit, "%dm", &limit)
		fmt.Sscanf(fmt.Sprint(s.Environment["GOMEMLIMIT"]), "%dMiB", &within)
		if within < limit*88/100 || within > limit*91/100 {
			t.Errorf("%s: GOMEMLIMIT %d MiB is not nine tenths of %d", name, within, limit)
		}
	}
	if builds != 1 {
		t.Errorf("%d services build the image, want one", builds)
	}
}
