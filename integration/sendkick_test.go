package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestSendAndKick(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	bobs := strings.ReplaceAll(unique("bob"), ".", "-") // who is revoked for a day
	env := s.onBus(operatorURL())
	says := func(want string, args ...string) {
		t.Helper()
		out, errs, code := run(t, env, "", append(args, "--wait", "1s")...)
		if code != 0 || strings.TrimSpace(out) != want {
			t.Errorf("%v: %q %q, exit code %d; want %q", args, out, errs, code, want)
		}
	}
	ann := []*target{s.target(0, "ann", map[string]any{"role": "admin"}), s.target(1, "ann", map[string]any{"role": "guest"})}
	is := func(c *target, event, data, topic string) {
		t.Helper()
		if m := receive(t, c.inbox); m.Event != event || string(m.Data) != data || m.Topic != topic {
			t.Errorf("got %s %s %q, want %s %s %q", m.Event, m.Data, m.Topic, event, data, topic)
		}
	}
	says("2 connections reached", "send", "ann", "shipped", `{"order":7}`, "--topic", "orders")
	for _, c := range ann {
		is(c, "shipped", `{"order":7}`, "orders")
	}
	says("1 connection reached", "send", "--match", `{"role":"admin"}`, "hello")
	is(ann[0], "hello", "null", "")
	out, errs, code := run(t, env, "", "send", "--conn", ann[1].Welcome().Conn, "hi", "plain words", "--text")
	if code != 0 || out != "" || strings.TrimSpace(errs) != "sent" {
		t.Errorf("send --conn: %q %q, exit code %d", out, errs, code)
	}
	is(ann[1], "hi", `"plain words"`, "")
	says("1 connection reached", "send", "ann", "not.both", "--exclude", ann[0].Welcome().Conn, "--coalesce", "k")
	is(ann[1], "not.both", "null", "")
	says("0 connections reached", "send", "nobody", "hello")

	says("1 connection reached", "kick", "--conn", ann[0].Welcome().Conn, "--code", "4001", "--reason", "go away")
	left(t, ann[0].Client, 4001, "go away")
	says("1 connection reached", "kick", "ann")
	left(t, ann[1].Client, wire.CloseForbidden, "disconnected by an operator")
	old := aged(bobs, 3*time.Second)
	bob := dial(t, s.url(1), client.Options{Token: old})
	says("1 connection reached", "kick", bobs, "--revoke", "--reason", "stolen")
	left(t, bob, wire.CloseForbidden, "")
	banned(t, s.url(0), old)

	for _, args := range [][]string{
		{"send"}, {"send", "ann"}, {"send", "ann", "not an event"}, {"send", "ann", "e", "{"}, {"send", "ann", "e", "1", "2"},
		{"send", "--match", "{}", "e"}, {"send", "--match", `{"a":1}`, "--conn", "c", "e"}, {"send", "ann", "e", "--topic", "a b"},
		{"send", "ann", "e", "--wait", "-1s"}, {"kick"}, {"kick", "ann", "--conn", "c"}, {"kick", "ann", "--code", "1006"},
		{"kick", "ann", "--revoke", "--code", "4001"}, {"kick", "--conn", "c", "--revoke"}, {"kick", "ann", "--wait", "0s"},
	} {
		if out, errs, code := run(t, env, "", args...); code != 2 || errs == "" {
			t.Errorf("%v: %q %q, exit code %d; want 2 and why", args, out, errs, code)
		}
	}
}
