package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// decideLimits answers what a gateway asks of the ratelimit service, from buckets
// in memory.
func decideLimits(t *testing.T, r *rig) {
	t.Helper()
	buckets := newLocals()
	nc := r.bus()
	if _, err := nc.Subscribe("fl.svc.ratelimit.consume", func(msg *nats.Msg) {
		var req wire.LimitRequest
		if err := json.Unmarshal(msg.Data, &req); err != nil {
			t.Errorf("asked %s: %v", msg.Data, err)
			return
		}
		take := func(of *wire.LimitTake) wire.LimitVerdict {
			limit, cost := r.g.rules.Current().Limit(of.Policy), int64(1)
			if of.Cost != nil {
				cost = *of.Cost
			}
			got := buckets.take(limits.Ask{Limit: limit, Key: of.Key, Cost: cost}, max(of.N, 1), time.Now())
			v := wire.LimitVerdict{Allowed: got.Allowed, Remaining: got.Remaining, Limit: int64(limit.Capacity), Granted: got.Granted, Version: limit.Version()}
			if !got.Allowed {
				v.RetryAfterMs = wire.RetryAfterOf(got.RetryAfter)
			}
			return v
		}
		var reply wire.LimitReply
		if len(req.Batch) == 0 {
			reply.LimitVerdict = take(&req.LimitTake)
		}
		for i := range req.Batch {
			reply.Batch = append(reply.Batch, take(&req.Batch[i]))
		}
		data, err := json.Marshal(reply)
		if err != nil {
			t.Error(err)
		}
		answer(t, msg, string(data), nil)
	}); err != nil {
		t.Fatal(err)
	}
	settled(t, nc)
}

const twoRules = `
limits:
  two: {capacity: 2, refill: 1, per: 1h}
  local: {capacity: 2, refill: 1, per: 1h, failMode: local}
topics: [{match: "local.>", rate: {publish: local}}, {match: ">", rate: {publish: two}}]
calls: [{match: "free.*", allow: any}, {match: "local.*", allow: any, rate: local}, {match: ">", allow: any, rate: two}]
`

// A call that is refused for another reason takes nothing.
func TestADuplicateCallCostsNothing(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(twoRules))
	decideLimits(t, r)
	asked := make(chan *nats.Msg, 4)
	serveCalls(t, r.bus(), ">", func(msg *nats.Msg) { asked <- msg })
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	p.send(`{"op":"call","id":9,"method":"m"}`)
	for range 3 {
		p.send(`{"op":"call","id":9,"method":"m"}`)
		p.expectError(9, "ALREADY_EXISTS")
	}
	p.send(`{"op":"call","id":10,"method":"m"}`)
	for range 2 {
		await(t, "a call at the worker", asked)
	}
	p.send(`{"op":"call","id":11,"method":"m"}`)
	if details := p.expectError(11, "RESOURCE_EXHAUSTED"); details["limit"] != "two" {
		t.Errorf("got %v, want the limit two", details)
	}
	p.send(`{"op":"call","id":11,"method":"free.m"}`) // the id of one that was refused is free
	await(t, "a call at the worker", asked)
}

// Frames are served in their order, though one of them waits for a decision that
// never comes; what others send the connection meanwhile waits for nothing.
func TestWhoWaitsForADecisionHoldsNobodyUp(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(twoRules))
	nc := r.bus()
	deciding := make(chan *nats.Msg, 100)
	if _, err := nc.ChanSubscribe("fl.svc.ratelimit.consume", deciding); err != nil { // it never answers
		t.Fatal(err)
	}
	asked := make(chan *nats.Msg, 4)
	serveCalls(t, nc, "free.m", func(msg *nats.Msg) { asked <- msg })
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	next := func() string {
		t.Helper()
		var f struct {
			ID    int64
			Error *struct{ Code string }
		}
		frame := p.read()
		if err := json.Unmarshal([]byte(frame), &f); err != nil {
			t.Fatal(err)
		}
		if f.Error == nil {
			return fmt.Sprint(f.ID, " ok")
		}
		return fmt.Sprint(f.ID, " ", f.Error.Code)
	}
	const rounds = 4 // the answer has 50 ms to come in, which a busy machine may need
	early := false
	for round := 0; round < rounds && !early; round++ {
		p.send(`[{"op":"call","id":2,"method":"free.m"},{"op":"call","id":3,"method":"m"}]`)
		first := await(t, "the first call", asked)
		await(t, "the question about the second", deciding)
		answer(t, first, `1`, nil)
		got := []string{next(), next()}
		if early = got[0] == "2 ok"; !slices.Contains(got, "2 ok") || !slices.Contains(got, "3 UNAVAILABLE") {
			t.Fatalf("got %v", got)
		}
	}
	if !early {
		t.Error("an answer waits for the decision about another call")
	}
	p.send(`[{"op":"publish","id":4,"topic":"a"},{"op":"hello","id":5}]`)
	if got, want := []string{next(), next()}, []string{"4 UNAVAILABLE", "5 FAILED_PRECONDITION"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A gateway counts alone, to the token, for a limit whose failMode is local.
func TestALocalLimitWithoutAService(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(twoRules))
	p := r.dial()
	p.hello(token(t, auth.Claims{User: "ann"}))
	p.send(`{"op":"batch","id":2,"messages":[{"topic":"local.a"},{"topic":"local.a"},{"topic":"other"},{"topic":"local.b"}]}`)
	var f struct {
		OK struct {
			Results []struct {
				Error *struct{ Code string }
			}
		}
	}
	if err := json.Unmarshal([]byte(p.read()), &f); err != nil || len(f.OK.Results) != 4 {
		t.Fatalf("got %+v, %v", f, err)
	}
	for i, want := range []string{"", "", "UNAVAILABLE", "RESOURCE_EXHAUSTED"} {
		got := ""
		if e := f.OK.Results[i].Error; e != nil {
			got = e.Code
		}
		if got != want {
			t.Errorf("message %d: got %q, want %q", i, got, want)
		}
	}
}
