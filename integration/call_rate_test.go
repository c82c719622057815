package integration

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A call above the rate of its rule is refused before a worker hears of it, with
// the time after which it is answered again. Others are not concerned.
func TestCallsAboveTheirRateAreRefused(t *testing.T) {
	t.Parallel()
	const capacity = 3
	r := ratedStack(t, 1, `
topics: [{match: ">"}]
limits:
  orders: {capacity: 3, refill: 1, per: 2s}
  never: {capacity: 1, refill: 1, per: 8760h}
calls:
  - {match: "orders.*", allow: user, rate: orders}
  - {match: "never.*", allow: user, rate: never}
  - {match: ">", allow: user}
`)
	f := r.backend()
	worked := make(chan string, 1000)
	handle(t, f, ">", func(_ context.Context, c *fairlead.Call, _ json.RawMessage) (int, error) {
		worked <- c.User
		return 1, nil
	})
	undisturbed(t, r, func(try *trial) {
		ann, again, bob := try.as(0, "ann"), try.as(0, "ann"), try.as(0, "bob")
		call := func(c *client.Client, method string) error {
			_, err := c.Call(within(t), method, 1, client.CallOptions{})
			return err
		}
		for len(worked) > 0 {
			<-worked
		}
		began, granted := time.Now(), 0
		var refused *wire.Error
		for refused == nil || refused.Code == "" {
			if granted > 100 {
				t.Fatal("the rate is not enforced")
			}
			err := call(ann, "orders.create")
			if err == nil {
				granted++
				continue
			}
			if refused = try.says("above the rate", err, wire.ResourceExhausted); try.undecided > 0 {
				return
			}
		}
		if most := capacity + int(time.Since(began)/(2*time.Second)) + 1; granted < capacity || granted > most {
			try.bad("%d calls were answered, want %d, at most %d on a slow machine", granted, capacity, most)
		}
		if len(worked) != granted {
			try.bad("the worker heard of %d calls, want the %d that were answered", len(worked), granted)
		}
		if refused.Details["limit"] != "orders" || !upTo(refused.RetryAfter, 2*time.Second) {
			try.bad("refused with %+v, want RESOURCE_EXHAUSTED of orders within 2 s", refused)
		}
		try.says("another user's", call(bob, "orders.create"), "")
		try.says("one without a rate", call(ann, "free"), "")
		<-time.After(refused.RetryAfter)
		try.says("when it said", call(again, "orders.list"), "") // the user's, whatever the connection

		try.says("the only one", call(ann, "never.a"), "")
		e := try.says("one more", call(again, "never.b"), wire.ResourceExhausted)
		if e.RetryAfter < 364*24*time.Hour && try.undecided == 0 {
			try.bad("one more: retry after %s, want nearly a year", e.RetryAfter)
		}
	})
}
