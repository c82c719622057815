package integration

import (
	"context"
	"encoding/json"
	"errors"
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
	s := newStack(t, 1, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, `
topics: [{match: ">"}]
limits:
  orders: {capacity: 3, refill: 1, per: 2s}
  never: {capacity: 1, refill: 1, per: 8760h}
calls:
  - {match: "orders.*", allow: user, rate: orders}
  - {match: "never.*", allow: user, rate: never}
  - {match: ">", allow: user}
`))
	f := s.backend()
	worked := make(chan string, 1000)
	handle(t, f, ">", func(_ context.Context, c *fairlead.Call, _ json.RawMessage) (int, error) {
		worked <- c.Method + " of " + c.User
		return 1, nil
	})
	ann, again, bob := s.as(0, "ann"), s.as(0, "ann"), s.as(0, "bob")
	call := func(c *client.Client, method string) error {
		_, err := c.Call(within(t), method, 1, client.CallOptions{})
		return err
	}
	granted := 0
	began := time.Now()
	var refused *wire.Error
	for refused == nil {
		if granted > 100 {
			t.Fatal("the rate is not enforced")
		}
		if err := call(ann, "orders.create"); err == nil {
			granted++
		} else if !errors.As(err, &refused) {
			t.Fatal(err)
		}
	}
	if most := capacity + int(time.Since(began)/(2*time.Second)) + 1; granted < capacity || granted > most {
		t.Errorf("%d calls were answered, want %d, at most %d on a slow machine", granted, capacity, most)
	}
	if len(worked) != granted {
		t.Errorf("the worker heard of %d calls, want the %d that were answered", len(worked), granted)
	}
	if refused.Code != wire.ResourceExhausted || refused.Details["limit"] != "orders" || refused.RetryAfter <= 0 || refused.RetryAfter > 2*time.Second {
		t.Errorf("refused with %+v, want RESOURCE_EXHAUSTED of orders within 2 s", refused)
	}
	must(t, call(bob, "orders.create"))
	must(t, call(ann, "free"))
	time.AfterFunc(refused.RetryAfter+50*time.Millisecond, func() { worked <- "the time is over" })
	for receive(t, worked) != "the time is over" {
	}
	must(t, call(again, "orders.list")) // the user's, whatever the connection

	must(t, call(ann, "never.a"))
	if err := call(again, "never.b"); !errors.As(err, &refused) || refused.RetryAfter < 364*24*time.Hour {
		t.Errorf("got %v, retry after %s, want nearly a year", err, refused.RetryAfter)
	}
}
