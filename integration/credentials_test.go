package integration

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// guarded is a NATS server with the accounts of deploy/nats, and what it refuses.
type guarded struct {
	t   *testing.T
	url string
	log *transcript
}

// setting is a value of deploy/nats that comes from the environment.
var setting = regexp.MustCompile(`\$NATS_(\w+)`)

// guard starts it. The password of each role is its name.
func guard(t *testing.T) *guarded {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"nats.conf", "accounts.conf"} {
		content, err := os.ReadFile(filepath.Join("../deploy/nats", name))
		must(t, err)
		content = setting.ReplaceAllFunc(content, func(name []byte) []byte {
			role := strings.TrimSuffix(string(setting.FindSubmatch(name)[1]), "_PASSWORD")
			return []byte(`"` + strings.ToLower(role) + `"`)
		})
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	g := &guarded{t: t, log: newTranscript()}
	g.url = natsdev.Test(t, func(c *natsdev.Config) {
		c.File = filepath.Join(dir, "nats.conf")
		c.Log = slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}).ClientURL()
	return g
}

// as is the server's URL for a role.
func (g *guarded) as(role string) string {
	return strings.Replace(g.url, "nats://", "nats://"+role+":"+role+"@", 1)
}

// service starts a process under its role.
func (g *guarded) service(role string, env ...string) *process {
	g.t.Helper()
	env = append([]string{"FAIRLEAD_NATS_URL=" + g.as(role), "FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_LOG_FORMAT=json"}, env...)
	return start(g.t, role, env, "run", role)
}

// tool runs a command of the operator.
func (g *guarded) tool(args ...string) string {
	g.t.Helper()
	env := []string{"FAIRLEAD_NATS_URL=" + g.as("operator"), "FAIRLEAD_NATS_INBOX_PREFIX=_INBOX_operator"}
	out, errs, code := run(g.t, env, "", args...)
	if code != 0 {
		g.t.Errorf("fairlead %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// refused is what the server has not let somebody do.
func (g *guarded) refused() (lines []string) {
	for line := range strings.Lines(g.log.String()) {
		if strings.Contains(line, "Violation") {
			lines = append(lines, line)
		}
	}
	return lines
}

// permitted is what the rules of deploy lack to reach every service: an archive,
// and a ledger of keys.
const permitted = `
  - {name: vault, match: "vault.>", presence: {}, replay: {size: 100, ttl: 1h, dedupe: 10m, archive: true}}`

// replied sends a request until it is answered without an error, as the role whose
// connection it is: services are not there at once.
func replied(t *testing.T, nc *nats.Conn, subject, body string) string {
	t.Helper()
	var answer string
	eventually(t, subject+" is answered", func() (any, bool) {
		m, err := nc.Request(subject, []byte(body), 5*time.Second)
		if err != nil {
			return err, false
		}
		if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil {
			return e, false
		}
		answer = string(m.Data)
		return answer, true
	})
	return answer
}

// Every role does its work with what docs/nats.md says that it needs, and the
// server refuses nobody anything.
func TestEachRoleWorksUnderItsCredentials(t *testing.T) {
	t.Parallel()
	g := guard(t)
	rules, err := os.ReadFile("../deploy/rules.yaml")
	must(t, err)
	file := "FAIRLEAD_TOPICS_FILE=" + rulesFile(t, strings.Replace(string(rules), "\ntopics:", "\ntopics:"+permitted, 1))
	database := "FAIRLEAD_POSTGRES_URL=" + pgdev.Test(t)
	for role, env := range map[string][]string{
		"presence": nil, "ratelimit": nil, "replay": {database}, "tasks": {database, "FAIRLEAD_TASKS_POOL=6"},
	} {
		g.service(role, env...)
	}
	g.service("tasks", database, "FAIRLEAD_TASKS_POOL=6") // replicas tell each other of signs of life
	s := &stack{t: t, nats: g.as("gateway")}
	for range 2 {
		s.add(file, "FAIRLEAD_GATEWAY_LEASE=2s")
	}
	worker, operator := connect(t, g.as("worker")), connect(t, g.as("operator"))
	ann, bob := s.as(0, "ann"), s.as(1, "bob")

	t.Run("topics, keys and the past", func(t *testing.T) {
		live := subscribe(t, bob, "vault.a")
		eventually(t, "a key is stored", func() (any, bool) {
			_, err := ann.Publish(within(t), "vault.a", "", 1, client.PublishOptions{Key: "k"})
			return err, err == nil
		})
		expect(t, live, "", `1`)
		again, err := ann.Publish(within(t), "vault.a", "", 1, client.PublishOptions{Key: "k"})
		if err != nil || !again.Duplicate {
			t.Errorf("the same key: %+v, %v; want a duplicate", again, err)
		}
		must(t, worker.Publish("fl.topic.vault.a", []byte(`2`)))
		expect(t, live, "", `2`)
		eventually(t, "there is a past", func() (any, bool) {
			past, err := bob.History(within(t), "vault.a", client.HistoryOptions{})
			return err, err == nil && len(past.Messages) == 2
		})
		replied(t, operator, "fl.svc.replay.clear-topic", `{"topic":"vault.a"}`)
		replied(t, worker, "fl.svc.replay.publish", `{"topic":"vault.b","data":3}`)
	})
	t.Run("presence, groups, sessions and users", func(t *testing.T) {
		subscribe(t, ann, "chat.x")
		eventually(t, "ann is there", func() (any, bool) {
			err := ann.JoinPresence(within(t), "chat.x", map[string]any{"status": "here"})
			return err, err == nil
		})
		eventually(t, "all see her", func() (any, bool) {
			page, err := bob.Members(within(t), "chat.x", 10, "")
			return page, err == nil && page.Count == 1
		})
		seat, err := ann.JoinGroup(within(t), "table:1", client.GroupOptions{})
		must(t, err)
		other, err := bob.JoinGroup(within(t), "table:1", client.GroupOptions{})
		must(t, err)
		must(t, other.Send(within(t), seat.Member(), "knock", 1))
		replied(t, worker, "fl.svc.presence.group.close", `{"group":"table:1"}`)
		replied(t, worker, "fl.svc.presence.session.set", `{"token":"0123456789abcdef0123456789abcdef","data":1,"ttl":"1h"}`)
		replied(t, worker, "fl.svc.presence.join", `{"topic":"chat.x","user":"robot"}`)
		bob.Serve("confirm", answerWith(`{"yes":true}`))
		eventually(t, "bob answers", func() (any, bool) {
			m, err := worker.RequestMsg(&nats.Msg{Subject: "fl.ask.bob", Header: nats.Header{wire.HeaderEvent: {"confirm"}}}, 5*time.Second)
			return err, err == nil && string(m.Data) == `{"yes":true}`
		})
		if got := replied(t, worker, "fl.user.ann", `"psst"`); got != `{"reached":1}` {
			t.Errorf("ann is reached: %s", got)
		}
		must(t, ann.MoveCursor("chat.x", map[string]any{"x": 1}))
		must(t, worker.PublishMsg(&nats.Msg{Subject: "fl.match", Header: nats.Header{wire.HeaderMatch: {`{"team":"7"}`}}, Data: []byte(`1`)}))
	})
	t.Run("limits", func(t *testing.T) {
		code := wire.Code("")
		eventually(t, "the flood is held back", func() (any, bool) {
			_, err := ann.Publish(within(t), "demo.limited", "", 1, client.PublishOptions{})
			code = wire.CodeOf(err)
			return err, code == wire.ResourceExhausted
		})
		replied(t, worker, "fl.svc.ratelimit.consume", `{"policy":"demo","key":"cem"}`)
		g.tool("limit", "ban", "demo", "cem", "--for", "1m")
	})
	t.Run("calls", func(t *testing.T) {
		canceled := make(chan struct{})
		_, err := worker.QueueSubscribe("fl.call.orders.*", "workers", func(m *nats.Msg) {
			if m.Subject == "fl.call.orders.wait" {
				_, err := worker.Subscribe(m.Header.Get(wire.HeaderCancel), func(*nats.Msg) { close(canceled) })
				must(t, err)
				must(t, worker.Flush())
			}
			must(t, m.RespondMsg(&nats.Msg{Header: nats.Header{wire.HeaderProgress: {"1"}}, Data: []byte(`1`)}))
			if m.Subject == "fl.call.orders.create" {
				must(t, m.Respond([]byte(`{"order":17}`)))
			}
		})
		must(t, err)
		flush(t, worker)
		got, err := ann.Call(within(t), "orders.create", nil, client.CallOptions{})
		if err != nil || string(got.Data) != `{"order":17}` {
			t.Errorf("a call: %s, %v", got.Data, err)
		}
		if _, err := ann.Call(within(t), "orders.wait", nil, client.CallOptions{Timeout: 300 * time.Millisecond}); err == nil {
			t.Error("a call that nobody ends: no error")
		}
		receive(t, canceled)
	})
	t.Run("tasks and locks", func(t *testing.T) {
		_, err := worker.QueueSubscribe("fl.task.mail.*", "workers", func(m *nats.Msg) {
			for range 10 { // to either replica
				replied(t, worker, "fl.svc.tasks.heartbeat", `{`+attemptOf(m)+`,"leaseMs":60000}`)
			}
			must(t, m.RespondMsg(&nats.Msg{Header: nats.Header{wire.HeaderTaskProgress: {"1"}}, Data: []byte(`50`)}))
			must(t, m.Respond([]byte(`{"sent":true}`)))
		})
		must(t, err)
		flush(t, worker)
		var task wire.Task
		must(t, json.Unmarshal([]byte(replied(t, worker, "fl.svc.tasks.run", `{"name":"mail.send","wait":"4s"}`)), &task))
		if task.State != wire.TaskCommitted {
			t.Errorf("the task is %s, want committed", task.State)
		}
		replied(t, worker, "fl.svc.tasks.enqueue", `{"name":"nobody.serves","idempotencyKey":"k"}`)
		replied(t, worker, "fl.svc.tasks.lock.acquire", `{"key":"report","ttl":"30s"}`)
		replied(t, worker, "fl.svc.tasks.hello", `{"names":["mail.send"],"slots":1}`)
		if out := g.tool("tasks", "ls"); !strings.Contains(out, "mail.send") {
			t.Errorf("fairlead tasks ls: %s", out)
		}
	})
	t.Run("operators", func(t *testing.T) {
		g.tool("top")
		g.tool("rules", "apply", rulesFile(t, string(rules)))
		g.tool("replay", "since", "chat.x")
		replied(t, operator, "fl.control.user.ann", `{"action":"refresh"}`)
		g.tool("kick", "ann", "--revoke")
		receive(t, ann.Done())
	})
	// What is left of a gateway that is gone is swept by presence.
	s.gateways[1].kill()
	eventually(t, "bob is gone", func() (any, bool) {
		answer := replied(t, worker, "fl.svc.presence.online", `{"users":["bob"]}`)
		return answer, strings.Contains(answer, `"bob":false`)
	})
	for _, line := range g.refused() {
		t.Error(line)
	}
}

// What a role has no business with it is refused, and a stranger everything. It is
// also the proof that [guarded.refused] would say so.
func TestARoleMayDoNothingElse(t *testing.T) {
	t.Parallel()
	g := guard(t)
	for _, url := range []string{g.url, strings.Replace(g.as("gateway"), ":gateway@", ":guess@", 1)} {
		if nc, err := nats.Connect(url); err == nil {
			nc.Close()
			t.Errorf("%s: a stranger is let in", url)
		}
	}
	for role, subjects := range map[string]struct{ publish, subscribe []string }{
		"worker": {
			[]string{"fl.call.a", "fl.task.a", "fl.cancel.a", "fl.event.a", "fl.control.user.ann", "fl.seq.chat.a", "fl.probe.a.0", "fl.group.a",
				"fl.svc.ratelimit.ban", "$JS.API.STREAM.PURGE.FL_CHAT", "$KV.fl_config.rules", "_INBOX.a", "_INBOX_operator.a"},
			[]string{"_INBOX.>", "_INBOX_operator.>", "fl.control.>", "fl.user.*", "fl.conn.*", "fl.ask.*", "fl.svc.>", "$KV.>", "$SYS.>", ">"},
		},
		"demo":      {[]string{"fl.topic.chat.a", "fl.call.a", "fl.conn.a", "$KV.fl_config.rules"}, []string{"fl.call.>", "fl.topic.>", "_INBOX_worker.>"}},
		"operator":  {[]string{"fl.call.a", "fl.task.a", "fl.event.a"}, []string{"_INBOX.>", "fl.call.>", "fl.user.*"}},
		"gateway":   {[]string{"fl.task.a", "fl.control.user.ann", "fl.svc.tasks.enqueue", "fl.group.a"}, []string{"fl.call.>", "fl.svc.presence.>", "_INBOX_worker.>"}},
		"presence":  {[]string{"fl.topic.chat.a", "fl.call.a", "$KV.fl_ratelimit.a"}, []string{"fl.topic.>", "fl.call.>"}},
		"replay":    {[]string{"fl.call.a", "fl.user.ann", "fl.control.user.ann"}, []string{"fl.topic.>", "fl.user.*"}},
		"ratelimit": {[]string{"fl.topic.chat.a", "fl.user.ann", "$KV.fl_gateways.a"}, []string{"fl.topic.>", "fl.svc.tasks.>"}},
		"tasks":     {[]string{"fl.call.a", "fl.user.ann", "fl.control.user.ann"}, []string{"fl.topic.>", "fl.task.>", "fl.call.>"}},
	} {
		nc, err := nats.Connect(g.as(role), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // what is refused is in the server's log
		must(t, err)
		t.Cleanup(nc.Close)
		for _, subject := range subjects.publish {
			must(t, nc.Publish(subject, []byte(`1`)))
		}
		for _, subject := range subjects.subscribe {
			_, err := nc.Subscribe(subject, func(*nats.Msg) {})
			must(t, err)
		}
		want := len(subjects.publish) + len(subjects.subscribe)
		mine := func() []string {
			return slices.DeleteFunc(g.refused(), func(line string) bool { return !strings.Contains(line, "user:"+role) })
		}
		eventually(t, role+" is refused", func() (any, bool) { return mine(), len(mine()) == want })
	}
}
