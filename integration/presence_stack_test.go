package integration

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// presenceRules give topics below room a short leave delay, those below long a
// longer one, those below now none, and those below full two seats.
const presenceRules = `
topics:
  - {name: room, match: "room.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 1s}}
  - {name: long, match: "long.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 6s}}
  - {name: now, match: "now.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 0s}}
  - {name: full, match: "full.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 0s, maxMembers: 2}}
  - {name: huge, match: "huge.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 0s, maxDiffMembers: 10}}
  - {name: plain, match: ">", subscribe: user, publish: user}
groups:
  - {match: ">", join: user, maxMembers: 10, roles: [member, admin, viewer], meta: [admin]}
`

// testLease is the gateways' in these tests: long enough for a busy machine.
const testLease = 2 * time.Second

// startPresence starts a replica of the presence service and waits until it
// answers.
func startPresence(t *testing.T, natsURL string, env ...string) *process {
	t.Helper()
	env = append([]string{"FAIRLEAD_NATS_URL=" + natsURL, "FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_LOG_FORMAT=json"}, env...)
	p := start(t, "presence", env, "run", "presence")
	nc := connect(t, natsURL)
	// Every replica answers discovery; this one is known by its count.
	eventually(t, "the presence service answers", func() (any, bool) {
		reply, err := nc.Request("fl.svc.presence.online", []byte(`{"users":["nobody"]}`), time.Second)
		if err != nil {
			return err, false
		}
		return string(reply.Data), reply.Header.Get("Nats-Service-Error-Code") == ""
	})
	return p
}

// presenceStack starts NATS, replicas of the presence service and gateways with
// a short lease.
func presenceStack(t *testing.T, gateways, replicas int, env ...string) (*stack, []*process) {
	t.Helper()
	return presenceStackOn(t, natsdev.Test(t).ClientURL(), gateways, replicas, env...)
}

func presenceStackOn(t *testing.T, natsURL string, gateways, replicas int, env ...string) (*stack, []*process) {
	t.Helper()
	rules := rulesFile(t, presenceRules)
	env = append([]string{"FAIRLEAD_TOPICS_FILE=" + rules, "FAIRLEAD_GATEWAY_LEASE=" + testLease.String()}, env...)
	s := &stack{t: t, nats: natsURL}
	var services []*process
	for range replicas {
		services = append(services, startPresence(t, natsURL, env...))
	}
	for range gateways {
		s.add(env...)
	}
	return s, services
}

// observer is a client that sees who is on a topic.
type observer struct {
	t *testing.T
	*client.Client
	view *client.Presence
	sub  *client.Subscription
}

// watching subscribes with presence watch; an empty user joins nothing.
func watching(t *testing.T, c *client.Client, topic string) *observer {
	t.Helper()
	return attending(t, c, topic, client.SubscribeOptions{Presence: "watch"})
}

// joining subscribes with presence join.
func joining(t *testing.T, c *client.Client, topic, data string) *observer {
	t.Helper()
	o := client.SubscribeOptions{Presence: "join"}
	if data != "" {
		o.Data = json.RawMessage(data)
	}
	return attending(t, c, topic, o)
}

func attending(t *testing.T, c *client.Client, topic string, o client.SubscribeOptions) *observer {
	t.Helper()
	view := client.NewPresence()
	o.OnPresence = view.Apply
	sub, err := c.Subscribe(within(t), topic, o)
	if err != nil {
		t.Fatalf("subscribe to the presence of %s: %v", topic, err)
	}
	return &observer{t: t, Client: c, view: view, sub: sub}
}

// sees waits until the observer sees exactly these users.
func (o *observer) sees(users ...string) client.Members {
	o.t.Helper()
	return o.until(fmt.Sprintf("exactly %v", users), func(m client.Members) bool {
		return m.Rev > 0 && len(m.Users) == len(users) && m.Has(users...)
	})
}

// until waits until the view is as ok says.
func (o *observer) until(what string, ok func(client.Members) bool) client.Members {
	o.t.Helper()
	if err := o.view.Wait(within(o.t), ok); err != nil {
		o.t.Fatalf("waiting for %s: %v; there are %v", what, err, o.view.Now().Names())
	}
	if err := o.view.Err(); err != nil {
		o.t.Fatalf("the frames contradict one another: %v", err)
	}
	return o.view.Now()
}

// says waits until a user's data is what it should be.
func (o *observer) says(user, data string) {
	o.t.Helper()
	o.until(user+" with "+data, func(m client.Members) bool { return wire.EqualJSON(m.Users[user].Data, []byte(data)) })
}

// svc asks an endpoint of the presence service as a worker does.
func svc(t *testing.T, nc *nats.Conn, endpoint, body string) (reply string, code string) {
	t.Helper()
	msg, err := nc.Request("fl.svc.presence."+endpoint, []byte(body), patience)
	if err != nil {
		t.Fatalf("%s %s: %v", endpoint, body, err)
	}
	return string(msg.Data), msg.Header.Get("Nats-Service-Error-Code")
}
