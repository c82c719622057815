package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/idem"
)

const patience = 20 * time.Second

// settings are those of the environment where it says nothing.
func settings(url string) Config {
	return Config{
		Retention: 168 * time.Hour, OwnerLease: 15 * time.Second, CancelGrace: 10 * time.Second, Migrate: true,
		Idem: idem.Config{Where: idem.InPostgres}, Namespace: "fl", Replicas: 1, PostgresURL: url,
	}
}

func TestSettings(t *testing.T) {
	good := settings("postgres://localhost/x")
	if err := good.validate(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"FAIRLEAD_TASKS_RETENTION":    func(c *Config) { c.Retention = time.Second },
		"FAIRLEAD_TASKS_OWNER_LEASE":  func(c *Config) { c.OwnerLease = time.Hour },
		"FAIRLEAD_TASKS_CANCEL_GRACE": func(c *Config) { c.CancelGrace = 0 },
		"FAIRLEAD_TASKS_POOL":         func(c *Config) { c.Pool = 1 },
		"FAIRLEAD_TASKS_IDEM":         func(c *Config) { c.Idem.Where = "redis" },
		"FAIRLEAD_NAMESPACE":          func(c *Config) { c.Namespace = "a.b" },
		"FAIRLEAD_POSTGRES_URL: the":  func(c *Config) { c.PostgresURL = "" },
		"FAIRLEAD_POSTGRES_URL: not":  func(c *Config) { c.PostgresURL = "postgres://u:secret@host:port/x" },
	} {
		c := good
		change(&c)
		err := c.validate()
		if err == nil || !strings.HasPrefix(err.Error(), name) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want one line that names it", name, err)
		}
	}
}

// A replica from its start to its end: who waits is answered when it stops, and
// nothing of it stays behind.
func TestServiceStopsInOrder(t *testing.T) {
	server := natsdev.Test(t)
	config := bus.Config{URL: server.ClientURL()}
	nc, err := bus.Connect(t.Context(), config, bus.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	reader := sdkmetric.NewManualReader()
	live := followed(t, nc)
	s, err := New(settings(pgdev.Test(t)), Deps{NATS: config, Rules: live, Meter: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	t.Cleanup(func() {
		if stop(); !stopped {
			<-done
		}
	})
	ask := func(endpoint, body string, reply any) error {
		m, err := nc.Request("fl.svc.tasks."+endpoint, []byte(body), patience)
		if err != nil {
			return err
		}
		if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil {
			return e
		}
		return json.Unmarshal(m.Data, reply)
	}
	tick, late := time.NewTicker(10*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for s.Ready() != nil {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never ready: %v", s.Ready())
		}
	}
	var task wire.TaskEnqueued
	if err := ask("enqueue", `{"name":"x"}`, &task); err != nil {
		t.Fatal(err)
	}
	// One waits for its end, one for a job, one for a lock that is another's.
	var held struct{ Token string }
	if err := ask("lock.acquire", `{"key":"k","ttl":"30s"}`, &held); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		task wire.Task
		err  error
	}
	awaited, others := make(chan answer, 1), make(chan error, 2)
	go func() {
		var a answer
		a.err = ask("await", `{"id":"`+task.ID+`","timeout":"10m"}`, &a.task)
		awaited <- a
	}()
	for _, wait := range [][2]string{{"job.claim", `{"queue":"q","wait":"1m"}`}, {"lock.acquire", `{"key":"k","ttl":"30s","wait":"1m"}`}} {
		go func() { others <- ask(wait[0], wait[1], &struct{}{}) }()
	}
	flushed(t, nc)
	var seen metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &seen); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, scope := range seen.ScopeMetrics {
		for _, m := range scope.Metrics {
			names[m.Name] = true
		}
	}
	for _, name := range []string{"fairlead_tasks_breaker_state", "fairlead_tasks_tasks_due", "fairlead_tasks_postgres_connections_open"} {
		if !names[name] {
			t.Errorf("there is no metric %s", name)
		}
	}

	stop()
	select {
	case err := <-done:
		if stopped = true; err != nil {
			t.Errorf("it stopped with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it does not stop")
	}
	if got := <-awaited; got.err != nil || got.task.ID != task.ID || got.task.State.Ended() {
		t.Errorf("who waited for the end of a task got %+v, %v, want it as it is", got.task, got.err)
	}
	for range 2 {
		if err := <-others; err != nil && wire.CodeOf(err) != wire.Unavailable {
			t.Errorf("who waited got %v, want an answer, or UNAVAILABLE", err)
		}
	}
	if err := ask("counts", `{}`, &struct{}{}); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("afterwards: %v, want nobody", err)
	}
}

// flushed waits until the server has what was published, and what was asked is
// under way.
func flushed(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
}

// followed returns rules without anything special, which count until the test
// ends.
func followed(t *testing.T, nc *nats.Conn) *rules.Live {
	t.Helper()
	store := rules.Store{Namespace: "fl"}
	var err error
	if store.JetStream, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	live, err := rules.Follow(rules.Options{Store: store, Mode: rules.Dev, File: []byte(`topics: [{match: ">"}]`)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- live.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("rules: %v", err)
		}
	})
	return live
}
