package bus

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// The variables that the fields of [Config] come from, as errors name them.
const (
	varURL     = "FAIRLEAD_NATS_URL"
	varCreds   = "FAIRLEAD_NATS_CREDS"
	varNKey    = "FAIRLEAD_NATS_NKEY"
	varTLSCA   = "FAIRLEAD_NATS_TLS_CA"
	varTLSCert = "FAIRLEAD_NATS_TLS_CERT"
	varTLSKey  = "FAIRLEAD_NATS_TLS_KEY"
	varReply   = "FAIRLEAD_NATS_REPLY_PREFIXES"
	varInbox   = "FAIRLEAD_NATS_INBOX_PREFIX"
)

// Config says where NATS is and who we are there.
type Config struct {
	// URL of the servers, several separated by commas; nats://127.0.0.1:4222
	// when empty. Not used with InProcess.
	URL string
	// Creds is a credentials file, or its content.
	Creds string
	// NKey is a file with the seed of a user nkey, or the seed itself.
	NKey string
	// TLSCA, TLSCert and TLSKey are PEM files; certificate and key come together.
	TLSCA, TLSCert, TLSKey string
	// Name of the connection in the server's listings.
	Name string
	// InProcess reaches a server in this process instead of URL.
	InProcess nats.InProcessConnProvider
	// ReplyPrefixes are prefixes beside _INBOX under which replies may be
	// published; see [Guard].
	ReplyPrefixes []string
	// InboxPrefix is that of the inboxes of this connection, such as _INBOX_worker;
	// _INBOX when empty.
	InboxPrefix string
}

// ConfigError is one thing that is wrong with a [Config]: the variable, its
// value (without secrets) and what is allowed.
type ConfigError struct {
	Variable, Value, Allowed string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s=%q: %s", e.Variable, e.Value, e.Allowed)
}

// Validate returns nil or an error that joins one *[ConfigError] per problem.
// It reads the files that the configuration names.
func (c Config) Validate() error {
	_, err := c.options()
	return err
}

// options validates the configuration and turns it into options.
func (c Config) options() ([]nats.Option, error) {
	var problems []error
	var opts []nats.Option
	add := func(o nats.Option, err error) {
		if err != nil {
			problems = append(problems, err)
		} else if o != nil {
			opts = append(opts, o)
		}
	}
	if c.InProcess != nil {
		opts = append(opts, nats.InProcessServer(c.InProcess))
	} else {
		problems = append(problems, checkURLs(c.URL)...)
	}
	if c.Creds != "" {
		add(credsOption(c.Creds))
	}
	if c.NKey != "" {
		add(nkeyOption(c.NKey))
	}
	if c.TLSCA != "" {
		add(applies(nats.RootCAs(c.TLSCA), varTLSCA, c.TLSCA, "must be a PEM file with certificates"))
	}
	switch {
	case c.TLSCert != "" && c.TLSKey != "":
		add(applies(nats.ClientCert(c.TLSCert, c.TLSKey), varTLSCert, c.TLSCert, "must be a PEM certificate that fits the key in "+varTLSKey))
	case c.TLSCert != "":
		add(nil, &ConfigError{varTLSKey, "", "must be set together with " + varTLSCert})
	case c.TLSKey != "":
		add(nil, &ConfigError{varTLSCert, "", "must be set together with " + varTLSKey})
	}
	if c.InboxPrefix != "" {
		add(applies(nats.CustomInboxPrefix(c.InboxPrefix), varInbox, c.InboxPrefix, "must be subject tokens without wildcards"))
	}
	for _, p := range c.ReplyPrefixes {
		if !validReplyPrefix(p) {
			add(nil, &ConfigError{varReply, p, "must be subject tokens without wildcards, not beginning with $"})
		}
	}
	return opts, errors.Join(problems...)
}

// applies tries an option whose files are read when it is applied, so that the
// error can name the variable.
func applies(o nats.Option, variable, value, allowed string) (nats.Option, error) {
	var scratch nats.Options
	if err := o(&scratch); err != nil {
		return nil, &ConfigError{variable, value, allowed + reason(err)}
	}
	return o, nil
}

// reason is the file system's word on it, where it has one; other causes could
// quote what is in the file.
func reason(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return " (" + path.Err.Error() + ")"
	}
	return ""
}

func checkURLs(urls string) []error {
	if urls == "" {
		return nil
	}
	const allowed = "must be nats://, tls://, ws:// or wss:// URLs separated by commas"
	var problems []error
	var socket, plain bool
	for one := range strings.SplitSeq(urls, ",") {
		one = strings.TrimSpace(one)
		if !strings.Contains(one, "://") {
			one = "nats://" + one
		}
		u, err := url.Parse(one)
		if err != nil || u.Hostname() == "" {
			problems = append(problems, &ConfigError{varURL, redact(one), allowed})
			continue
		}
		switch u.Scheme {
		case "nats", "tls":
			plain = true
		case "ws", "wss":
			socket = true
		default:
			problems = append(problems, &ConfigError{varURL, redact(one), allowed})
		}
	}
	if socket && plain {
		problems = append(problems, &ConfigError{varURL, redact(urls), "must not mix ws:// and wss:// with other schemes"})
	}
	return problems
}

// redact drops what may be a password: everything between a scheme, or a
// comma, and the last @ before the next comma.
func redact(urls string) string {
	parts := strings.Split(urls, ",")
	for i, p := range parts {
		if at := strings.LastIndexByte(p, '@'); at >= 0 {
			scheme, _, found := strings.Cut(p[:at], "://")
			if !found {
				scheme = ""
			} else {
				scheme += "://"
			}
			parts[i] = scheme + "…@" + p[at+1:]
		}
	}
	return strings.Join(parts, ",")
}

func credsOption(creds string) (nats.Option, error) {
	const allowed = "must be a NATS credentials file or its content"
	content, shown := []byte(creds), "(content)"
	isFile := !strings.Contains(creds, "-----BEGIN")
	if isFile {
		shown = creds
		var err error
		if content, err = os.ReadFile(creds); err != nil {
			return nil, &ConfigError{varCreds, shown, allowed + reason(err)}
		}
	}
	if _, err := nkeys.ParseDecoratedJWT(content); err != nil {
		return nil, &ConfigError{varCreds, shown, allowed}
	}
	if _, err := nkeys.ParseDecoratedNKey(content); err != nil {
		return nil, &ConfigError{varCreds, shown, allowed}
	}
	if isFile {
		return nats.UserCredentials(creds), nil // read again at every connect
	}
	return nats.UserCredentialBytes(content), nil
}

func nkeyOption(nkey string) (nats.Option, error) {
	const allowed = "must be a file with a user nkey seed, or the seed"
	pair, err := nkeys.FromSeed([]byte(strings.TrimSpace(nkey)))
	if err != nil {
		o, err := nats.NkeyOptionFromSeed(nkey)
		if err != nil {
			shown := nkey
			if strings.HasPrefix(nkey, "S") && len(nkey) > 40 {
				shown = "(seed)"
			}
			return nil, &ConfigError{varNKey, shown, allowed + reason(err)}
		}
		return o, nil
	}
	public, err := pair.PublicKey()
	if err != nil || !nkeys.IsValidPublicUserKey(public) {
		return nil, &ConfigError{varNKey, "(seed)", allowed}
	}
	return nats.Nkey(public, pair.Sign), nil
}
