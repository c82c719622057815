package integration

import (
	"context"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// `fairlead ask` prints the answer, and fails with the error that came.
func TestAskOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 1)
	nc := s.worker()
	phone := s.as(0, "ann smith")
	echo(phone, "phone")
	has(t, nc, "ann smith", phone.Welcome().Conn)
	desk := s.as(1, "ann smith")
	echo(desk, "desk")
	has(t, nc, "ann smith", desk.Welcome().Conn, phone.Welcome().Conn)
	desk.Serve("deny", func(context.Context, client.Request) (any, error) {
		return nil, wire.Errorf(wire.PermissionDenied, "not with me")
	})
	silent := newGuest(t, s.url(0), "silent", "g")
	for _, c := range []struct {
		args, stdin string
		out, errs   string
		code        int
	}{
		{`ask|ann smith|confirm|{"n": 1}`, "", `{"from":"desk","asked":{"n": 1}}` + "\n", "", 0},
		{`ask|ann smith|confirm|-|--conn|` + phone.Welcome().Conn, "[2]\n", `{"from":"phone","asked":[2]}` + "\n", "", 0},
		{`ask|ann smith|confirm|hi "you"|--text|--conn|` + desk.Welcome().Conn, "", `{"from":"desk","asked":"hi \"you\""}` + "\n", "", 0},
		{`ask|ann smith|deny|--conn|` + desk.Welcome().Conn, "", "", "PERMISSION_DENIED: not with me", 1},
		{`ask|nobody|confirm`, "", "", "NOT_FOUND", 1},
		{`ask|silent|confirm|--timeout|300ms`, "", "", "DEADLINE_EXCEEDED: the client did not answer", 1},
		{`ask|ann smith|confirm|no JSON`, "", "", "--text", 2},
		{`ask|ann smith|a b`, "", "", "event", 2},
		{`ask|ann|confirm|1|--timeout|2m`, "", "", "--timeout", 2},
		{`ask|ann`, "", "", "<event>", 2},
	} {
		out, errs, code := run(t, s.onBus(s.nats), c.stdin, strings.Split(c.args, "|")...)
		if out != c.out && c.errs == "" || !strings.Contains(errs+out, c.errs) || code != c.code {
			t.Errorf("fairlead %s: exit code %d\n%s%swant %d, %s%s", c.args, code, out, errs, c.code, c.out, c.errs)
		}
	}
	if f := silent.next(); string(f.Raw) == "" || f.Event != "confirm" {
		t.Errorf("asked %s", f.Raw)
	}
	alone := natsdev.Test(t).ClientURL()
	if out, errs, code := run(t, []string{"FAIRLEAD_NATS_URL=" + alone}, "", "ask", "ann", "confirm"); code != 1 || !strings.Contains(errs, "presence") {
		t.Errorf("without the service: exit code %d, %s%s", code, out, errs)
	}
}
