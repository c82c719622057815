package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// One user floods through two gateways from eight connections: what a full bucket
// holds is granted, and nothing more.
func TestGatewaysShareABucketExactly(t *testing.T) {
	t.Parallel()
	const clients, each, capacity = 8, 125, 100
	r := anyRated(t, 2, `
limits: {hundred: {capacity: 100, refill: 1, per: 8760h}}
topics: [{match: "hundred.>", rate: {publish: hundred}}]
`)
	var mu sync.Mutex
	granted, refused, undecided := 0, 0, 0
	ann := strings.ReplaceAll(unique("ann"), ".", "-") // whose bucket is full
	many(t, clients, func(i int) error {
		c, err := tryDial(t, r.url(i), client.Options{Token: token(ann, nil)})
		if err != nil {
			return err
		}
		var sent []*client.Publication
		for n := range each {
			p, err := c.PublishAsync(fmt.Sprintf(lent("hundred.%d"), i), "", n, client.PublishOptions{})
			if err != nil {
				return err
			}
			sent = append(sent, p)
		}
		for _, p := range sent {
			_, err := p.Wait(within(t))
			mu.Lock()
			switch e := wire.AsErrorOrNil(err); {
			case e == nil:
				granted++
			case nobodyDecided(e):
				undecided++
			case e.Code == wire.ResourceExhausted && e.Details["limit"] == lentRule("hundred"):
				refused++
			default:
				t.Errorf("refused with %v %v", e, e.Details)
			}
			mu.Unlock()
		}
		return nil
	})
	// What nobody was told of may have been taken.
	if granted > capacity || granted+undecided < capacity || granted+refused+undecided != clients*each {
		t.Errorf("%d granted, %d refused, %d undecided, want %d granted of %d", granted, refused, undecided, capacity, clients*each)
	}
	if undecided > 0 {
		t.Logf("%d undecided, %d granted", undecided, granted)
	}
}

func from(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }

// A connection takes once from the limit of new connections: from its address's
// bucket before the upgrade.
func TestConnectionsTakeFromTheLimitOfTheirAddress(t *testing.T) {
	t.Parallel()
	r := ratedStack(t, 1, `
limits: {arrivals: {capacity: 2, refill: 1, per: 8760h, key: address}}
admission: {connect: arrivals}
topics: [{match: ">"}]
`, "FAIRLEAD_TRUSTED_PROXIES=127.0.0.1,::1")
	arrive := func(address string) error {
		c, err := tryDial(t, r.url(0), client.Options{Header: from(address), Token: token("ann", nil)})
		if err == nil {
			publish(t, c, "free.a", `1`)
		}
		return err
	}
	n := 0
	undisturbed(t, r, func(try *trial) {
		n++
		mine, other := fmt.Sprintf("192.0.2.%d", n), fmt.Sprintf("198.51.100.%d", n)
		try.arrives("the first", arrive(mine), 0)
		try.arrives("the second", arrive(mine), 0)
		try.arrives("the third", arrive(mine), http.StatusTooManyRequests)
		try.arrives("one from elsewhere", arrive(other), 0)
	})
}

// arrives checks how an upgrade was answered.
func (try *trial) arrives(what string, err error, status int) {
	e := wire.AsErrorOrNil(err)
	switch {
	case e != nil && e.Details["status"] == http.StatusServiceUnavailable:
		try.undecided++
	case (e == nil) != (status == 0), e != nil && (e.Details["status"] != status || e.RetryAfter < time.Second):
		try.bad("%s: got %v (retry after %s), want status %d", what, err, wire.AsError(err).RetryAfter, status)
	}
}

// One whose key is the user takes at the upgrade where the token came with it,
// else at hello.
func TestConnectionsTakeFromTheLimitOfTheirUser(t *testing.T) {
	t.Parallel()
	r := ratedStack(t, 2, `
limits: {arrivals: {capacity: 2, refill: 1, per: 8760h}}
admission: {connect: arrivals}
topics: [{match: ">"}]
`)
	early := func(user string) error {
		_, err := tryDial(t, r.url(0), client.Options{Header: bearer(token(user, nil)), Token: token(user, nil)})
		return err
	}
	late := func(user string) (*client.Client, error) {
		c := dial(t, r.url(1), client.Options{NoHello: true})
		_, err := c.Hello(within(t), token(user, nil), "", "")
		return c, err
	}
	undisturbed(t, r, func(try *trial) {
		ann, bob := try.user("ann"), try.user("bob")
		try.arrives("ann's first", early(ann), 0)
		_, err := late(ann)
		try.says("ann's second", err, "")
		try.arrives("ann's third", early(ann), http.StatusTooManyRequests)
		c, err := late(ann)
		e := try.says("ann's fourth", err, wire.ResourceExhausted)
		try.detail("ann's fourth", e, `{"limit":"arrivals","cost":1,"capacity":2,"remaining":0}`)
		receive(t, c.Done())
		if got := c.CloseError(); got.Code != wire.CloseTooMany {
			try.bad("ann's fourth: got %v, want close 4429", got)
		}
		try.arrives("bob's first", early(bob), 0)
	})
}

// While no replica runs each limit does what its failMode says; when one is back
// it counts again, by itself, from where it was.
func TestFailModesOfLimits(t *testing.T) {
	t.Parallel()
	r := ratedStack(t, 1, `
limits:
  closed: {capacity: 1000000, refill: 1, per: 8760h}
  banned: {capacity: 3, refill: 1, per: 8760h}
  open: {capacity: 3, refill: 1, per: 8760h, failMode: open}
  local: {capacity: 3, refill: 1, per: 8760h, failMode: local}
topics:
  - {match: "closed.>", rate: {publish: closed}}
  - {match: "banned.>", rate: {publish: banned}}
  - {match: "open.>", rate: {publish: open}}
  - {match: "local.>", rate: {publish: local}}
  - {match: ">"}
`)
	nc := connect(t, r.nats)
	ann := r.as(0, "ann")
	publish := func(topic string) error {
		_, err := ann.Publish(within(t), topic, "", 1, client.PublishOptions{})
		return err
	}
	eventually(t, "a message is published", func() (any, bool) {
		err := publish("closed.a")
		return err, err == nil
	})
	r.admin(nc, "ban", `{"policy":"banned","key":"ann","duration":"1h"}`)

	// A machine that is busy with other tests may have had outages before.
	logged := func(text string) int { return strings.Count(r.gateways[0].stderr.String(), text) }
	over := logged("decides again")
	r.limits.kill()
	eventually(t, "the service is missed", func() (any, bool) {
		err := publish("closed.a")
		return err, nobodyDecided(err)
	})
	for i := range 10 {
		e := wire.AsErrorOrNil(publish("closed.a"))
		if e == nil || e.Code != wire.Unavailable || e.Details["limit"] != "closed" || e.Details["outcome"] != "none" {
			t.Fatalf("closed, message %d: got %v, want UNAVAILABLE of the limit closed", i, e)
		}
		must(t, publish("open.a"))
		err := publish("local.a")
		if want := i < 3; want != (err == nil) || !want && wire.CodeOf(err) != wire.ResourceExhausted {
			t.Errorf("local, message %d: got %v, want 3 granted", i, err)
		}
		must(t, publish("free.a"))
	}
	if n := logged("does not decide"); n != over+1 {
		t.Errorf("the log has %d lines about the outage, want 1", n-over)
	}

	r.startLimits()
	eventually(t, "limits are decided again, and the log says so", func() (any, bool) {
		err := publish("closed.a") // each that is decided may be the one that ends it
		return err, err == nil && logged("decides again") == over+1
	})
	refuses(t, publish, "banned.a")
	refuses(t, publish, "open.a")
}

// refuses waits until messages to a topic are above the limit, as they become
// within four of those that are decided.
func refuses(t *testing.T, publish func(string) error, topic string) {
	t.Helper()
	eventually(t, topic+" is refused", func() (any, bool) {
		err := publish(topic)
		return err, wire.CodeOf(err) == wire.ResourceExhausted
	})
}

// A limit that is changed counts as it is now, of what was taken before.
func TestChangedLimitsCountAtOnce(t *testing.T) {
	t.Parallel()
	rules := func(capacity int) string {
		return fmt.Sprintf(`
limits: {some: {capacity: %d, refill: 1, per: 8760h}}
topics: [{match: "t.>", rate: {publish: some}}, {match: ">"}]
`, capacity)
	}
	r := ratedStack(t, 1, rules(3))
	ann := r.as(0, "ann")
	publish := func(topic string) error {
		_, err := ann.Publish(within(t), topic, "", 1, client.PublishOptions{})
		return err
	}
	refuses(t, publish, "t.a")
	apply(t, r.nats, rules(1000))
	eventually(t, "there is room again", func() (any, bool) {
		err := publish("t.a")
		return err, err == nil
	})
	apply(t, r.nats, rules(1))
	refuses(t, publish, "t.a")
}
