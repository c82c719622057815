package main

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write docs/configuration.md from the code")

const configurationPage = "../../docs/configuration.md"

// TestConfigurationPage keeps docs/configuration.md what the code says.
func TestConfigurationPage(t *testing.T) {
	want := configurationDoc()
	if *update {
		if err := os.WriteFile(configurationPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(configurationPage)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("docs/configuration.md differs from the code: go test ./cmd/fairlead -run TestConfigurationPage -update")
	}
	for _, s := range settings() {
		if s.Help == "" {
			t.Errorf("%s%s has no help", envPrefix, s.Name)
		}
	}
}

func configurationDoc() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Generated from the code: go test ./cmd/fairlead -run TestConfigurationPage -update -->

A process is configured by environment variables, what topics may do by one
[rules file](rules.md) that every process follows. There is nothing else.

- ` + "`fairlead dev`" + ` reads the same variables with defaults of its own (last
  column); its flags win, and ` + "`FAIRLEAD_NATS_URL`" + ` is ignored, since it brings its own server.
- A variable that can't be used ends the process with exit code 2 and one line
  that names it, its value and what is allowed. A ` + "`FAIRLEAD_`" + ` variable that
  nobody knows is a warning that names the nearest known one.
- An empty variable counts as unset. Durations are written like ` + "`500ms`, `25s`, `1h`" + `.

| variable | default | meaning | in dev |
|---|---|---|---|
`)
	for _, s := range settings() {
		name := envPrefix + s.Name
		if s.Secret {
			name += "`, `" + name + "_FILE"
		}
		def := ""
		if s.Default != "" {
			def = "`" + s.Default + "`"
		}
		dev := ""
		if v, ok := devDefaults[s.Name]; ok {
			dev = "`" + v + "`"
		}
		switch s.Name {
		case "AUTH_JWT_SECRET":
			dev = "made once, kept in the data directory"
		case "ORIGINS":
			dev = "this machine's"
		case "ADMIN_ADDR":
			dev = "`127.0.0.1:9090`"
		case "NATS_URL":
			dev = "ignored"
		case "POSTGRES_URL":
			dev = "a PostgreSQL that is installed, in the data directory"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s%s | %s |\n", name, def, s.Help, unit(s.Type), dev)
	}
	fmt.Fprintf(&b, `
`+"`FAIRLEAD_URL` and `FAIRLEAD_TOKEN`"+` are read by the client tools (`+"`fairlead pub`, `sub`, `call`"+`),
`+"`FAIRLEAD_PGBIN`"+` by `+"`fairlead dev`"+`: the directory of initdb and postgres, where they are in none of the usual places,
the standard `+"`OTEL_*`"+` variables by telemetry: nothing is exported unless they ask for it.
Known and not used yet, for services to come: %s.

## Exit codes

| code | meaning |
|---|---|
| 0 | success; a clean stop after SIGTERM or SIGINT |
| 1 | failure |
| 2 | wrong usage, or configuration that can't be used |

A second signal ends the process at once.
`, "`"+envPrefix+strings.Join(reserved, "`, `"+envPrefix)+"`")
	return b.String()
}

func unit(t reflect.Type) string {
	if t == reflect.TypeFor[time.Duration]() {
		return " (duration)"
	}
	return ""
}

func TestLoadConfig(t *testing.T) {
	load := func(env map[string]string, defaults map[string]string) (*config, error) {
		return loadConfig(t.Context(), func(name string) (string, bool) { v, ok := env[name]; return v, ok }, defaults)
	}
	c, err := load(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Namespace != "fl" || c.Gateway.Heartbeat != 25*time.Second || c.Gateway.Limits.PayloadBytes != 1_000_000 || c.Gateway.Auth.Mode != "jwt" || c.Gateway.Addr != ":8080" {
		t.Errorf("defaults: %+v", c)
	}
	if c, err = load(map[string]string{"FAIRLEAD_HEARTBEAT": "3s"}, devDefaults); err != nil || c.Gateway.Auth.Mode != "dev" || c.Gateway.Heartbeat != 3*time.Second || !c.Gateway.HTTPAPI {
		t.Errorf("dev: %+v, %v", c, err)
	}
	secret := t.TempDir() + "/secret"
	if err := os.WriteFile(secret, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err = load(map[string]string{"FAIRLEAD_AUTH_JWT_SECRET_FILE": secret}, nil); err != nil || c.Gateway.Auth.JWTSecret != "from a file" {
		t.Errorf("secret file: %q, %v", c.Gateway.Auth.JWTSecret, err)
	}
	for variable, bad := range map[string]string{
		"FAIRLEAD_HEARTBEAT": "soon", "FAIRLEAD_LIMIT_PAYLOAD_BYTES": "1MB", "FAIRLEAD_HTTP_API": "maybe",
		"FAIRLEAD_NATS_REPLICAS": "9", "FAIRLEAD_NAMESPACE": "Fl.x", "FAIRLEAD_AUTH_JWT_SECRET_FILE": "/does/not/exist",
	} {
		_, err := load(map[string]string{variable: bad}, nil)
		if err == nil || !strings.Contains(err.Error(), variable) || !strings.Contains(err.Error(), bad) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s=%s: got %v, want one line with both", variable, bad, err)
		}
	}
}

func TestUnknownVariables(t *testing.T) {
	got := unknownVariables([]string{"FAIRLEAD_HEARTBEET=1s", "FAIRLEAD_HEARTBEAT=1s", "FAIRLEAD_POSTGRES_URL=x", "FAIRLEAD_AUTH_JWT_SECRET_FILE=x", "PATH=/bin"})
	want := []string{"FAIRLEAD_HEARTBEET is no variable of Fairlead; the nearest is FAIRLEAD_HEARTBEAT"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
