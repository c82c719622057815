package integration

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// All messages of a topic expire while a client is away. If it had seen the
// last one it misses nothing, whichever gateway it comes back to; if it had not
// it is told; and what comes next reaches both.
func TestAPositionOutlivesItsMessage(t *testing.T) {
	t.Parallel()
	const messages = 20
	server := natsdev.Test(t)
	file := rulesFile(t, "topics:\n  - {name: chat, match: \"chat.>\", subscribe: user, publish: user, replay: {size: 100, ttl: 1500ms}}\n")
	startReplay(t, server.ClientURL(), file)
	s := &stack{t: t, nats: server.ClientURL()}
	s.add("FAIRLEAD_TOPICS_FILE=" + file)
	topic := unique("chat.room")
	ann := s.as(0, "ann")
	probe := subscribe(t, ann, topic)
	var at []wire.Position
	say := func() {
		t.Helper()
		publish(t, ann, topic, fmt.Sprint(len(at)))
		m := next(t, probe)
		at = append(at, wire.Position{Seq: m.Seq, Ts: m.Ts})
	}
	for range messages {
		say()
	}
	eventually(t, "everything has expired", func() (any, bool) {
		raw, err := ann.Request(within(t), "history", map[string]any{"topic": topic, "after": 0})
		must(t, err)
		var page struct {
			Messages []json.RawMessage
			Seq      int64
		}
		must(t, json.Unmarshal(raw, &page))
		if want := at[messages-1].Seq; page.Seq != want {
			t.Fatalf("the head is %d, want %d", page.Seq, want)
		}
		return len(page.Messages), len(page.Messages) == 0
	})
	s.add("FAIRLEAD_TOPICS_FILE=" + file) // has nothing of it in memory
	var up, behindAll []*follower
	for i := range s.gateways {
		back := resume(t, s.as(i, "up"), topic, at[messages-1])
		if p := back.Position(); p.Recovered == nil || !*p.Recovered {
			t.Errorf("gateway %d, behind the last message: %+v, want recovered:true", i, p)
		}
		up = append(up, following(t, fmt.Sprintf("up to date on gateway %d", i), back))
		late := resume(t, s.as(i, "late"), topic, at[messages-2])
		if p := late.Position(); p.Recovered == nil || *p.Recovered || p.MissingFrom == nil || *p.MissingFrom != at[messages-2].Seq+1 {
			t.Errorf("gateway %d, behind the last but one: %+v, want recovered:false, missingFrom %d", i, p, at[messages-2].Seq+1)
		}
		behindAll = append(behindAll, following(t, fmt.Sprintf("late on gateway %d", i), late))
	}
	sub, err := s.as(1, "new").Subscribe(within(t), topic, client.SubscribeOptions{Last: 10, Control: true})
	must(t, err)
	up = append(up, following(t, "new", sub))
	for range 5 {
		say()
	}
	for _, f := range up {
		f.whole(messages, messages+5)
	}
	for _, f := range behindAll {
		got := f.until(messages + 4)
		if len(got.cuts) != 1 || got.cuts[0] != 0 || len(got.broken) > 0 {
			t.Errorf("%s: cut at %v, want once before the first message; broken: %v", f.name, got.cuts, got.broken)
		}
		ascending(t, f.name, got.got, messages, messages+5)
	}
}
