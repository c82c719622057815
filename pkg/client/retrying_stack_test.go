package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/fairleadtest"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const limitedRules = `
limits:
  few: {capacity: 2, refill: 5, per: 1s, key: user}
  none: {capacity: 1, refill: 1, per: 1h, key: user}
topics:
  - {match: "slow.>", subscribe: user, publish: user, rate: {publish: few}}
  - {match: "once.>", subscribe: user, publish: user, rate: {publish: none}}
  - {match: ">", subscribe: user, publish: user}
`

// A user has one bucket, whatever the gateways they are on, and Retry gets through
// as soon as it gives; a worker sees the bucket, and fills it.
func TestRetryThroughALimit(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Gateways: 2, Rules: limitedRules})
	conns := []*client.Client{s.Client("ann"), s.Client("ann", fairleadtest.On(s.Gateway(1)))}
	limits := fairlead.New(s.NATS(), fairlead.Options{}).Limits()

	refused := 0
	for i := range 8 {
		must(t, client.Retry(within(t), func(ctx context.Context) error {
			_, err := conns[i%2].Publish(ctx, "slow.a", "message", i, client.PublishOptions{})
			if err != nil {
				refused++
			}
			return err
		}))
	}
	if refused == 0 {
		t.Error("8 of a bucket of 2 passed without a refusal")
	}

	publish := func(c *client.Client) *wire.Error {
		_, err := c.Publish(within(t), "once.a", "message", 1, client.PublishOptions{})
		return wire.AsErrorOrNil(err)
	}
	if err := publish(conns[0]); err != nil {
		t.Fatal(err)
	}
	for i, c := range conns {
		e := publish(c)
		if e == nil || e.Code != wire.ResourceExhausted || e.RetryAfter < 59*time.Minute || e.Details["limit"] != "none" {
			t.Errorf("again on gateway %d: got %v %+v, want a refusal of an hour by its limit", i, e, e)
		}
		if wait, ok := client.RetryAfter(e); !ok || wait != e.RetryAfter {
			t.Errorf("RetryAfter: got %v %t, want %v", wait, ok, e.RetryAfter)
		}
	}

	verdict, err := limits.Peek(within(t), "none", "ann", 1)
	must(t, err)
	if verdict.Allowed || verdict.Limit != 1 || !errors.Is(verdict.Err(), wire.ErrResourceExhausted) {
		t.Errorf("peek: got %+v, want the empty bucket", verdict)
	}
	all, each, err := limits.ConsumeAll(within(t), fairlead.Take{Policy: "none", Key: "bob", Cost: 1}, fairlead.Take{Policy: "none", Key: "ann", Cost: 1})
	must(t, err)
	if all.Allowed || len(each) != 2 || each[1].Allowed {
		t.Errorf("bob's and ann's: got %+v %+v, want none", all, each)
	}
	if bob, err := limits.Consume(within(t), "none", "bob", 1); err != nil || !bob.Allowed {
		t.Errorf("bob's alone: got %+v, %v, want it to be there still", bob, err)
	}
	must(t, limits.Reset(within(t), "none", "ann"))
	fairleadtest.Eventually(t, "the gateway hears of the reset", func() bool { return publish(conns[0]) == nil })
	must(t, limits.Ban(within(t), "few", "ann", time.Hour))
	fairleadtest.Eventually(t, "the gateway hears of the ban", func() bool {
		_, err := conns[1].Publish(within(t), "slow.a", "message", 1, client.PublishOptions{})
		return err != nil && wire.AsError(err).Message == "banned by the limit few"
	})
	must(t, limits.Unban(within(t), "few", "ann"))
	if remaining, err := limits.Refund(within(t), "few", "ann", 2, "all"); err != nil || remaining != 2 {
		t.Errorf("refund: got %d, %v, want a full bucket", remaining, err)
	}
	p, err := limits.Policy(within(t), "few")
	if got, want := fmt.Sprintf("%s %d %d %s %s %s", p.Name, p.Capacity, p.Refill, p.Per, p.Key, p.FailMode), "few 2 5 1s user closed"; got != want || err != nil {
		t.Errorf("policy: got %s, %v, want %s", got, err, want)
	}
}
