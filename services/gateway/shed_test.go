package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
)

// An atomic batch that is shed counts as what it is: all of its messages were
// offered, and none was accepted. Else shedding would end the pressure that it is
// for.
func TestAnAtomicBatchThatIsShedCountsWithAllItsMessages(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), func(c *Config, _ *Deps, _ *rules.Options) { c.PressureEvery = time.Hour },
		withRules(`
topics: [{match: "bg.>", publish: any, class: background, replay: {size: 1000}}]
`))
	p := r.dial()
	p.hello("")
	a := r.g.admission
	const most = 100
	frame := func(atomic bool) string {
		messages := make([]string, most)
		for i := range messages {
			messages[i] = fmt.Sprintf(`{"topic":"bg.%d"}`, i)
		}
		return fmt.Sprintf(`{"op":"batch","id":2,"atomic":%v,"messages":[%s]}`, atomic, strings.Join(messages, ","))
	}
	a.active.Store(uint32(pressures(0).with(rules.PublishRate)))
	for _, atomic := range []bool{true, false} {
		before := a.offered.Load()
		p.send(frame(atomic))
		if got := p.read(); !strings.Contains(got, "PUBLISH_RATE") {
			t.Fatalf("got %s, want it shed", got)
		}
		if n := a.offered.Load() - before; n != most {
			t.Errorf("atomic %v: counts as %d messages, want %d", atomic, n, most)
		}
	}
	meter := a.meter("background")
	if n := meter.rejected[rules.PublishRate].Load(); n != 2*most {
		t.Errorf("%d were shed, want %d", n, 2*most)
	}
	a.active.Store(0)
	if n := meter.accepted.Load(); n != 0 {
		t.Errorf("%d were accepted, want none", n)
	}
	p.send(frame(true))
	p.read()
	if n := meter.accepted.Load(); n != most {
		t.Errorf("without pressure %d were accepted, want %d", n, most)
	}
}

// A gateway that has said that it leaves says nothing any more.
func TestAGatewayThatLeavesStaysAway(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), sharing(time.Millisecond, time.Minute))
	nc := r.bus()
	said := hear(t, nc, "fl.rates")
	r.g.top.stop(r.g.topServed)
	settled(t, r.g.requests)
	settled(t, nc)
	n := r.g.top.shared.Load()
	last := ""
	for range 10_000 {
		msg, err := said.NextMsg(100 * time.Millisecond) // in which it would share 100 times
		if err != nil {
			if !strings.Contains(last, `"leaving":true`) || r.g.top.shared.Load() != n {
				t.Errorf("the last that it said is %s", last)
			}
			return
		}
		if last = string(msg.Data); r.g.top.shared.Load() > n+100 {
			break
		}
	}
	t.Error("it goes on to share")
}
