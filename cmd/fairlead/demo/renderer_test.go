package demo

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func renderer(t *testing.T, says string) *Renderer {
	t.Helper()
	r := NewRenderer(func() *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childEnv+"="+says)
		return c
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(r.Close)
	return r
}

func TestTheWorkerOfTasksIsAnotherOneAfterAKill(t *testing.T) {
	r := renderer(t, rendererReady)
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := r.child
	if err := r.Start(t.Context()); err != nil || r.child != first {
		t.Errorf("started again: %v, and another process: %t", err, r.child != first)
	}
	mux := http.NewServeMux()
	r.Mount(mux, false)
	if got, want := ask(mux, "POST", "/demo/kill-worker").Code, http.StatusNoContent; got != want {
		t.Errorf("kill: status %d, want %d", got, want)
	}
	if r.child == first || !first.ended() || r.child.ended() {
		t.Error("after the kill there is no other process in its place")
	}
	if got, want := ask(mux, "POST", "/demo/kill-worker", func(r *http.Request) { r.RemoteAddr = "192.0.2.1:9" }).Code, http.StatusForbidden; got != want {
		t.Errorf("a kill from elsewhere: status %d, want %d", got, want)
	}
	r.child.kill() // as if by itself
	if err := r.Start(t.Context()); err != nil || r.child.ended() {
		t.Errorf("one that ended is not started again: %v", err)
	}
	r.Close()
	if err := r.Start(t.Context()); err == nil {
		t.Error("it is started after Close")
	}
}

func TestAWorkerOfTasksThatDoesNotStart(t *testing.T) {
	r := renderer(t, "nothing")
	if err := r.Start(t.Context()); err == nil {
		t.Error("got no error of a process that ends")
	}
	mux := http.NewServeMux()
	r.Mount(mux, false)
	if got, want := ask(mux, "POST", "/demo/kill-worker").Code, http.StatusBadGateway; got != want {
		t.Errorf("kill: status %d, want %d", got, want)
	}
}

// Behind a load balancer every peer is another machine, and the page may kill the
// worker all the same; other pages may not.
func TestAPageBesideAStackKillsTheWorkerFromAnywhere(t *testing.T) {
	r := renderer(t, rendererReady)
	mux := http.NewServeMux()
	r.Mount(mux, true)
	away := func(r *http.Request) { r.RemoteAddr = "192.0.2.1:9" }
	if got, want := ask(mux, "POST", "/demo/kill-worker", away).Code, http.StatusNoContent; got != want {
		t.Errorf("a kill from elsewhere: status %d, want %d", got, want)
	}
	foreign := func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }
	if got, want := ask(mux, "POST", "/demo/kill-worker", away, foreign).Code, http.StatusForbidden; got != want {
		t.Errorf("a kill by another site: status %d, want %d", got, want)
	}
}

// A worker that is kept is there without a task, and again whoever ends it.
func TestAWorkerOfTasksIsKept(t *testing.T) {
	r := renderer(t, rendererReady)
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan struct{})
	go func() { defer close(kept); r.Keep(ctx) }()
	defer func() { cancel(); <-kept }()
	first := another(t, r, nil)
	first.kill() // as if by itself
	second := another(t, r, first)
	if err := r.Kill(t.Context()); err != nil { // by the page: its own successor stays
		t.Fatal(err)
	}
	if third := another(t, r, second); third.ended() {
		t.Error("after a kill none is there")
	}
}

// another waits for a worker that is not the one before.
func another(t *testing.T, r *Renderer, before *child) *child {
	t.Helper()
	deadline, tick := time.After(10*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		r.mu.Lock()
		now := r.child
		r.mu.Unlock()
		if now != nil && now != before {
			return now
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("no worker")
		}
	}
}

// The page's calls about tasks: one is asked for once somebody is there to do it,
// and no other than the page's is shown.
func TestThePagesTask(t *testing.T) {
	server := natsdev.Test(t)
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	r := renderer(t, rendererReady)
	w, err := StartWorker(nc, fairlead.Options{}, TaskOptions{Renderer: r})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	asked := make(chan wire.TaskEnqueue, 1)
	for endpoint, answer := range map[string]func(*nats.Msg) string{
		"register": func(*nats.Msg) string { return `{}` },
		"enqueue": func(m *nats.Msg) string {
			var req wire.TaskEnqueue
			if json.Unmarshal(m.Data, &req) == nil {
				asked <- req
			}
			return `{"id":"t_1"}`
		},
		"get": func(m *nats.Msg) string {
			if string(m.Data) == `{"id":"t_1"}` {
				return `{"id":"t_1","name":"demo.render","state":"running","attempt":1}`
			}
			return `{"id":"t_2","name":"secret","state":"running","attempt":1}`
		},
	} {
		if _, err := nc.Subscribe("fl.svc.tasks."+endpoint, func(m *nats.Msg) { _ = m.Respond([]byte(answer(m))) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, code := call(t, nc, "demo.tasks", `{}`); got != `{}` || code != "" {
		t.Errorf("demo.tasks: got %s, %s", got, code)
	}
	if got, code := call(t, nc, "demo.task", `{}`); got != `{"id":"t_1"}` || code != "" {
		t.Errorf("demo.task: got %s, %s", got, code)
	}
	if got := (<-asked).Name; got != renderTask || r.child == nil {
		t.Errorf("asked for %q, want %q, and somebody to do it", got, renderTask)
	}
	var task wire.Task
	if got, code := call(t, nc, "demo.task.get", `{"id":"t_1"}`); json.Unmarshal([]byte(got), &task) != nil || task.State != wire.TaskRunning {
		t.Errorf("demo.task.get: got %s, %s", got, code)
	}
	if got, code := call(t, nc, "demo.task.get", `{"id":"t_2"}`); code != "NOT_FOUND" {
		t.Errorf("a task that is not the page's: got %s, %s", got, code)
	}
}

func TestThePageWithoutTasks(t *testing.T) {
	server := natsdev.Test(t)
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	w, err := StartWorker(nc, fairlead.Options{}, TaskOptions{Off: "off: no database"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if got, _ := call(t, nc, "demo.tasks", `{}`); got != `{"off":"off: no database"}` {
		t.Errorf("demo.tasks: got %s", got)
	}
	if _, code := call(t, nc, "demo.task", `{}`); code != "UNAVAILABLE" {
		t.Errorf("demo.task: code %q, want UNAVAILABLE", code)
	}
}
