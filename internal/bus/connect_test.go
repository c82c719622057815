package bus

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestNATSMayComeLater(t *testing.T) {
	server := natsdev.Test(t)
	server.Shutdown()
	here := make(chan struct{}, 8)
	nc := connect(t, server, Hooks{OnReconnect: func() { here <- struct{}{} }})
	if nc.IsConnected() {
		t.Fatal("connected to a server that is down")
	}
	s := serve(t, nc, ServeConfig{}, Handle("echo", "fl.svc.test.echo", echoing))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Ready(ctx); err == nil {
		t.Error("ready without NATS")
	}
	if _, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.echo", echo{}); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("call without NATS: %v, want UNAVAILABLE", err)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	await(t, "OnReconnect", here)
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("ready with NATS: %v", err)
	}
	if _, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.echo", echo{}); err != nil {
		t.Errorf("call with NATS: %v", err)
	}
}

func TestEndpointAnswersAfterNATSRestarts(t *testing.T) {
	for _, transport := range []string{"tcp", "in process"} {
		t.Run(transport, func(t *testing.T) {
			server := natsdev.Test(t)
			lost, here := make(chan struct{}, 8), make(chan struct{}, 8)
			cfg := Config{URL: server.ClientURL()}
			if transport == "in process" {
				cfg = Config{InProcess: server.InProcess()}
			}
			nc, err := Connect(t.Context(), cfg, Hooks{
				OnDisconnect: func(error) { lost <- struct{}{} },
				OnReconnect:  func() { here <- struct{}{} },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			serve(t, nc, ServeConfig{}, Handle("echo", "fl.svc.test.echo", echoing))
			server.Shutdown()
			await(t, "OnDisconnect", lost)
			started := time.Now()
			if _, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.echo", echo{}); !errors.Is(err, wire.ErrUnavailable) {
				t.Errorf("call during the outage: %v, want UNAVAILABLE", err)
			}
			if took := time.Since(started); took > CallTimeout/2 {
				t.Errorf("the refusal took %s, want at once", took)
			}
			if err := server.Restart(); err != nil {
				t.Fatal(err)
			}
			await(t, "OnReconnect", here)
			if _, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.echo", echo{}); err != nil {
				t.Errorf("call after the outage: %v", err)
			}
		})
	}
}

// stopping is a way to a server whose first connection can be made to take nothing.
type stopping struct {
	nats.InProcessConnProvider
	stopped atomic.Bool
	made    atomic.Int64
}

func (p *stopping) InProcessConn() (net.Conn, error) {
	nc, err := p.InProcessConnProvider.InProcessConn()
	if err != nil || p.made.Add(1) > 1 {
		return nc, err
	}
	full, _ := net.Pipe() // whose other end nobody reads
	return &stoppable{Conn: nc, p: p, full: full}, nil
}

type stoppable struct {
	net.Conn
	p    *stopping
	full net.Conn
}

func (c *stoppable) Write(b []byte) (int, error) {
	if c.p.stopped.Load() {
		return c.full.Write(b)
	}
	return c.Conn.Write(b)
}

func (c *stoppable) SetWriteDeadline(at time.Time) error {
	return errors.Join(c.full.SetWriteDeadline(at), c.Conn.SetWriteDeadline(at))
}

func (c *stoppable) Close() error { return errors.Join(c.full.Close(), c.Conn.Close()) }

// A socket that takes nothing holds up everybody who publishes, and the pings that
// would tell: it is given up soon, and made anew with its subscriptions.
func TestStuckSocketIsGivenUp(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	p := &stopping{InProcessConnProvider: server.InProcess()}
	here := make(chan struct{}, 8)
	nc, err := Connect(t.Context(), Config{InProcess: p}, Hooks{OnReconnect: func() { here <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	p.stopped.Store(true)
	sub, err := nc.SubscribeSync("x") // waits to be written
	if err == nil {
		err = nc.Publish("y", nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-here:
	case <-time.After(writeTimeout + patience):
		t.Fatal("the connection is not made anew")
	}
	if err := nc.Publish("x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.NextMsg(patience); err != nil {
		t.Errorf("the subscription of before: %v", err)
	}
}

func TestPeerAwayIsUnavailable(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	started := time.Now()
	_, err := Call[echo, echo](t.Context(), nc, "fl.svc.test.nobody", echo{})
	if !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("got %v, want UNAVAILABLE", err)
	}
	if took := time.Since(started); took > CallTimeout/2 {
		t.Errorf("took %s, want at once", took)
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	sub, err := nc.SubscribeSync("fl.svc.test.silent")
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Call[echo, echo](ctx, nc, "fl.svc.test.silent", echo{}); !errors.Is(err, wire.ErrDeadlineExceeded) {
		t.Errorf("got %v, want DEADLINE_EXCEEDED", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := Call[echo, echo](ctx, nc, "fl.svc.test.silent", echo{}); !errors.Is(err, wire.ErrCancelled) {
		t.Errorf("got %v, want CANCELLED", err)
	}
}

func TestSlowConsumerIsReported(t *testing.T) {
	slow := make(chan string, 8)
	nc := connect(t, natsdev.Test(t), Hooks{OnSlowConsumer: func(s *nats.Subscription) { slow <- s.Subject }})
	gate := make(chan struct{})
	defer close(gate)
	sub, err := nc.Subscribe("x", func(*nats.Msg) { <-gate })
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(1, 1024); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := nc.Publish("x", nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := await(t, "OnSlowConsumer", slow); got != "x" {
		t.Errorf("slow consumer on %q, want x", got)
	}
}

func TestInvalidConfigNamesTheVariable(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none")
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	accountSeed, err := account.Seed()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		cfg  Config
		want []string
	}{
		{"scheme", Config{URL: "nats://ok,http://user:hush@x"}, []string{varURL, "http://…@x", "nats://"}},
		{"no host", Config{URL: "nats://"}, []string{varURL}},
		{"no URL", Config{URL: "nats://[::"}, []string{varURL}},
		{"mixed", Config{URL: "nats://a,ws://b"}, []string{varURL, "mix"}},
		{"creds missing", Config{Creds: none}, []string{varCreds, none}},
		{"creds wrong", Config{Creds: empty}, []string{varCreds, empty}},
		{"creds content wrong", Config{Creds: "-----BEGIN hush"}, []string{varCreds, "(content)"}},
		{"nkey missing", Config{NKey: none}, []string{varNKey, none}},
		{"nkey wrong", Config{NKey: empty}, []string{varNKey, empty}},
		{"nkey of an account", Config{NKey: string(accountSeed)}, []string{varNKey, "(seed)"}},
		{"ca missing", Config{TLSCA: none}, []string{varTLSCA, none}},
		{"ca wrong", Config{TLSCA: empty}, []string{varTLSCA, empty}},
		{"cert without key", Config{TLSCert: none}, []string{varTLSKey}},
		{"key without cert", Config{TLSKey: none}, []string{varTLSCert}},
		{"cert wrong", Config{TLSCert: empty, TLSKey: empty}, []string{varTLSCert, empty}},
		{"prefix", Config{ReplyPrefixes: []string{"ok", "$JS.API"}}, []string{varReply, "$JS.API"}},
		{"two problems", Config{URL: "x://y", Creds: none}, []string{varURL, varCreds}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Connect(t.Context(), tt.cfg, Hooks{})
			var problem *ConfigError
			if !errors.As(err, &problem) {
				t.Fatalf("got %v, want a ConfigError", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), string(accountSeed)) {
				t.Errorf("%q holds a secret", err)
			}
		})
	}
}

func TestValidConfig(t *testing.T) {
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds := "-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln\n------END NATS USER JWT------\n\n" +
		"-----BEGIN USER NKEY SEED-----\n" + string(seed) + "\n------END USER NKEY SEED------\n"
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, cfg := range map[string]Config{
		"default":       {},
		"several":       {URL: "nats://a:4222, tls://u:p@b , c:4222"},
		"web sockets":   {URL: "ws://a,wss://b"},
		"nkey file":     {NKey: write("seed", string(seed)+"\n")},
		"nkey seed":     {NKey: string(seed)},
		"creds file":    {Creds: write("creds", creds)},
		"creds content": {Creds: creds},
		"prefixes":      {ReplyPrefixes: []string{"_R_", "rpc.reply."}},
	} {
		if err := cfg.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
