package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// A client that does not keep up with progress misses some of it. It stays
// connected, and the answers come: they are what it waits for.
func TestProgressToASlowReaderGivesWayToAnswers(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), narrow(t, 64<<10))
	nc := r.bus()
	pad := strings.Repeat("x", floodPad)
	dropped := func() bool { return r.g.outbox.Stats().DroppedOldest > 10 }
	total := make(chan int, 1)
	serveCalls(t, nc, "long", func(msg *nats.Msg) {
		sent := 0
		for ; sent < 20_000 && !dropped(); sent++ {
			data, err := json.Marshal(map[string]any{"n": sent, "pad": pad})
			if err != nil {
				t.Error(err)
			}
			answer(t, msg, string(data), nats.Header{"Fl-Progress": {"1"}})
			if sent%64 == 63 { // as fast as the gateway takes it
				if err := nc.Flush(); err != nil {
					t.Error(err)
				}
			}
		}
		total <- sent
		answer(t, msg, `"done"`, nil)
	})
	serveCalls(t, nc, "fails", func(msg *nats.Msg) {
		answer(t, msg, ``, nats.Header{"Nats-Service-Error-Code": {"NOT_FOUND"}})
	})
	p := r.dial(narrowly)
	p.hello("")
	p.send(`{"op":"call","id":5,"method":"long","timeoutMs":60000}`)
	eventually(t, "progress is dropped", dropped)
	p.send(`{"op":"call","id":6,"method":"fails"}`)
	eventually(t, "both calls are over", func() bool { return r.g.calls.size() == 0 })

	last, came, ended := -1, 0, map[int64]string{}
	for len(ended) < 2 {
		var f struct {
			ID       int64
			Progress *struct{ N int }
			OK       json.RawMessage
			Error    *struct{ Code string }
		}
		if err := json.Unmarshal([]byte(p.read()), &f); err != nil {
			t.Fatal(err)
		}
		switch {
		case f.Error != nil:
			ended[f.ID] = f.Error.Code
		case f.Progress == nil:
			ended[f.ID] = string(f.OK)
		case ended[5] != "" || f.Progress.N <= last:
			t.Fatalf("progress %d came behind %d, the answer was %q", f.Progress.N, last, ended[5])
		default:
			last = f.Progress.N
			came++
		}
	}
	if ended[5] != `"done"` || ended[6] != "NOT_FOUND" {
		t.Errorf("the calls ended with %v", ended)
	}
	if sent := <-total; came == 0 || came >= sent {
		t.Errorf("%d of %d progress frames came, want some and not all", came, sent)
	}
}
