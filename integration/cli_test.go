package integration

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// The tools talk to a gateway as a user and to the bus as a worker; piped they
// write one JSON object per line.
func TestPubSubAndCallOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := anyDev(t)
	topic, other := unique("chat.cli"), unique("chat.other")
	greet, nobody := unique("cli.greet"), unique("cli.nobody")
	asUser := []string{"FAIRLEAD_URL=" + s.url(0), "FAIRLEAD_TOKEN=" + token("ann", nil)}
	onBus := s.onBus(s.nats)

	sub := start(t, "sub", asUser, "sub", topic, other+".>", "--count", "5")
	sub.line(sub.stderr, "subscribed as ann")
	bus := start(t, "sub --nats", onBus, "sub", topic, "--nats", "--count", "4")
	bus.line(bus.stderr, "subscribed on the bus")
	raw := start(t, "sub --raw", asUser, "sub", topic, "--raw", "--count", "1")
	raw.line(raw.stderr, "subscribed as ann")

	pub := func(env []string, stdin string, args ...string) {
		t.Helper()
		out, errs, code := run(t, env, stdin, append([]string{"pub"}, args...)...)
		if code != 0 || out != "" {
			t.Fatalf("pub %q: exit code %d, %s%s", args, code, out, errs)
		}
	}
	pub(asUser, "", topic, `{"n": 1}`)
	pub(asUser, `{"n":`+"\n"+`2}`, topic, "-", "--event", "piped")
	pub(asUser, "", topic, "not JSON", "--text")
	pub(onBus, "", topic, `3`, "--nats")
	pub(asUser, "", other+".room", `4`)

	want := strings.Join([]string{
		`{"topic":"` + topic + `","event":"message","data":{"n": 1},"from":"ann"}`,
		`{"topic":"` + topic + `","event":"piped","data":{"n": 2},"from":"ann"}`,
		`{"topic":"` + topic + `","event":"message","data":"not JSON","from":"ann"}`,
		`{"topic":"` + topic + `","event":"message","data":3}`,
		`{"topic":"` + other + `.room","event":"message","data":4,"from":"ann"}`,
	}, "\n") + "\n"
	if code := sub.exit(patience); code != 0 || withoutPositions(sub.stdout.String()) != want {
		t.Errorf("sub: exit code %d, got\n%swant\n%s", code, sub.stdout.String(), want)
	}
	onTheBus := strings.Join(strings.SplitAfter(want, "\n")[:4], "")
	if code := bus.exit(patience); code != 0 || bus.stdout.String() != onTheBus {
		t.Errorf("sub --nats: exit code %d, got\n%swant\n%s", code, bus.stdout.String(), onTheBus)
	}
	if code := raw.exit(patience); code != 0 || raw.stdout.String() != `{"n": 1}`+"\n" {
		t.Errorf("sub --raw: exit code %d, got %q", code, raw.stdout.String())
	}

	worker := s.worker()
	_, err := worker.Subscribe("fl.call."+greet, func(m *nats.Msg) {
		if err := m.Respond([]byte(`{"hello":` + string(m.Data) + `}`)); err != nil {
			t.Errorf("respond: %v", err)
		}
	})
	must(t, err)
	flush(t, worker)
	callers := map[string][]string{"as a user": asUser, "on the bus": onBus}
	if existing() {
		delete(callers, "on the bus") // a worker may answer calls there, not make them
	}
	for name, env := range callers {
		args := []string{"call", greet, `"ann"`}
		if name == "on the bus" {
			args = append(args, "--nats")
		}
		if out, errs, code := run(t, env, "", args...); code != 0 || out != `{"hello":"ann"}`+"\n" {
			t.Errorf("call %s: exit code %d, %s%s", name, code, out, errs)
		}
		args[1] = nobody
		if out, errs, code := run(t, env, "", args...); code != 1 || !strings.Contains(errs, "UNIMPLEMENTED") || out != "" {
			t.Errorf("call of nobody %s: exit code %d, %s%s; want 1 and UNIMPLEMENTED", name, code, out, errs)
		}
	}
}

func TestToolsFailWithACodeThatScriptsUnderstand(t *testing.T) {
	t.Parallel()
	g, _ := startDev(t)
	nowhere := "ws://127.0.0.1:" + freePort(t) + "/ws"
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no gateway":       {[]string{"pub", "a.b", "1", "--url", nowhere}, 1, "UNAVAILABLE"},
		"no NATS":          {[]string{"pub", "a.b", "1", "--nats"}, 1, "NATS"},
		"no JSON":          {[]string{"pub", "a.b", "{", "--url", g.ws()}, 2, "JSON"},
		"a bad topic":      {[]string{"pub", "a..b", "1", "--url", g.ws()}, 1, "INVALID_ARGUMENT"},
		"a refused topic":  {[]string{"pub", "task.x", "1", "--url", g.ws()}, 1, "PERMISSION_DENIED"},
		"a bad token":      {[]string{"sub", "a.b", "--url", g.ws(), "--token", "x.y.z"}, 1, "UNAUTHENTICATED"},
		"no topic":         {[]string{"sub"}, 2, "topic"},
		"an unknown flag":  {[]string{"pub", "a.b", "--loud"}, 2, "--loud"},
		"no user":          {[]string{"token"}, 2, "--user"},
		"no secret":        {[]string{"token", "--user", "ann"}, 2, "secret"},
		"no rules file":    {[]string{"rules", "check", "none.yaml"}, 2, "none.yaml"},
		"health of nobody": {[]string{"health", "--url", strings.Replace(nowhere, "ws:", "http:", 1)}, 1, "UNAVAILABLE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := run(t, []string{"FAIRLEAD_NATS_URL=nats://127.0.0.1:1"}, "", test.args...)
			if code != test.code || !strings.Contains(errs, test.want) {
				t.Errorf("exit code %d, %s%s; want %d and %q", code, out, errs, test.code, test.want)
			}
			if strings.Contains(errs, "goroutine ") {
				t.Errorf("a stack trace: %s", errs)
			}
		})
	}
}

func TestTokenHealthAndVersion(t *testing.T) {
	t.Parallel()
	g, natsURL := startDev(t)
	secret := []string{"FAIRLEAD_AUTH_JWT_SECRET=" + testSecret}
	out, errs, code := run(t, secret, "", "token", "--user", "ann", "--publish", "chat.mine", "--topic", "chat.claimed", "--attr", "org=7")
	jwt, ended := strings.CutSuffix(out, "\n")
	if code != 0 || !ended || strings.Count(jwt, ".") != 2 {
		t.Fatalf("token: exit code %d, %s%s", code, out, errs)
	}
	ann := dial(t, g.ws(), client.Options{Token: jwt})
	if w := ann.Welcome(); w.User != "ann" || len(w.Topics) != 1 || w.Topics[0] != "chat.claimed" || time.Until(time.UnixMilli(w.ExpiresAt)) < 50*time.Minute {
		t.Errorf("hello: got %+v, want ann, chat.claimed and an hour", w)
	}
	if _, err := ann.Publish(within(t), "chat.other", "", nil, client.PublishOptions{}); !strings.HasPrefix(errorText(err), "PERMISSION_DENIED") {
		t.Errorf("publish to what the token does not list: got %v, want PERMISSION_DENIED", err)
	}
	claimed := make(chan client.Message, 1)
	ann.OnMessage(func(m client.Message) { claimed <- m })
	must(t, connect(t, natsURL).Publish("fl.topic.chat.claimed", []byte(`1`)))
	if m := receive(t, claimed); m.Topic != "chat.claimed" || string(m.Data) != "1" {
		t.Errorf("the claimed topic: got %+v", m)
	}

	if out, errs, code := run(t, []string{"FAIRLEAD_HTTP_ADDR=" + g.addr}, "", "health", "--ready"); code != 0 {
		t.Errorf("health --ready: exit code %d, %s%s", code, out, errs)
	}
	away := launchGateway(t, "nats://127.0.0.1:"+freePort(t))
	if out, errs, code := run(t, []string{"FAIRLEAD_HTTP_ADDR=" + away.addr}, "", "health"); code != 0 {
		t.Errorf("health without NATS: exit code %d, %s%s; it lives", code, out, errs)
	}
	if out, errs, code := run(t, []string{"FAIRLEAD_HTTP_ADDR=" + away.addr}, "", "health", "--ready"); code != 1 || !strings.Contains(errs, "503") {
		t.Errorf("health --ready without NATS: exit code %d, %s%s; want 1 and 503", code, out, errs)
	}

	out, _, code = run(t, nil, "", "version")
	if code != 0 || !strings.HasPrefix(out, "fairlead ") {
		t.Errorf("version: exit code %d, %s", code, out)
	}
	out, _, code = run(t, nil, "", "version", "--json")
	var build struct{ Version, Go string }
	if err := json.Unmarshal([]byte(out), &build); code != 0 || err != nil || build.Version == "" || build.Go == "" {
		t.Errorf("version --json: exit code %d, %s", code, out)
	}
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"rules", "apply", "--help"}} {
		if out, errs, code := run(t, nil, "", args...); code != 0 || !strings.Contains(out, "Usage: fairlead") || errs != "" {
			t.Errorf("%q: exit code %d, %s%s", args, code, out, errs)
		}
	}
}

const closedRules = `
topics:
  - {name: vault, match: "vault.>", subscribe: none, publish: none}
  - {match: ">", subscribe: user, publish: user}
tests:
  - {as: {user: bob}, publish: chat.lobby, expect: allow}
  - {as: {user: bob}, subscribe: vault.a, expect: deny}
`

func TestRulesCheckAndExplain(t *testing.T) {
	t.Parallel()
	good := rulesFile(t, closedRules)
	if out, errs, code := run(t, nil, "", "rules", "check", good); code != 0 || !strings.Contains(out, "2 topic") || !strings.Contains(out, "2 tests passed") {
		t.Errorf("check: exit code %d, %s%s", code, out, errs)
	}
	failing := rulesFile(t, strings.Replace(closedRules, "expect: deny", "expect: allow", 1))
	if _, errs, code := run(t, nil, "", "rules", "check", failing); code != 1 || !strings.Contains(errs, failing+":7:") {
		t.Errorf("a failing test: exit code %d, %s; want 1 and its line", code, errs)
	}
	bad := rulesFile(t, strings.Replace(closedRules, "publish: none", "publish: nobody", 1))
	if _, errs, code := run(t, nil, "", "rules", "check", bad); code != 2 || !strings.Contains(errs, bad+":3:") || !strings.Contains(errs, "nobody") {
		t.Errorf("a bad file: exit code %d, %s; want 2 and its line", code, errs)
	}
	out, errs, code := run(t, nil, "", "rules", "explain", "vault.a", good, "--as", "bob")
	if code != 0 || !strings.Contains(out, "rule vault") || !strings.Contains(out, good+":3") || !strings.Contains(out, "denied") {
		t.Errorf("explain: exit code %d, %s%s; want the rule, its line and that it denies", code, out, errs)
	}
}

// Rules that are applied count on every gateway within a second.
func TestAppliedRulesCountOnEveryGatewayWithinASecond(t *testing.T) {
	t.Parallel()
	s := newStack(t, 2)
	conns := []*client.Client{s.as(0, "ann"), s.as(1, "bob")}
	for _, c := range conns {
		publish(t, c, "vault.before", `1`)
	}
	out, errs, code := run(t, []string{"FAIRLEAD_NATS_URL=" + s.nats}, "", "rules", "apply", rulesFile(t, closedRules))
	applied := time.Now()
	if code != 0 || !strings.Contains(out, "new digest") {
		t.Fatalf("apply: exit code %d, %s%s", code, out, errs)
	}
	for i, g := range s.gateways {
		g.line(g.stderr, `"rules changed"`)
		if late := time.Since(applied); late > time.Second {
			t.Errorf("gateway %d followed after %s, want within 1s", i, late)
		}
		_, err := conns[i].Publish(within(t), "vault.after", "", nil, client.PublishOptions{})
		if got := errorText(err); !strings.HasPrefix(got, "PERMISSION_DENIED") {
			t.Errorf("gateway %d: got %s (%v), want PERMISSION_DENIED", i, got, err)
		}
	}
	if out, _, code := run(t, []string{"FAIRLEAD_NATS_URL=" + s.nats}, "", "rules", "explain", "vault.a", "--as", "bob"); code != 0 || !strings.Contains(out, "fl_config") {
		t.Errorf("explain the rules in force: exit code %d, %s", code, out)
	}
	late := startGateway(t, s.nats) // without a file: what the bucket holds
	_, err := dial(t, late.ws(), client.Options{Token: token("cid", nil)}).Subscribe(within(t), "vault.a", client.SubscribeOptions{})
	if got := errorText(err); !strings.HasPrefix(got, "PERMISSION_DENIED") {
		t.Errorf("a gateway that starts later: got %s, want PERMISSION_DENIED", got)
	}
	if out, _, code := run(t, []string{"FAIRLEAD_NATS_URL=" + s.nats}, "", "rules", "apply", filepath.Join(os.TempDir(), "no such file.yaml")); code != 2 {
		t.Errorf("apply of no file: exit code %d, %s; want 2", code, out)
	}
}

// What dev prints works as it stands.
func TestWhatDevPrintsWorks(t *testing.T) {
	t.Parallel()
	g, natsURL := startDev(t)
	g.line(g.stdout, "nats -s")
	text := g.stdout.String()
	var jwt, ws, page string
	for line := range strings.Lines(text) {
		switch words := strings.Fields(line); {
		case len(words) == 1 && strings.HasPrefix(words[0], "ey"):
			jwt = words[0]
		case len(words) == 2 && words[0] == "gateway":
			ws = words[1]
		case len(words) == 2 && words[0] == "demo":
			page = words[1]
		}
	}
	ann := dial(t, ws, client.Options{Token: jwt})
	if got := ann.Welcome().User; got != "ann" {
		t.Errorf("the printed token is of %q, want ann", got)
	}
	if status, body := get(t, page); status != http.StatusOK || !strings.Contains(body, "Fairlead") {
		t.Errorf("the demo page: %d %.100s", status, body)
	}
	room := subscribe(t, ann, "chat.lobby")
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) > 4 && strings.HasSuffix(words[2], "fairlead") && words[3] == "pub" {
			args := append(words[3:5], strings.Trim(words[5], "'"))
			if _, errs, code := run(t, nil, "", append(args, words[6:]...)...); code != 0 {
				t.Errorf("%s: exit code %d, %s", line, code, errs)
			}
			m := next(t, room)
			if string(m.Data) != `{"text":"hi"}` || !strings.HasPrefix(m.From, "anon-") {
				t.Errorf("%s: got %s from %s", line, m.Data, m.From)
			}
		}
	}
	if !strings.Contains(text, "nats -s "+natsURL+" pub fl.topic.chat.lobby") {
		t.Errorf("no command for the nats tool in %s", text)
	}
}

// withoutPositions drops the members that say where a replayed message stands.
func withoutPositions(frames string) string {
	return regexp.MustCompile(`,"seq":\d+,"prev":\d+,"ts":\d+`).ReplaceAllString(frames, "")
}
