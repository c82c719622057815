package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const floodRules = `
limits:
  few: {capacity: 3, refill: 1, per: 8760h}
  many: {capacity: 1000000, refill: 1000, per: 1s, failMode: open}
topics:
  - {name: flooded, match: "flooded.>", subscribe: user, publish: user, rate: {publish: few}}
  - {name: calm, match: "calm.>", subscribe: user, publish: user, rate: {publish: many}}
`

// One connection publishes without end what its limit denies, and waits for
// nothing: each of its publishes is answered, what the others publish is
// acknowledged, nobody is closed, and the service hears next to nothing of it.
func TestAFloodOfDeniedPublishesConcernsNobody(t *testing.T) {
	t.Parallel()
	const others, published, flood, window = 4, 60, 2000, 500
	url, rules := natsdev.Test(t).ClientURL(), rulesFile(t, floodRules)
	nc := connect(t, url)
	startLimits(t, url, rules)
	eventually(t, "ratelimit decides", func() (any, bool) {
		_, err := nc.Request("fl.svc.ratelimit.policy", []byte(`{"policy":"few"}`), patience)
		return err, err == nil
	})
	s := stackOn(t, url, 1, "FAIRLEAD_TOPICS_FILE="+rules, "FAIRLEAD_LIMIT_FRAMES_PER_SECOND=0")
	var asked atomic.Int64
	_, err := nc.Subscribe("fl.svc.ratelimit.>", func(m *nats.Msg) {
		if bytes.Contains(m.Data, []byte(`"key":"flooder"`)) {
			asked.Add(1)
		}
	})
	must(t, err)
	flush(t, nc)

	flooder := dial(t, s.url(0), client.Options{Token: token("flooder", nil), Tap: true, Queue: 4 * window})
	underWay := make(chan struct{}, window) // more unread answers would be a slow reader's
	var denied, granted, undecided, wrong atomic.Int64
	var flooding sync.WaitGroup
	enough := make(chan struct{})
	stop := sync.OnceFunc(func() { close(enough); flooding.Wait() })
	t.Cleanup(stop)
	sent := int64(0)
	flooding.Go(func() {
		for {
			select {
			case <-enough:
				return
			case underWay <- struct{}{}:
			}
			if err := flooder.SendFrame(fmt.Appendf(nil, `{"op":"publish","id":%d,"topic":"flooded.a","data":1}`, 1_000_000+sent)); err != nil {
				t.Errorf("the flooder's publish %d: %v", sent, err)
				return
			}
			sent++
		}
	})
	go func() { // until the connection ends
		for f := range flooder.Frames() {
			if f.Kind != wire.KindReply || f.ID < 1_000_000 {
				continue
			}
			<-underWay
			switch {
			case f.Error == nil:
				granted.Add(1)
			case f.Error.Code == wire.ResourceExhausted && f.Error.Details["limit"] == "few":
				denied.Add(1)
			case f.Error.Code == wire.Unavailable: // not in time, on a machine that is busy
				undecided.Add(1)
			default:
				wrong.Add(1)
			}
		}
	}()
	eventually(t, "it floods", func() (any, bool) { n := denied.Load(); return n, n > 100 })
	calm := make([]*client.Client, others)
	many(t, others, func(i int) error {
		var err error
		if calm[i], err = tryDial(t, s.url(0), client.Options{Token: token(fmt.Sprintf("calm%d", i), nil)}); err != nil {
			return err
		}
		for range published {
			if _, err = calm[i].Publish(within(t), "calm.a", "", json.RawMessage(`1`), client.PublishOptions{}); err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
		}
		return nil
	})
	eventually(t, "a flood", func() (any, bool) { n := denied.Load(); return n, n >= flood })
	stop()
	eventually(t, "every publish of the flooder is answered", func() (any, bool) {
		n := denied.Load() + granted.Load() + undecided.Load() + wrong.Load()
		return fmt.Sprintf("%d of %d, closed: %v", n, sent, flooder.CloseError()), n == sent
	})
	if got, may := granted.Load(), undecided.Load(); got > 3 || got < 3-may || wrong.Load() > 0 {
		t.Errorf("%d of its publishes were granted, %d not decided, %d answered otherwise, want 3, 0 and 0", got, may, wrong.Load())
	}
	for _, c := range append(calm, flooder) {
		if err := c.CloseError(); err != nil {
			t.Errorf("closed: %v", err)
		}
	}
	flush(t, nc)
	// 3 grants, a denial, and one more in each 5 s that the flood takes.
	if got := asked.Load(); got > 10+undecided.Load() {
		t.Errorf("the service was asked %d times for the flooder's key, of %d publishes", got, sent)
	}
	t.Logf("%d publishes; the service was asked %d times", sent, asked.Load())
}
