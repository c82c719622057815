package gateway

import (
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Config is how a gateway is set up. The tags name the environment variables,
// without their prefix FAIRLEAD_, and say what docs/configuration.md says.
type Config struct {
	// Addr is where the public listener is: /ws, /healthz and /readyz.
	Addr string `env:"HTTP_ADDR, default=:8080" help:"public listener: /ws, /healthz, /readyz, and /demo in dev"`

	// Origins holds the allowed patterns of the Origin header.
	Origins        []string `env:"ORIGINS" help:"allowed Origin patterns such as https://*.example.com, by comma; unset: the same origin; a list replaces that"`
	TrustedProxies []string `env:"TRUSTED_PROXIES" help:"CIDRs whose X-Forwarded-For is believed, from the right"`
	TLSCert        string   `env:"TLS_CERT" help:"certificate of the public listener (PEM); reloaded when the file changes"`
	TLSKey         string   `env:"TLS_KEY" help:"its key (PEM)"`
	HTTPAPI        bool     `env:"HTTP_API, default=false" help:"serve POST /v1/topics/{topic} and /v1/users/{user}; on in dev"`

	Auth           AuthConfig
	AllowAnonymous bool `env:"ALLOW_ANONYMOUS, default=false" help:"permit FAIRLEAD_AUTH=anonymous; on in dev"`

	Heartbeat    time.Duration `env:"HEARTBEAT, default=25s" help:"silence after which a ping is sent; two silent heartbeats close with 4408"`
	HelloTimeout time.Duration `env:"HELLO_TIMEOUT, default=5s" help:"time for the first hello; then 4408"`
	DrainWindow  time.Duration `env:"DRAIN_WINDOW, default=20s" help:"SIGTERM: clients are asked to leave over this time, the rest is closed with 1001"`
	GatewayLease time.Duration `env:"GATEWAY_LEASE, default=10s" help:"how long the users of a gateway that says nothing any more stay present; whole seconds"`
	DrainDelay   time.Duration `env:"DRAIN_DELAY, default=0s" help:"SIGTERM: time between failing /readyz and the first drain frame, for load balancers to notice"`

	Limits    Limits    `env:", prefix=LIMIT_"`
	Admission Admission `env:", prefix=ADMISSION_"`
	Pressure  Pressure  `env:", prefix=PRESSURE_"`

	// PressureEvery is how often the load is sampled (1s when 0). RatesEvery is
	// how often a gateway shares what is published on it (5s when 0), RatesLife
	// how long that counts for the others (12s when 0).
	PressureEvery, RatesEvery, RatesLife time.Duration

	// Namespace is the first token of every subject. It is shared by all
	// services of a process, so cmd sets it.
	Namespace wire.Namespace
	// Replicas is that of streams whose rule names none, should the gateway
	// have to make one.
	Replicas int
	// Development is true in `fairlead dev` only; Hosts are the names beside
	// localhost to which it answers.
	Development bool
	Hosts       []string
}

// AuthConfig says how clients are authenticated; package auth validates it.
type AuthConfig struct {
	Mode          string        `env:"AUTH, default=jwt" help:"jwt, anonymous, or dev (a JWT where one is given, else anonymous; only fairlead dev)"`
	Cookie        string        `env:"AUTH_COOKIE" help:"cookie that holds the JWT; a request that uses it needs an allowed Origin"`
	JWTSecret     string        `env:"AUTH_JWT_SECRET" help:"HS256/384/512 secret of at least 32 bytes" secret:"true"`
	JWKSURL       string        `env:"AUTH_JWT_JWKS_URL" help:"where the issuer publishes its keys; needs issuer and audience"`
	PublicKeyFile string        `env:"AUTH_JWT_PUBLIC_KEY_FILE" help:"PEM file with RS256, ES256 or EdDSA public keys"`
	Issuer        string        `env:"AUTH_JWT_ISSUER" help:"required iss of every token"`
	Audience      string        `env:"AUTH_JWT_AUDIENCE" help:"required aud of every token"`
	MaxAge        time.Duration `env:"AUTH_JWT_MAX_AGE, default=24h" help:"longest life of a token"`
}

// Limits bounds what one peer may cost. Zero switches a limit off where its
// text says so.
type Limits struct {
	PayloadBytes          int64         `env:"PAYLOAD_BYTES, default=1000000" help:"largest inbound frame, checked before parsing; 16 times as much always closes with 1009"`
	PayloadAction         PayloadAction `env:"PAYLOAD_ACTION, default=error" help:"error, close (1009) or event (said on fl.event only)"`
	OutboundBytes         int           `env:"OUTBOUND_BYTES, default=1048576" help:"bytes queued for one connection; above it: close 1013"`
	Connections           int           `env:"CONNECTIONS, default=0" help:"connections of this gateway, 0 = off; above it: 503"`
	ConnectionsPerUser    int           `env:"CONNECTIONS_PER_USER, default=0" help:"connections of one user on this gateway, 0 = off; above it: close 4429"`
	ConnectionsPerAddress int           `env:"CONNECTIONS_PER_ADDRESS, default=0" help:"connections of one address (IPv6: one /64) on this gateway, 0 = off; above it: 429"`
	TopicsPerConnection   int           `env:"TOPICS_PER_CONNECTION, default=1000" help:"subscriptions of one connection; above it: RESOURCE_EXHAUSTED"`
	PendingPerConnection  int           `env:"PENDING_PER_CONNECTION, default=1000" help:"calls of one connection without an answer, and requests to it; above it: RESOURCE_EXHAUSTED"`
	FramesPerSecond       int           `env:"FRAMES_PER_SECOND, default=2000" help:"inbound frames of one connection, 0 = off (dev); above it: RESOURCE_EXHAUSTED"`
	PublishTopics         int           `env:"PUBLISH_TOPICS_PER_CONNECTION, default=1000" help:"different topics that one connection may publish to; above it: RESOURCE_EXHAUSTED"`
}

// Admission bounds the handshakes. Zero switches a bound off.
type Admission struct {
	Upgrades          int `env:"UPGRADES, default=0" help:"requests upgraded at the same time, their authentication included, 0 = off; above it: 503"`
	UpgradesPerSecond int `env:"UPGRADES_PER_SECOND, default=0" help:"requests upgraded in a second, 0 = off; above it they wait in line for up to a second; then 503"`
}

// Pressure says from which load on a gateway sheds messages, as the classes of
// the rules have it. Zero switches a threshold off.
type Pressure struct {
	Memory      float64 `env:"MEMORY, default=0.85" help:"share of GOMEMLIMIT, or of the container's limit, in use: MEMORY, 0 = off"`
	PublishRate int     `env:"PUBLISH_RATE, default=10000" help:"messages that the gateway's clients publish in a second: PUBLISH_RATE, 0 = off"`
	Subscribers int     `env:"SUBSCRIBERS, default=50" help:"subscriptions for each connection, counted where there are at least 100 connections: SUBSCRIBERS, 0 = off"`
}

// PayloadAction says what answers a frame over the limit. Each is also said on
// fl.event.limit.exceeded.
type PayloadAction string

// The payload actions.
const (
	PayloadError PayloadAction = "error" // an error frame; the connection stays
	PayloadClose PayloadAction = "close" // close 1009
	PayloadEvent PayloadAction = "event" // nothing to the client
)

// problem is a setting that can't be used: the variable, its value and what is allowed.
func problem(variable string, value any, allowed string) error {
	return fmt.Errorf("FAIRLEAD_%s=%v: %s", variable, value, allowed)
}

func (c *Config) validate() error {
	var errs []error
	bad := func(ok bool, variable string, value any, allowed string) {
		if !ok {
			errs = append(errs, problem(variable, value, allowed))
		}
	}
	if err := wire.CheckNamespace(string(c.Namespace)); err != nil {
		errs = append(errs, problem("NAMESPACE", string(c.Namespace), err.Error()))
	}
	bad(c.Heartbeat >= 100*time.Millisecond && c.Heartbeat <= time.Hour, "HEARTBEAT", c.Heartbeat, "from 100ms to 1h")
	bad(c.HelloTimeout >= 10*time.Millisecond && c.HelloTimeout <= time.Hour, "HELLO_TIMEOUT", c.HelloTimeout, "from 10ms to 1h")
	bad(c.DrainWindow >= 0 && c.DrainWindow <= time.Hour, "DRAIN_WINDOW", c.DrainWindow, "from 0s to 1h")
	bad(c.GatewayLease >= time.Second && c.GatewayLease <= time.Hour, "GATEWAY_LEASE", c.GatewayLease, "from 1s to 1h")
	bad(c.DrainDelay >= 0 && c.DrainDelay <= time.Hour, "DRAIN_DELAY", c.DrainDelay, "from 0s to 1h")
	bad((c.TLSCert == "") == (c.TLSKey == ""), "TLS_CERT", c.TLSCert, "FAIRLEAD_TLS_CERT and FAIRLEAD_TLS_KEY go together")
	l := &c.Limits
	bad(l.PayloadBytes >= 256 && l.PayloadBytes <= 64<<20, "LIMIT_PAYLOAD_BYTES", l.PayloadBytes, "from 256 to 67108864")
	switch l.PayloadAction {
	case PayloadError, PayloadClose, PayloadEvent:
	default:
		bad(false, "LIMIT_PAYLOAD_ACTION", l.PayloadAction, "error, close or event")
	}
	bad(l.OutboundBytes >= 4096, "LIMIT_OUTBOUND_BYTES", l.OutboundBytes, "at least 4096")
	for _, n := range []struct {
		variable    string
		value, from int
	}{
		{"CONNECTIONS", l.Connections, 0}, {"CONNECTIONS_PER_USER", l.ConnectionsPerUser, 0},
		{"CONNECTIONS_PER_ADDRESS", l.ConnectionsPerAddress, 0}, {"TOPICS_PER_CONNECTION", l.TopicsPerConnection, 1},
		{"PENDING_PER_CONNECTION", l.PendingPerConnection, 1}, {"FRAMES_PER_SECOND", l.FramesPerSecond, 0},
		{"PUBLISH_TOPICS_PER_CONNECTION", l.PublishTopics, 1},
	} {
		bad(n.value >= n.from, "LIMIT_"+n.variable, n.value, fmt.Sprintf("at least %d", n.from))
	}
	a, p := &c.Admission, &c.Pressure
	bad(a.Upgrades >= 0, "ADMISSION_UPGRADES", a.Upgrades, "at least 0")
	bad(a.UpgradesPerSecond >= 0 && a.UpgradesPerSecond <= 1_000_000, "ADMISSION_UPGRADES_PER_SECOND", a.UpgradesPerSecond, "from 0 to 1000000")
	bad(p.Memory >= 0 && p.Memory <= 1, "PRESSURE_MEMORY", p.Memory, "from 0 to 1")
	bad(p.PublishRate >= 0, "PRESSURE_PUBLISH_RATE", p.PublishRate, "at least 0")
	bad(p.Subscribers >= 0, "PRESSURE_SUBSCRIBERS", p.Subscribers, "at least 0")
	return errors.Join(errs...)
}
