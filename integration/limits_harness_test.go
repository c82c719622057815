package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// rated are gateways and a replica of the ratelimit service with the same rules.
type rated struct {
	*stack
	limits *process
	rules  string
	env    []string
}

// ratedStack starts them, and returns when limits are decided.
func ratedStack(t *testing.T, gateways int, rules string, env ...string) *rated {
	t.Helper()
	file := rulesFile(t, rules)
	env = append([]string{"FAIRLEAD_TOPICS_FILE=" + file}, env...)
	r := &rated{stack: &stack{t: t, nats: natsdev.Test(t).ClientURL()}, rules: file, env: env}
	r.startLimits()
	for range gateways {
		r.add(env...)
	}
	return r
}

// startLimits starts the replica and waits until it decides.
func (r *rated) startLimits() {
	r.t.Helper()
	r.limits = startLimits(r.t, r.nats, r.rules)
	nc := connect(r.t, r.nats)
	defer nc.Close()
	eventually(r.t, "limits are decided", func() (any, bool) {
		// What cannot count says so before it looks for the limit.
		m, err := nc.Request("fl.svc.ratelimit.reset", []byte(`{"policy":"none","key":"nobody"}`), time.Second)
		if err != nil {
			return err, false
		}
		return m.Header, m.Header.Get("Nats-Service-Error-Code") == string(wire.NotFound)
	})
}

// admin asks an endpoint of the ratelimit service as an operator does.
func (r *rated) admin(nc *nats.Conn, endpoint, body string) {
	r.t.Helper()
	m, err := nc.Request("fl.svc.ratelimit."+endpoint, []byte(body), patience)
	must(r.t, err)
	if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil {
		r.t.Fatalf("%s %s: %v", endpoint, body, e)
	}
}

// trial is one run of a scenario, with users of its own.
type trial struct {
	t    *testing.T
	r    *rated
	name string

	problems  []string
	undecided int // operations about which nobody decided in time
}

// undisturbed runs a scenario until everything in it was decided. Where the
// service takes more than the 50 ms that an operation waits, as on a machine
// that is busy with other tests, what it takes is not what it grants.
func undisturbed(t *testing.T, r *rated, scenario func(*trial)) {
	t.Helper()
	const most = 10
	for range most {
		try := &trial{t: t, r: r, name: strings.ReplaceAll(unique("u"), ".", "")}
		scenario(try)
		if try.undecided > 0 {
			t.Logf("%d undecided: again", try.undecided)
			continue
		}
		for _, problem := range try.problems {
			t.Error(problem)
		}
		return
	}
	t.Errorf("something was undecided each of %d times", most)
}

// as connects a user of the trial to a gateway.
func (try *trial) as(gateway int, user string) *client.Client {
	return dial(try.t, try.r.url(gateway), client.Options{Token: token(try.user(user), nil)})
}

// user is the id of a user of the trial.
func (try *trial) user(name string) string { return name + "-" + try.name }

func (try *trial) bad(format string, args ...any) {
	try.problems = append(try.problems, fmt.Sprintf(format, args...))
}

// says checks what an operation was answered: code "" is that it was done. It
// returns the refusal.
func (try *trial) says(what string, err error, code wire.Code) *wire.Error {
	e := wire.AsErrorOrNil(err)
	switch {
	case nobodyDecided(err):
		try.undecided++
	case e == nil && code != "":
		try.bad("%s: done, want %s", what, code)
	case e != nil && e.Code != code:
		try.bad("%s: got %v %v, want code %q", what, e, e.Details, code)
	}
	if e == nil {
		return &wire.Error{}
	}
	return e
}

// nobodyDecided reports whether an operation was refused since the service did
// not decide about a limit.
func nobodyDecided(err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Code == wire.Unavailable && e.Details["limit"] != nil
}

// detail checks one of a refusal's details, as JSON.
func (try *trial) detail(what string, e *wire.Error, want string) {
	got := map[string]any{}
	for k, v := range e.Details {
		if k != "op" && k != "topic" {
			got[k] = v
		}
	}
	text, err := json.Marshal(got)
	must(try.t, err)
	if !wire.EqualJSON(text, []byte(want)) && try.undecided == 0 {
		try.bad("%s: details %s, want %s", what, text, want)
	}
}

func (try *trial) publish(c *client.Client, topic string) error {
	_, err := c.Publish(within(try.t), topic, "", 1, client.PublishOptions{})
	return err
}

// batch publishes one message to each topic, in one frame.
func (try *trial) batch(c *client.Client, atomic bool, topics ...string) ([]client.BatchResult, error) {
	messages := make([]client.BatchMessage, len(topics))
	for i, topic := range topics {
		messages[i] = client.BatchMessage{Topic: topic, Data: i}
	}
	return c.PublishBatch(within(try.t), messages, client.BatchOptions{Atomic: atomic})
}

// upTo reports whether a wait is there and not longer than d.
func upTo(wait, d time.Duration) bool { return wait > 0 && wait <= d }
