package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

const givenRules = `
limits:
  each: {capacity: 2, refill: 1, per: 1h, key: given}
  own: {capacity: 1000000, refill: 1, per: 1h}
topics: [{match: "many.>", rate: {publish: each}}, {match: ">", rate: {publish: own}}]
`

// One client's batches take from more buckets than the service decides about in
// time. What another one publishes meanwhile is decided, and nobody hears that
// the service is away.
func TestABatchOfManyBucketsLeavesOthersTheirLimits(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(givenRules))
	nc := r.bus()
	// 2,000 buckets a second is what this service manages, whoever asks.
	const each = 500 * time.Microsecond
	if _, err := nc.Subscribe("fl.svc.ratelimit.consume", func(msg *nats.Msg) {
		var req wire.LimitRequest
		if err := json.Unmarshal(msg.Data, &req); err != nil {
			t.Errorf("asked %s: %v", msg.Data, err)
			return
		}
		reply := wire.LimitReply{Batch: make([]wire.LimitVerdict, len(req.Batch))}
		for i := range reply.Batch {
			reply.Batch[i] = wire.LimitVerdict{Allowed: true, Granted: max(req.Batch[i].N, 1), Limit: 2}
		}
		data, err := json.Marshal(reply)
		if err != nil {
			t.Error(err)
		}
		time.AfterFunc(time.Duration(len(req.Batch))*each, func() {
			_ = msg.Respond(data) // the test may be over
		})
	}); err != nil {
		t.Fatal(err)
	}
	broken := hear(t, nc, "fl.event.breaker.>")
	p, q := r.dial(), r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	q.hello(token(t, auth.Claims{User: "bob"}))
	const rounds = 10
	done := make(chan struct{})
	go func() {
		defer close(done)
		for round := range rounds {
			var b strings.Builder
			fmt.Fprintf(&b, `{"op":"batch","id":%d,"messages":[`, round+2)
			for i := range 1000 {
				if i > 0 {
					b.WriteByte(',')
				}
				fmt.Fprintf(&b, `{"topic":"many.a","key":"%d-%d"}`, round, i)
			}
			b.WriteString(`]}`)
			p.send(b.String())
			p.read()
		}
	}()
	served, refused := 0, 0
	for going := true; going; {
		q.send(`{"op":"publish","id":2,"topic":"x"}`)
		if f := q.reply(); f.Error == nil {
			served++
		} else {
			refused++
		}
		select {
		case <-done:
			going = false
		default:
		}
	}
	// A busy machine may take 50 ms for one now and then.
	if served <= 4*refused {
		t.Errorf("%d of the other's messages were published and %d refused", served, refused)
	}
	if !r.g.dependencies.ratelimit.healthy() {
		t.Error("the service is given up")
	}
	settled(t, nc)
	if n, _, err := broken.Pending(); n > 0 || err != nil {
		t.Errorf("the breaker changed %d times, %v", n, err)
	}
}
