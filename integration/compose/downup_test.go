//go:build compose

package compose

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// downAndUp takes the stack down, without its volumes, and up again: everything
// that was acknowledged is there afterwards. The same clients talk all the time.
func (p *proof) downAndUp() {
	if p.t.Failed() {
		return
	}
	p.t.Helper()
	w := p.workers[0]
	// What is kept though nobody is connected: a member that a worker joined, a
	// group, a message, and a task.
	const stays = `"ttl":"1h"`
	var none struct{}
	topic, group := "chat."+p.run+".kept", "kept-"+p.run
	w.must("fl.svc.presence.join", fmt.Sprintf(`{"topic":%q,"user":"robot",%s}`, topic, stays), &none)
	w.must("fl.svc.presence.group.create", fmt.Sprintf(`{"group":%q,"meta":{"kept":true}}`, group), &none)
	var ack struct{ Seq int64 }
	w.must("fl.topic."+topic, `{"kept":1}`, &ack)
	var task struct{ ID string }
	w.must("fl.svc.tasks.enqueue", fmt.Sprintf(`{"name":"nobody-%s","idempotencyKey":"kept"}`, p.run), &task)

	p.permitted() // the logs go
	costs := bounds{longest: 30 * time.Second, after: 10 * time.Second, halts: true}
	p.undergo(fault{what: "down, and up again", away: true, costs: costs, do: func(s *stack) {
		s.compose("down")
		s.compose("up", "-d", "--wait", "--scale", "gateway=2")
		p.trespass()
	}})

	var list struct{ Users map[string]json.RawMessage }
	w.must("fl.svc.presence.list", fmt.Sprintf(`{"topic":%q}`, topic), &list)
	if _, there := list.Users["robot"]; !there {
		p.t.Errorf("down and up: the member that a worker joined is not there: %v", list.Users)
	}
	var meta struct{ Meta json.RawMessage }
	w.must("fl.svc.presence.group.meta", fmt.Sprintf(`{"group":%q}`, group), &meta)
	if got, want := strings.ReplaceAll(string(meta.Meta), " ", ""), `{"kept":true}`; got != want {
		p.t.Errorf("down and up: the group says %s, want %s", got, want)
	}
	var head struct{ Seq int64 }
	w.must("fl.svc.replay.head", fmt.Sprintf(`{"topic":%q}`, topic), &head)
	if head.Seq != ack.Seq {
		p.t.Errorf("down and up: the last message of %s is at %d, want %d", topic, head.Seq, ack.Seq)
	}
	var after struct{ State string }
	w.must("fl.svc.tasks.get", fmt.Sprintf(`{"id":%q}`, task.ID), &after)
	if !slices.Contains([]string{"pending", "running"}, after.State) {
		p.t.Errorf("down and up: the task that nobody does is %q", after.State)
	}
}

// must is request that has to be answered.
func (w *worker) must(subject, body string, into any) {
	w.c.t.Helper()
	if !w.request(subject, nil, body, into) {
		w.c.t.Fatalf("%s: nobody answers", subject)
	}
}
