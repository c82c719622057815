package gateway

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// sharing makes a gateway share its rates more often than it would.
func sharing(every, life time.Duration) option {
	return func(c *Config, _ *Deps, _ *rules.Options) { c.RatesEvery, c.RatesLife = every, life }
}

// A gateway sums up what all say of themselves: of one that leaves until then, of
// one that is silent for a while. What it hears of itself, and what no gateway
// says, changes nothing.
func TestGatewaysShareWhatIsPublishedOnThem(t *testing.T) {
	server := natsdev.Test(t)
	a := startGateway(t, server, sharing(100*time.Millisecond, time.Second))
	b := startGateway(t, server, sharing(100*time.Millisecond, time.Second))
	nc := a.bus()
	p, q := a.dial(), b.dial()
	p.hello("")
	q.hello("")
	q.send(`{"op":"subscribe","id":2,"topic":"x.y"}`)
	q.read()
	both := func(what string, ok func(r wire.TopicRate, gateways int) bool) {
		t.Helper()
		eventually(t, what, func() bool {
			one, two := a.g.top.rates(), b.g.top.rates()
			return one.of("x.y") == two.of("x.y") && ok(one.of("x.y"), one.gateways) && two.gateways == one.gateways
		})
	}
	eventually(t, "both count what is published on either", func() bool {
		p.send(`{"op":"publish","topic":"x.y","data":1}`)
		q.send(`{"op":"publish","topic":"x.y","data":1}`)
		one, two := a.g.top.rates(), b.g.top.rates()
		return one.of("x.y").Messages > 0 && one.of("x.y") == two.of("x.y") && one.of("x.y").Subscribers == 1 && one.gateways == 2
	})
	both("nobody publishes any more", func(r wire.TopicRate, n int) bool { return r.Messages == 0 && r.Subscribers == 1 && n == 2 })
	if a.g.top.echoes.Load() == 0 || a.g.top.malformed.Load() != 0 {
		t.Errorf("got %d echoes and %d that are malformed, want some and none", a.g.top.echoes.Load(), a.g.top.malformed.Load())
	}

	say := func(r wire.TopicRates) {
		t.Helper()
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Publish("fl.rates", data); err != nil {
			t.Fatal(err)
		}
	}
	other := []wire.TopicRate{rate("x.y", 1000, 5000, 3)}
	say(wire.TopicRates{Gateway: "other", Topics: other})
	both("another gateway counts", func(r wire.TopicRate, n int) bool { return r == rate("x.y", 1000, 5000, 4) && n == 3 })
	both("until it is silent for too long", func(r wire.TopicRate, n int) bool { return r == rate("x.y", 0, 0, 1) && n == 2 })
	say(wire.TopicRates{Gateway: "other", Topics: other})
	both("it counts again", func(r wire.TopicRate, n int) bool { return r.Messages == 1000 && n == 3 })
	say(wire.TopicRates{Gateway: "other", Leaving: true})
	both("and leaves", func(r wire.TopicRate, n int) bool { return r.Messages == 0 && n == 2 })

	say(wire.TopicRates{Gateway: a.g.id, Topics: other}) // a believes itself alone
	for _, bad := range []string{``, `no JSON`, `{"gateway":"g","topics":[{"topic":"x.>"}]}`, `{"gateway":"","topics":[]}`, `{"gateway":"g","topics":[{"topic":"x.y","messagesPerSec":-1}]}`} {
		if err := nc.Publish("fl.rates", []byte(bad)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "what is malformed is counted", func() bool { return a.g.top.malformed.Load() == 5 && b.g.top.malformed.Load() == 5 })
	if r := a.g.top.rates(); r.of("x.y").Messages != 0 || r.gateways != 2 {
		t.Errorf("got %+v of %d gateways, want nothing of what it heard of itself", r.of("x.y"), r.gateways)
	}

	b.end()
	eventually(t, "a gateway that stops counts no more", func() bool { r := a.g.top.rates(); return r.gateways == 1 && r.of("x.y").Subscribers == 0 })
}

// A message that is shed takes no part in anything; all are counted by class.
func TestShedMessagesAreCountedByClassAndReason(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), sharing(time.Hour, time.Hour), withRules(`
topics:
  - {name: kept, match: "kept.>", publish: any, replay: {size: 10, ttl: 1m}, class: background}
  - {match: "bg.>", publish: any, class: background}
  - {match: "top.>", publish: any, class: top}
  - {match: ">", publish: any}
admission:
  classes: {top: {clusterTopPublisher: {threshold: 100}}}
`))
	p := r.dial()
	p.hello("")
	shed := func(frame, class, reason string) {
		t.Helper()
		p.send(frame)
		if got := p.expectError(2, "UNAVAILABLE"); got["class"] != class || got["reason"] != reason || got["outcome"] != "none" {
			t.Errorf("%s: got %v, want class %s and reason %s", frame, got, class, reason)
		}
	}
	r.g.admission.active.Store(uint32(pressures(0).with(rules.Subscribers).with(rules.PublishRate)))
	shed(`{"op":"publish","id":2,"topic":"bg.a","data":1}`, "background", "PUBLISH_RATE") // of two, the one that comes first
	shed(`{"op":"batch","id":2,"atomic":true,"messages":[{"topic":"kept.a","data":1},{"topic":"kept.b","data":2}]}`, "background", "PUBLISH_RATE")
	r.g.admission.active.Store(uint32(pressures(0).with(rules.Subscribers)))
	shed(`{"op":"publish","id":2,"topic":"bg.a","data":1}`, "background", "SUBSCRIBERS")
	p.send(`{"op":"publish","id":3,"topic":"normal","data":1}`)
	p.expect(`{"id":3,"ok":{}}`)

	say := func(n float64) {
		r.g.top.hear(fmt.Appendf(nil, `{"gateway":"other","topics":[{"topic":"top.a","messagesPerSec":%v}]}`, n), time.Now())
		eventually(t, "the rate is known", func() bool { return r.g.top.rates().of("top.a").Messages == n })
	}
	say(99.9)
	p.send(`{"op":"publish","id":3,"topic":"top.a","data":1}`)
	p.expect(`{"id":3,"ok":{}}`)
	say(100)
	shed(`{"op":"publish","id":2,"topic":"top.a","data":1}`, "top", "CLUSTER_TOP_PUBLISHER")
	p.send(`{"op":"publish","id":3,"topic":"top.b","data":1}`)
	p.expect(`{"id":3,"ok":{}}`)

	type counts struct{ accepted, rate, subscribers, top int64 }
	for class, want := range map[string]counts{"background": {0, 3, 1, 0}, "normal": {accepted: 1}, "top": {2, 0, 0, 1}} {
		m := r.g.admission.meter(class)
		got := counts{m.accepted.Load(), m.rejected[rules.PublishRate].Load(), m.rejected[rules.Subscribers].Load(), m.rejected[len(everyPressure)].Load()}
		if got != want {
			t.Errorf("class %s: got %+v, want %+v", class, got, want)
		}
	}
	// What was shed counts for what it was shed for: 4 by pressure, 4 of topics.
	if n := r.g.admission.offered.Load(); n != 8 {
		t.Errorf("got %d messages that clients wanted to publish, want 8", n)
	}
	if n := r.g.top.counts.of("top.a").messages.Load(); n != 2 {
		t.Errorf("got %d messages of the topic that is too fast, want 2: one was shed", n)
	}
	if n := r.g.top.counts.of("bg.a").messages.Load(); n != 0 {
		t.Errorf("got %d messages of a topic that was shed, want none", n)
	}
	for i := range 2 * classMost {
		r.g.admission.meter(fmt.Sprint("class", i)).accepted.Add(1)
	}
	if n := len(*r.g.admission.classes.Load()); n != classMost+1 || r.g.admission.meter("one more") != r.g.admission.meter(otherClass) {
		t.Errorf("got %d classes in the metrics, want %d and the others together", n, classMost)
	}
}
