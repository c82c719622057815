package fairleadtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/sethvargo/go-envconfig"

	"github.com/fairlead-io/fairlead/internal/suite"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
	"github.com/fairlead-io/fairlead/services/presence"
	"github.com/fairlead-io/fairlead/services/ratelimit"
	"github.com/fairlead-io/fairlead/services/replay"
	"github.com/fairlead-io/fairlead/services/tasks"
)

// Options says what a stack is made of. The zero value is one gateway with the
// rules of `fairlead dev`.
type Options struct {
	// Gateways is how many there are at first; 0 is 1.
	Gateways int
	// Rules is a rules file, as YAML; "" are the built-in rules of `fairlead dev`.
	Rules string
	// Tasks has the stack run the tasks service too, which needs a Postgres.
	Tasks bool
	// PostgresURL is the database of the tasks service, postgres://user@host:port/name.
	// "" is a server of the test's own, of the PostgreSQL that is installed; it takes
	// about a second to start.
	PostgresURL string
	// Settings are variables as docs/configuration.md has them, by their whole
	// name, such as FAIRLEAD_HEARTBEAT: "200ms". Those of the process's own (NATS,
	// listeners, logs) are not among them. Unlike a production gateway, one in a
	// test lets anonymous users in, has its HTTP API on, has no limit of frames a
	// second, a FAIRLEAD_GATEWAY_LEASE of 2s and a FAIRLEAD_DRAIN_WINDOW of 500ms; the
	// tasks service has a FAIRLEAD_TASKS_CANCEL_GRACE of 1s and a FAIRLEAD_TASKS_POOL of 6.
	Settings map[string]string
	// LogLevel is the least level of what is printed when the test fails; nothing
	// is printed when it passes. Default: slog.LevelInfo.
	LogLevel slog.Level
}

const (
	prefix    = "FAIRLEAD_"
	namespace = wire.Namespace("fl")
)

// secret signs the tokens of tests. It is no secret.
const secret = "the secret of fairleadtest, which is known to everybody"

// settings are the configuration of the services of a stack.
type settings struct {
	Gateway   gateway.Config
	Replay    replay.Config
	Presence  presence.Config
	Ratelimit ratelimit.Config
	Tasks     tasks.Config
}

// testDefaults are the settings that differ from production's.
var testDefaults = map[string]string{
	"AUTH":                    auth.ModeDev,
	"AUTH_JWT_SECRET":         secret,
	"ALLOW_ANONYMOUS":         "true",
	"HTTP_API":                "true",
	"LIMIT_FRAMES_PER_SECOND": "0",
	"GATEWAY_LEASE":           "2s",
	"DRAIN_WINDOW":            "500ms",
	"TASKS_CANCEL_GRACE":      "1s",
	"TASKS_POOL":              "6",
}

// fixed are settings that a test can't choose.
var fixed = []string{"HTTP_ADDR", "TLS_CERT", "TLS_KEY"}

// asked remembers which variables were looked up, which are those that exist.
type asked struct {
	of    envconfig.Lookuper
	names map[string]bool
}

func (a asked) Lookup(name string) (string, bool) {
	a.names[name] = true
	return a.of.Lookup(name)
}

// read returns the settings of the services. Its error names every variable
// that is wrong.
func (o Options) read() (*settings, error) {
	var errs []error
	if o.Gateways < 0 {
		errs = append(errs, fmt.Errorf("Options.Gateways is %d", o.Gateways))
	}
	values := map[string]string{}
	for name, value := range testDefaults {
		values[name] = value
	}
	for name, value := range o.Settings {
		short, ok := strings.CutPrefix(name, prefix)
		if !ok || slices.Contains(fixed, short) {
			errs = append(errs, fmt.Errorf("Options.Settings: %s is not a setting of a test's services", name))
			continue
		}
		values[short] = value
	}
	var s settings
	known := asked{envconfig.MapLookuper(values), map[string]bool{}}
	if err := envconfig.ProcessWith(context.Background(), &envconfig.Config{Target: &s, Lookuper: known}); err != nil {
		errs = append(errs, fmt.Errorf("Options.Settings: %w", err))
	} else {
		for name := range values {
			if !known.names[name] {
				errs = append(errs, fmt.Errorf("Options.Settings: %s%s is not a setting of a test's services", prefix, name))
			}
		}
	}
	s.Gateway.Namespace, s.Gateway.Replicas, s.Gateway.Development = namespace, 1, true
	s.Replay.Namespace, s.Replay.Replicas = namespace, 1
	s.Presence.Namespace, s.Presence.Replicas = namespace, 1
	s.Ratelimit.Namespace, s.Ratelimit.Replicas = namespace, 1
	s.Tasks.Namespace, s.Tasks.Replicas = namespace, 1
	return &s, errors.Join(errs...)
}

// withReady has the process close ready once every service is.
func withReady(cfg suite.Config, ready chan struct{}) suite.Config {
	cfg.Ready = func(*slog.Logger) { close(ready) }
	return cfg
}

// notReady says which service is not, and why.
func notReady(p *suite.Process) error {
	states, _ := p.Checks().Run(context.Background())
	errs := []error{fmt.Errorf("not ready after %v", Patience)}
	for _, state := range states {
		if !state.Ready {
			errs = append(errs, fmt.Errorf("%s: %s", state.Name, state.Reason))
		}
	}
	return errors.Join(errs...)
}
