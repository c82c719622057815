//go:build unix

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// demoPage is `fairlead demo` beside a stack, both at one address.
type demoPage struct {
	t       *testing.T
	env     []string
	process *process
	own     string // where the page itself listens
	url     string
}

// launchDemo starts the page on a NATS server that need not be there yet, and an
// address that leads to it, and to a gateway with everything else.
func launchDemo(t *testing.T, natsURL, gateway string) *demoPage {
	t.Helper()
	d := &demoPage{t: t, own: "127.0.0.1:" + freePort(t)}
	proxy := &httputil.ReverseProxy{ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
		host, path := gateway, r.In.URL.Path
		if path == "/" || path == "/demo" || path == "/fairlead.js" || strings.HasPrefix(path, "/demo/") || strings.HasPrefix(path, "/fairlead/") {
			host = d.own
		}
		r.SetURL(&url.URL{Scheme: "http", Host: host})
		r.Out.Host = r.In.Host
	}}
	balancer := httptest.NewServer(proxy)
	t.Cleanup(balancer.Close)
	d.url = balancer.URL
	d.env = []string{
		"FAIRLEAD_NATS_URL=" + natsURL, "FAIRLEAD_NATS_INBOX_PREFIX=_INBOX_worker.demo", "FAIRLEAD_HTTP_ADDR=" + d.own, "FAIRLEAD_ADMIN_ADDR=off",
		"FAIRLEAD_AUTH_JWT_SECRET=" + testSecret, "FAIRLEAD_DEMO_URL=" + d.url + "/demo", "FAIRLEAD_DEMO_TERMINAL=nats context select x",
	}
	d.again()
	return d
}

// again starts the process, in place of one that has ended.
func (d *demoPage) again() { d.process = start(d.t, "demo", d.env, "demo") }

// ready waits for the line that says where the page is.
func (d *demoPage) ready() {
	d.t.Helper()
	if got, want := d.process.line(d.process.stdout, "demo page"), "demo page: "+d.url+"/demo"; got != want {
		d.t.Errorf("got %q, want %q", got, want)
	}
}

// as signs a user in as the page does.
func (d *demoPage) as(user string) *client.Client {
	d.t.Helper()
	status, token := get(d.t, d.url+"/demo/token?user="+user)
	if status != http.StatusOK {
		d.t.Fatalf("a token for %s: %d %s", user, status, token)
	}
	return dial(d.t, strings.Replace(d.url, "http", "ws", 1)+"/ws", client.Options{Token: token})
}

// call calls a method of the page's worker.
func (d *demoPage) call(c *client.Client, method string, data any) (answer map[string]any) {
	d.t.Helper()
	got, err := c.Call(within(d.t), method, data, client.CallOptions{})
	if err != nil {
		d.t.Fatalf("%s: %v", method, err)
	}
	must(d.t, json.Unmarshal(got.Data, &answer))
	return answer
}

// demoStack starts the page and every service, each under its own credentials of
// deploy/nats and with the very rules.
func demoStack(t *testing.T) (*demoPage, *guarded) {
	t.Helper()
	nats := guard(t)
	rules, err := filepath.Abs("../deploy/rules.yaml")
	must(t, err)
	g := launchGateway(t, nats.as("gateway"), "FAIRLEAD_TOPICS_FILE="+rules)
	d := launchDemo(t, nats.as("demo"), g.addr)
	database := "FAIRLEAD_POSTGRES_URL=" + pgdev.Test(t)
	for role, env := range map[string][]string{"presence": nil, "ratelimit": nil, "replay": {database}, "tasks": {database, "FAIRLEAD_TASKS_POOL=6"}} {
		nats.service(role, env...)
	}
	d.ready()
	g.ready()
	worker := connect(t, nats.as("worker"))
	for _, one := range []string{"presence.count", "replay.head", "tasks.counts"} {
		replied(t, worker, "fl.svc."+one, `{"topic":"chat.lobby"}`)
	}
	return d, nats
}

// The page beside a stack that others run, through a load balancer: its users sign
// in and talk, its worker does what they ask for, and its task survives both the
// worker that the page kills and the end of the page itself.
func TestDemoBesideAStack(t *testing.T) {
	t.Parallel()
	d, nats := demoStack(t)
	for path, want := range map[string]string{
		"/": "<title>Fairlead demo", "/demo": "<title>Fairlead demo", "/fairlead.js": "export", "/demo/second.js": "second = false", "/demo/stack.js": "nats context select x",
	} {
		if status, body := get(t, d.url+path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, without %q", path, status, want)
		}
	}
	ann, bob := d.as("ann"), d.as("bob")
	lobby := subscribe(t, bob, "chat.lobby")
	publish(t, ann, "chat.lobby", `{"text":"hi"}`)
	expect(t, lobby, "ann", `{"text":"hi"}`)
	subscribe(t, ann, "chat.lobby")
	must(t, ann.JoinPresence(within(t), "chat.lobby", map[string]any{"status": "here"}))
	seat, err := ann.JoinGroup(within(t), "table:1", client.GroupOptions{})
	must(t, err)
	must(t, seat.Publish(within(t), "knock", nil, ""))

	if state := d.call(ann, "demo.tasks", nil); len(state) != 0 {
		t.Errorf("tasks are %v", state)
	}
	id := d.call(ann, "demo.task", struct{}{})["id"].(string)
	progress := subscribe(t, ann, "task."+id)
	d.becomes(progress, 1)
	resp, err := web.Post(d.url+"/demo/kill-worker", "", nil)
	must(t, err)
	if readAll(t, resp); resp.StatusCode != http.StatusNoContent {
		t.Errorf("kill the worker: %d", resp.StatusCode)
	}
	d.becomes(progress, 2)
	d.process.kill() // and with it the worker, which nobody tells
	d.again()
	d.ready()
	by := d.becomes(progress, 0)
	if workers := slices.Compact(slices.Sorted(slices.Values(by))); len(by) != 5 || len(workers) != 3 {
		t.Errorf("the parts were done by %v, want five by three workers", by)
	}

	if reached := d.call(ann, "demo.kick", map[string]any{"user": "bob"})["reached"]; reached != 1.0 {
		t.Errorf("the operator has reached %v connections of Bob's, want 1", reached)
	}
	left(t, bob, wire.CloseForbidden, "kicked by ann")
	must(t, d.process.cmd.Process.Signal(syscall.SIGTERM))
	if code := d.process.exit(patience); code != 0 {
		t.Errorf("the page ended with %d", code)
	}
	if refused := nats.refused(); len(refused) > 0 {
		t.Errorf("NATS has refused %q", refused)
	}
}

// becomes waits until so many workers have had the task, 0: until it is committed,
// and returns who did its parts.
func (d *demoPage) becomes(of *client.Subscription, workers int) (by []int) {
	d.t.Helper()
	for {
		var task struct {
			State            wire.TaskState
			Progress, Result struct{ By []int }
		}
		must(d.t, json.Unmarshal(next(d.t, of).Data, &task))
		switch had := slices.Compact(slices.Sorted(slices.Values(task.Progress.By))); {
		case workers > 0 && len(had) == workers && len(task.Progress.By) > workers: // the newest has done a part
			return task.Progress.By
		case task.State == wire.TaskCommitted && workers == 0:
			return task.Result.By
		case task.State == wire.TaskCommitted, task.State == wire.TaskDead, task.State == wire.TaskFailed:
			d.t.Fatalf("the task is %s, by %v", task.State, task.Progress.By)
		}
	}
}

// What it needs is said at once, NATS may come later, and who calls it by a name that is not its own
// gets nothing: such a name may be of a page elsewhere.
func TestDemoCommandRefuses(t *testing.T) {
	t.Parallel()
	for want, env := range map[string][]string{
		"FAIRLEAD_AUTH_JWT_SECRET is not set":       {},
		"FAIRLEAD_AUTH_JWT_SECRET: ":                {"FAIRLEAD_AUTH_JWT_SECRET=short"},
		"FAIRLEAD_DEMO_URL=somewhere":               {"FAIRLEAD_AUTH_JWT_SECRET=" + testSecret, "FAIRLEAD_DEMO_URL=somewhere"},
		`FAIRLEAD_NATS_INBOX_PREFIX="a.*": must be`: {"FAIRLEAD_AUTH_JWT_SECRET=" + testSecret, "FAIRLEAD_NATS_INBOX_PREFIX=a.*"},
		"FAIRLEAD_HTTP_ADDR=nowhere:nothing":        {"FAIRLEAD_AUTH_JWT_SECRET=" + testSecret, "FAIRLEAD_HTTP_ADDR=nowhere:nothing", "FAIRLEAD_NATS_URL=nats://127.0.0.1:1"},
	} {
		_, errs, code := run(t, append(env, "FAIRLEAD_ADMIN_ADDR=off"), "", "demo")
		if code != 2 || !strings.Contains(errs, want) || strings.Contains(errs, testSecret) {
			t.Errorf("%v: exit code %d, %q; want 2 and %q", env, code, errs, want)
		}
	}

	port := natsdev.FreePort(t)
	d := launchDemo(t, fmt.Sprintf("nats://127.0.0.1:%d", port), "127.0.0.1:1")
	eventually(t, "the page is served without NATS", func() (any, bool) {
		status, body := get(t, d.url+"/demo")
		return body, status == http.StatusOK
	})
	for host, want := range map[string]int{"localhost:8080": 200, "10.1.2.3:8080": 200, "[::1]:8080": 200, "elsewhere.example:8080": 403, "127.0.0.1.example": 403, "": 200} {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, d.url+"/demo/token?user=ann", nil)
		must(t, err)
		req.Host = host
		resp, err := web.Do(req)
		must(t, err)
		if body := readAll(t, resp); resp.StatusCode != want || want != 200 && strings.Count(body, ".") > 5 {
			t.Errorf("a token by host %q: %d %s, want %d", host, resp.StatusCode, body, want)
		}
	}
	if status, _ := get(t, "http://"+d.own+"/readyz"); status != http.StatusServiceUnavailable || d.process.stdout.String() != "" {
		t.Errorf("without NATS it is ready: %d, %q", status, d.process.stdout)
	}
	if !strings.Contains(d.process.stderr.String(), "whoever reaches this page gets tokens") {
		t.Error("nobody is warned of the tokens")
	}
	server, err := natsdev.Start(natsdev.Config{Host: "127.0.0.1", Port: port, StoreDir: t.TempDir()})
	must(t, err)
	defer server.Shutdown()
	d.ready()
	if status, body := get(t, "http://"+d.own+"/readyz"); status != http.StatusOK {
		t.Errorf("with NATS: %d %s", status, body)
	}
}
