package ratelimit

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
)

// rigPatience bounds every wait of the tests over NATS: what takes longer has failed.
const rigPatience = 15 * time.Second

// rigRules are limits that refill too slowly to matter while a test runs.
const rigRules = `
topics: [{match: ">"}]
limits:
  five:  {capacity: 5, refill: 1, per: 1h}
  ten:   {capacity: 10, refill: 2, per: 2h}
  block: {capacity: 2, refill: 1, per: 1h, block: 10m}
  dark:  {capacity: 2, refill: 1, per: 1h, shadow: true}
  large: {capacity: 1000000, refill: 1, per: 1h, key: address, failMode: open}
`

// rig is replicas of the service on a NATS server of their own.
type rig struct {
	testing.TB
	server   *natsdev.Server
	nc       *nats.Conn
	store    rules.Store
	live     *rules.Live
	replicas []*rigReplica
}

type rigReplica struct {
	*Service
	stop func() // and wait; may be called again
}

func startRig(t testing.TB, replicas int) *rig {
	t.Helper()
	r := newRig(t)
	for range replicas {
		r.start()
	}
	return r
}

// newRig returns a rig without replicas, whose rules can be replaced.
func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{TB: t, server: natsdev.Test(t)}
	var err error
	if r.nc, err = bus.Connect(t.Context(), bus.Config{URL: r.server.ClientURL()}, bus.Hooks{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.nc.Close)
	r.store = rules.Store{Namespace: "fl"}
	if r.store.JetStream, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	if r.live, err = rules.Follow(rules.Options{Store: r.store, Mode: rules.Dev, File: []byte(rigRules)}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.live.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("rules: %v", err)
		}
	})
	return r
}

// start runs one more replica, and waits until it is ready.
func (r *rig) start() *rigReplica {
	r.Helper()
	one := r.run()
	r.eventually("a replica to be ready", func() bool { return one.Ready() == nil })
	return one
}

// run starts one more replica, which stops with the test at the latest.
func (r *rig) run() *rigReplica {
	r.Helper()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	s, err := New(Config{Namespace: "fl", Replicas: 1}, Deps{NATS: bus.Config{URL: r.server.ClientURL()}, Rules: r.live, Log: log})
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = s.Run(ctx)
	}()
	one := &rigReplica{Service: s, stop: func() {
		cancel()
		<-done
		if err != nil {
			r.Errorf("Run: %v", err)
		}
	}}
	r.Cleanup(one.stop)
	r.replicas = append(r.replicas, one)
	return one
}

// eventually polls until ok, or fails the test.
func (r *rig) eventually(what string, ok func() bool) {
	r.Helper()
	eventually(r.TB, what, ok)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(rigPatience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %s for %s", rigPatience, what)
		}
	}
}

// answer is what a plain request on a subject got.
type rigAnswer struct {
	text    string
	code    string
	fields  map[string]any // of the reply, or of an error's details
	headers nats.Header
}

// ask sends a request as the nats CLI would.
func (r *rig) ask(subject, body string) rigAnswer {
	r.Helper()
	if !strings.HasPrefix(subject, "fl.") {
		subject = "fl.svc.ratelimit." + subject
	}
	msg, err := r.nc.Request(subject, []byte(body), rigPatience)
	if err != nil {
		r.Fatalf("%s %s: %v", subject, body, err)
	}
	a := rigAnswer{text: string(msg.Data), code: msg.Header.Get("Nats-Service-Error-Code"), headers: msg.Header}
	into := any(&a.fields)
	if a.code != "" {
		into = &struct {
			Details *map[string]any `json:"details"`
		}{&a.fields}
	}
	if len(msg.Data) > 0 {
		if err := json.Unmarshal(msg.Data, into); err != nil {
			r.Fatalf("%s %s: %s: %v", subject, body, msg.Data, err)
		}
	}
	return a
}

// wants sends a request whose answer has, among others, the members of an object.
func (r *rig) wants(subject, body, members string) rigAnswer {
	r.Helper()
	a := r.ask(subject, body)
	var want map[string]any
	if err := json.Unmarshal([]byte(members), &want); err != nil {
		r.Fatal(err)
	}
	if a.code != "" {
		r.Errorf("%s %s: %s %s, want %s", subject, body, a.code, a.text, members)
		return a
	}
	for name, value := range want {
		got, ok := a.fields[name]
		have, _ := json.Marshal(got)
		wanted, _ := json.Marshal(value)
		if !ok || string(have) != string(wanted) {
			r.Errorf("%s %s: %s, want %s %s", subject, body, a.text, name, wanted)
		}
	}
	return a
}

// refused sends a request whose answer is an error with some details.
func (r *rig) refused(subject, body, code, detail, value string) {
	r.Helper()
	if a := r.ask(subject, body); a.code != code || a.fields[detail] != value {
		r.Errorf("%s %.200s: got %q %s %v, want %s with %s %s", subject, body, a.code, a.text, a.fields, code, detail, value)
	}
}

func (r *rig) replaceRules(text string) {
	r.Helper()
	set, err := rules.Parse([]byte(text), rules.Dev)
	if err == nil {
		_, err = r.store.Put(r.Context(), set, "a test")
	}
	if err != nil {
		r.Fatal(err)
	}
}
