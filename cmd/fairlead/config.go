package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sethvargo/go-envconfig"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/spelling"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway"
	"github.com/fairlead-io/fairlead/services/presence"
	"github.com/fairlead-io/fairlead/services/ratelimit"
	"github.com/fairlead-io/fairlead/services/replay"
	"github.com/fairlead-io/fairlead/services/tasks"
)

const envPrefix = "FAIRLEAD_"

// config is what the environment says of a process. Only this package reads
// the environment.
type config struct {
	Namespace    wire.Namespace `env:"NAMESPACE, default=fl" help:"first token of every subject, prefix of every bucket and stream"`
	NATS         natsConfig     `env:", prefix=NATS_"`
	AdminAddr    string         `env:"ADMIN_ADDR, default=:9090" help:"every service: /metrics /healthz /readyz /version, and pprof for loopback; off = no listener"`
	TopicsFile   string         `env:"TOPICS_FILE" help:"rules file; put into the bucket that every process follows. Without it: what the bucket holds, else the built-in rules"`
	Demo         bool           `env:"DEMO, default=false" help:"serve the demo page at /demo; on in dev, which also hands out tokens for it"`
	DemoURL      string         `env:"DEMO_URL" help:"fairlead demo: where browsers find its page, such as http://127.0.0.1:8080/demo; it answers to this host name beside addresses and localhost"`
	DemoTerminal string         `env:"DEMO_TERMINAL" help:"fairlead demo: what the page says to run in a terminal before its nats commands; it is shown to everybody"`
	LogLevel     string         `env:"LOG_LEVEL, default=info" help:"debug, info, warn or error"`
	LogFormat    string         `env:"LOG_FORMAT" help:"text or json; text on a terminal, else json"`
	// Postgres is asked for nothing unless tasks, or a rule, need it.
	Postgres  string `env:"POSTGRES_URL" help:"where tasks are kept, and the copy of rules with archive: postgres://user:password@host/database" secret:"true"`
	Gateway   gateway.Config
	Replay    replay.Config
	Presence  presence.Config
	Ratelimit ratelimit.Config
	Tasks     tasks.Config
}

type natsConfig struct {
	URL           string   `env:"URL, default=nats://127.0.0.1:4222" help:"servers, several by comma"`
	Creds         string   `env:"CREDS" help:"credentials file"`
	NKey          string   `env:"NKEY" help:"file with a user nkey seed"`
	TLSCA         string   `env:"TLS_CA" help:"certificate authority of the servers (PEM)"`
	TLSCert       string   `env:"TLS_CERT" help:"client certificate (PEM)"`
	TLSKey        string   `env:"TLS_KEY" help:"its key (PEM)"`
	Replicas      int      `env:"REPLICAS, default=1" help:"replicas of streams and buckets; 3 in a cluster"`
	ReplyPrefixes []string `env:"REPLY_PREFIXES" help:"prefixes beside _INBOX under which replies may be published, by comma"`
	InboxPrefix   string   `env:"INBOX_PREFIX" help:"inboxes of the tools and of fairlead demo, such as _INBOX_worker, where NATS lets them have no others; services use _INBOX"`
}

func (c natsConfig) bus() bus.Config {
	return bus.Config{URL: c.URL, Creds: c.Creds, NKey: c.NKey, TLSCA: c.TLSCA, TLSCert: c.TLSCert, TLSKey: c.TLSKey, ReplyPrefixes: c.ReplyPrefixes}
}

// reserved are variables of services that do not exist yet: no typo, and not
// read by anything.
var reserved = []string{
	"CONSOLE",
}

// clientVariables are read by the tools, not by a service.
var clientVariables = []string{"URL", "TOKEN", "PGBIN"}

// setting is one variable, as the tags of the configuration describe it.
type setting struct {
	Name    string // without the prefix
	Default string
	Help    string
	Secret  bool
	Type    reflect.Type
}

// settings walks the configuration and returns its variables in order.
func settings() []setting { return walk(reflect.TypeFor[config](), "") }

func walk(t reflect.Type, prefix string) (all []setting) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, ok := f.Tag.Lookup("env")
		name, options, _ := strings.Cut(tag, ",")
		name = strings.TrimSpace(name)
		s := setting{Name: prefix + name, Help: f.Tag.Get("help"), Secret: f.Tag.Get("secret") != "", Type: f.Type}
		inner := ""
		for option := range strings.SplitSeq(options, ",") {
			key, value, _ := strings.Cut(strings.TrimSpace(option), "=")
			switch key {
			case "default":
				s.Default = value
			case "prefix":
				inner = value
			}
		}
		if f.Type.Kind() == reflect.Struct && s.Help == "" {
			all = append(all, walk(f.Type, prefix+inner)...)
		} else if ok {
			all = append(all, s)
		}
	}
	return all
}

// environment looks variables up: the process's, a secret's file, then the
// defaults of the command.
type environment struct {
	lookup   func(string) (string, bool)
	defaults map[string]string
	errs     *[]error
}

// Lookup implements envconfig.Lookuper for names without the prefix.
func (e environment) Lookup(name string) (string, bool) {
	if v, ok := e.lookup(envPrefix + name); ok && v != "" {
		return v, true
	}
	if file, ok := e.lookup(envPrefix + name + "_FILE"); ok && file != "" && isSecret(name) {
		content, err := os.ReadFile(file)
		if err != nil {
			*e.errs = append(*e.errs, fmt.Errorf("%s%s_FILE=%s: must be a readable file: %w", envPrefix, name, file, err))
			return "", false
		}
		return strings.TrimRight(string(content), "\r\n"), true
	}
	v, ok := e.defaults[name]
	return v, ok
}

func isSecret(name string) bool {
	for _, s := range settings() {
		if s.Name == name {
			return s.Secret
		}
	}
	return false
}

// loadConfig reads the environment. defaults are the command's own, by name
// without the prefix. Its error has one line per problem: the variable, its
// value, what is allowed.
func loadConfig(ctx context.Context, lookup func(string) (string, bool), defaults map[string]string) (*config, error) {
	var errs []error
	env := environment{lookup: lookup, defaults: defaults, errs: &errs}
	for _, s := range settings() {
		if v, ok := env.Lookup(s.Name); ok {
			if allowed := s.refuses(v); allowed != "" {
				errs = append(errs, fmt.Errorf("%s%s=%s: %s", envPrefix, s.Name, v, allowed))
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var c config
	if err := envconfig.ProcessWith(ctx, &envconfig.Config{Target: &c, Lookuper: env}); err != nil {
		return nil, err
	}
	c.Gateway.Namespace, c.Gateway.Replicas = c.Namespace, c.NATS.Replicas
	c.Replay.Namespace, c.Replay.Replicas, c.Replay.PostgresURL = c.Namespace, c.NATS.Replicas, c.Postgres
	c.Presence.Namespace, c.Presence.Replicas = c.Namespace, c.NATS.Replicas
	c.Ratelimit.Namespace, c.Ratelimit.Replicas = c.Namespace, c.NATS.Replicas
	c.Tasks.Namespace, c.Tasks.Replicas, c.Tasks.PostgresURL = c.Namespace, c.NATS.Replicas, c.Postgres
	if c.NATS.Replicas < 1 || c.NATS.Replicas > 5 {
		errs = append(errs, fmt.Errorf("%sNATS_REPLICAS=%d: from 1 to 5", envPrefix, c.NATS.Replicas))
	}
	if err := wire.CheckNamespace(string(c.Namespace)); err != nil {
		errs = append(errs, fmt.Errorf("%sNAMESPACE=%s: %w", envPrefix, c.Namespace, err))
	}
	return &c, errors.Join(errs...)
}

// refuses returns what is allowed if v can't be a value of the setting, else "".
func (s setting) refuses(v string) string {
	switch s.Type {
	case reflect.TypeFor[time.Duration]():
		if d, err := time.ParseDuration(v); err != nil || d < 0 {
			return "a duration such as 500ms, 25s or 1h"
		}
		return ""
	}
	switch s.Type.Kind() {
	case reflect.Bool:
		if _, err := strconv.ParseBool(v); err != nil {
			return "true or false"
		}
	case reflect.Int, reflect.Int64:
		if _, err := strconv.ParseInt(v, 10, 64); err != nil {
			return "a whole number"
		}
	case reflect.Float64:
		if f, err := strconv.ParseFloat(v, 64); err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return "a number"
		}
	}
	return ""
}

// unknownVariables returns a line for every FAIRLEAD_ variable that nobody
// knows, with the nearest one that exists.
func unknownVariables(environ []string) (lines []string) {
	var known []string
	for _, s := range settings() {
		known = append(known, s.Name)
		if s.Secret {
			known = append(known, s.Name+"_FILE")
		}
	}
	known = append(append(known, reserved...), clientVariables...)
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		name, ok := strings.CutPrefix(name, envPrefix)
		if !ok || slices.Contains(known, name) {
			continue
		}
		nearest, _ := spelling.Nearest(name, known)
		lines = append(lines, fmt.Sprintf("%s%s is no variable of Fairlead; the nearest is %s%s", envPrefix, name, envPrefix, nearest))
	}
	slices.Sort(lines)
	return lines
}
