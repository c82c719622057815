package integration

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const topRules = `
topics:
  - {match: "hot.>", subscribe: user, publish: user, class: loud}
  - {match: ">", subscribe: user, publish: user}
admission:
  classes: {loud: {clusterTopPublisher: {threshold: 250}}}
`

// publishSteadily publishes a topic at a rate until the test ends: what is late is
// made up for.
func publishSteadily(t *testing.T, c *client.Client, topic string, perSecond int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	frame := []byte(`{"op":"publish","topic":"` + topic + `","data":"0123456789"}`)
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		began := time.Now()
		for sent := 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for ; float64(sent) < time.Since(began).Seconds()*float64(perSecond); sent++ {
				if c.SendFrame(frame) != nil {
					return // its gateway was killed
				}
			}
		}
	}()
}

// What the clients of all gateways publish to a topic is the same number on every
// gateway, without the part of one that is gone; a class may shed what is too
// much of it.
func TestRatesOfTopicsAreOfAllGateways(t *testing.T) {
	t.Parallel()
	const each = 200
	s := newStack(t, 3, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, topRules))
	nc := s.worker()
	const topic, hot = "steady.a", "hot.a"
	subscribe(t, s.as(0, "reader"), topic)
	subscribe(t, s.as(1, "reader"), topic)
	for i := range 3 {
		publishSteadily(t, s.as(i, "writer"), topic, each)
		publishSteadily(t, s.as(i, "shouter"), hot, each/2) // more than the bound together, not alone
	}
	// all asks until every one of many answers is near a rate. Whichever gateway
	// is asked, they are the same.
	all := func(want float64, gateways int) {
		t.Helper()
		eventually(t, "every gateway says the same", func() (any, bool) {
			first := askGateway[wire.TopicRate](t, nc, "rate", `{"topic":"`+topic+`"}`)
			if math.Abs(first.Messages-want) > want/20 || math.Abs(first.Bytes-12*want) > 12*want/20 || first.Subscribers != 2 {
				return first, false
			}
			for range 20 {
				if r := askGateway[wire.TopicRate](t, nc, "rate", `{"topic":"`+topic+`"}`); r != first {
					return []any{first, r}, false
				}
			}
			return first, askGateway[wire.Top](t, nc, "top", `{}`).Gateways == gateways
		})
	}
	all(3*each, 3)
	if got := askGateway[wire.TopicSubscribers](t, nc, "subscribers", `{"topic":"`+topic+`"}`); got.Topic != topic || got.Subscribers != 2 {
		t.Errorf("got %+v, want 2 subscribers of %s", got, topic)
	}
	if got := askGateway[wire.TopicRate](t, nc, "rate", `{"topic":"unknown"}`); got != (wire.TopicRate{Topic: "unknown"}) {
		t.Errorf("got %+v of a topic that nobody knows, want zeros", got)
	}
	if msg, err := nc.Request("fl.svc.gateway.top", []byte(`{"limit":101}`), patience); err != nil || msg.Header.Get("Nats-Service-Error-Code") != "INVALID_ARGUMENT" {
		t.Errorf("got %v, %v for a limit of 101, want INVALID_ARGUMENT", msg, err)
	}
	if top := askGateway[wire.Top](t, nc, "top", `{"limit":1}`); len(top.Topics) != 1 || top.Topics[0].Topic != topic {
		t.Errorf("got %+v, want %s at the top", top, topic)
	}

	out, stderr, code := run(t, []string{"FAIRLEAD_NATS_URL=" + s.nats}, "", "top", "--once", "--limit", "2")
	lines := strings.Split(out, "\n")
	if code != 0 || len(lines) < 4 || !strings.HasPrefix(lines[0], "topic ") || !strings.HasPrefix(lines[1], topic) || !strings.HasPrefix(lines[2], hot) {
		t.Errorf("fairlead top: %d\n%s%s", code, out, stderr)
	}
	out, stderr, code = run(t, []string{"FAIRLEAD_NATS_URL=" + s.nats}, "", "top", "--json")
	var top wire.Top
	if err := json.Unmarshal([]byte(out), &top); code != 0 || err != nil || len(top.Topics) < 2 {
		t.Errorf("fairlead top --json: %d %v\n%s%s", code, err, out, stderr)
	}

	for i := range 3 {
		c := s.as(i, "ann")
		var shed *wire.Error
		eventually(t, "the topic that is published to too fast is shed", func() (any, bool) {
			_, err := c.Publish(within(t), hot, "", 1, client.PublishOptions{})
			return err, errors.As(err, &shed)
		})
		wasShed(t, shed, "loud", "CLUSTER_TOP_PUBLISHER")
		_, err := c.Publish(within(t), "hot.quiet", "", 1, client.PublishOptions{})
		must(t, err)
	}

	s.gateways[2].kill()
	all(2*each, 2)
}

// askGateway asks any gateway: again, where the one that NATS chose was killed.
func askGateway[Reply any](t *testing.T, nc *nats.Conn, endpoint, body string) (r Reply) {
	t.Helper()
	var msg *nats.Msg
	eventually(t, "a gateway answers", func() (any, bool) {
		var err error
		msg, err = nc.Request("fl.svc.gateway."+endpoint, []byte(body), time.Second)
		return err, err == nil
	})
	if code := msg.Header.Get("Nats-Service-Error-Code"); code != "" {
		t.Fatalf("%s %s: %s %s", endpoint, body, code, msg.Header.Get("Nats-Service-Error"))
	}
	must(t, json.Unmarshal(msg.Data, &r))
	return r
}
