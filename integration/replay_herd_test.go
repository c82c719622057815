package integration

import (
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The clients of a gateway that died come back to another one that has never
// heard of their topic: the log is read for the first of them, the others get
// what was read. Each has every message once and in order.
func TestAHerdOfResumesReadsTheLogOnce(t *testing.T) {
	t.Parallel()
	const clients, missed = 200, 50
	server := natsdev.Test(t)
	admin := "127.0.0.1:" + freePort(t)
	file := rulesFile(t, fmt.Sprintf(replayedRules, 10_000))
	startReplay(t, server.ClientURL(), file)
	s := &stack{t: t, nats: server.ClientURL()}
	s.add("FAIRLEAD_TOPICS_FILE="+file, "FAIRLEAD_ADMIN_ADDR="+admin)
	topic := unique("chat.room")
	worker := s.worker()
	tell := func(from, to int) {
		for i := from; i < to; i++ {
			_, err := worker.Request("fl.topic."+topic, []byte(strconv.Itoa(i)), patience)
			must(t, err)
		}
	}
	tell(0, 1)
	raw, err := s.as(0, "first").Request(within(t), "history", map[string]any{"topic": topic, "after": 0})
	must(t, err)
	var page struct {
		Messages []struct{ Seq, Ts int64 }
	}
	must(t, json.Unmarshal(raw, &page))
	position := wire.Position{Seq: page.Messages[0].Seq, Ts: page.Messages[0].Ts}
	tell(1, missed)
	before := metric(t, admin, "fairlead_gateway_history_requests_total")

	all := make([]*client.Client, clients)
	for i := range all {
		all[i] = s.as(0, fmt.Sprint("user", i))
	}
	var herd sync.WaitGroup
	for _, c := range all {
		herd.Go(func() {
			sub, err := c.Subscribe(within(t), topic, client.SubscribeOptions{After: &position.Seq, Ts: position.Ts, Control: true})
			if err != nil {
				t.Error(err)
				return
			}
			at := position
			for i := 1; i < missed; i++ {
				m, err := sub.Next(within(t))
				if err != nil || m.Control != "" || string(m.Data) != strconv.Itoa(i) || m.Prev != at.Seq {
					t.Errorf("got %s %s behind %d (%v), want %d behind %d", m.Control, m.Data, m.Prev, err, i, at.Seq)
					return
				}
				at = wire.Position{Seq: m.Seq, Ts: m.Ts}
			}
		})
	}
	herd.Wait()
	if got := metric(t, admin, "fairlead_gateway_history_requests_total") - before; got > 4 {
		t.Errorf("the log was read %d times for %d clients", got, clients)
	}
}
