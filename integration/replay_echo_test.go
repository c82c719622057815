package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

// What is withheld from a connection, its own messages without echo and what a
// worker excludes it from, looks like a hole to nobody: the history is never
// asked for.
func TestWithheldMessagesAskForNoHistory(t *testing.T) {
	t.Parallel()
	const rounds = 60
	server := natsdev.Test(t)
	admin := "127.0.0.1:" + freePort(t)
	file := rulesFile(t, fmt.Sprintf(replayedRules, 10_000))
	startReplay(t, server.ClientURL(), file)
	s := &stack{t: t, nats: server.ClientURL()}
	s.add("FAIRLEAD_TOPICS_FILE="+file, "FAIRLEAD_ADMIN_ADDR="+admin)
	tap := tapReplay(t, s.worker())

	topic := unique("chat.room")
	ann, bob := s.as(0, "ann"), s.as(0, "bob")
	atAnn, err := ann.Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	atBob, err := bob.Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	annHears, bobHears := following(t, "ann", atAnn), following(t, "bob", atBob)
	worker := s.worker()
	all := 0
	var wantAnn []int
	for round := range rounds {
		for range 1 + round%4 { // some of them in a row
			_, err := ann.Publish(within(t), topic, "", all, client.PublishOptions{NoEcho: true})
			must(t, err)
			all++
		}
		excluded := nats.NewMsg("fl.topic." + topic)
		excluded.Header.Set("Fl-Exclude", ann.Welcome().Conn)
		excluded.Data = fmt.Append(nil, all)
		_, err := worker.RequestMsg(excluded, patience)
		must(t, err)
		all++
		publish(t, bob, topic, fmt.Sprint(all))
		wantAnn = append(wantAnn, all)
		all++
	}
	bobHears.whole(0, all)
	got := annHears.until(all - 1)
	if len(got.cuts) > 0 || len(got.broken) > 0 {
		t.Errorf("ann: cut at %v, broken: %v", got.cuts, got.broken)
	}
	if got, want := fmt.Sprint(got.got), fmt.Sprint(wantAnn); got != want {
		t.Errorf("ann got %s, want %s", got, want)
	}
	if got := tap.asked("since", "gap"); got != "" {
		t.Errorf("the replay service was asked: %s", got)
	}
	for _, name := range []string{"history_requests_total", "topic_repairs_total", "truncations_reported_total"} {
		if got := metric(t, admin, "fairlead_gateway_"+name); got != 0 {
			t.Errorf("%s: got %d, want 0", name, got)
		}
	}
	// The same metric and tap do see one who asks.
	_, err = ann.Request(within(t), "history", map[string]any{"topic": topic, "after": 0})
	must(t, err)
	if got := tap.asked("since", "gap"); !strings.HasPrefix(got, "since ") {
		t.Errorf("a history request is not seen: %q", got)
	}
	if got := metric(t, admin, "fairlead_gateway_history_requests_total"); got != 1 {
		t.Errorf("history_requests_total after one: got %d", got)
	}
}

// tap notes what the replay service is asked.
type tap struct {
	t  *testing.T
	nc *nats.Conn

	mu  sync.Mutex
	all []string
}

func tapReplay(t *testing.T, nc *nats.Conn) *tap {
	t.Helper()
	p := &tap{t: t, nc: nc}
	_, err := nc.Subscribe("fl.svc.replay.*", func(m *nats.Msg) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all = append(p.all, strings.TrimPrefix(m.Subject, "fl.svc.replay.")+" "+string(m.Data))
	})
	must(t, err)
	flush(t, nc)
	return p
}

// asked returns what was asked of some endpoints, one a line.
func (p *tap) asked(endpoints ...string) string {
	p.t.Helper()
	flush(p.t, p.nc)
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []string
	for _, q := range p.all {
		for _, e := range endpoints {
			if strings.HasPrefix(q, e+" ") {
				found = append(found, q)
			}
		}
	}
	return strings.Join(found, "\n")
}
