package fairleadtest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairleadtest"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// rooms lets a lost connection count for nothing at once.
const rooms = `
topics:
  - {match: "room.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 0s}}
  - {match: "log.>", subscribe: user, publish: user, replay: {size: 100, ttl: 1h}}
  - {match: ">", subscribe: user, publish: user}
`

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), fairleadtest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(fairleadtest.Patience):
		t.Fatalf("%s never came", what)
		panic("unreachable")
	}
}

func subscribe(t *testing.T, c *client.Client, topic string) *client.Subscription {
	t.Helper()
	sub, err := c.Subscribe(within(t), topic, client.SubscribeOptions{})
	must(t, err)
	return sub
}

func publish(t *testing.T, c *client.Client, topic string, data any) {
	t.Helper()
	_, err := c.Publish(within(t), topic, "message", data, client.PublishOptions{})
	must(t, err)
}

func next(t *testing.T, sub *client.Subscription, want string) client.Message {
	t.Helper()
	m, err := sub.Next(within(t))
	if err != nil || string(m.Data) != want {
		t.Fatalf("got %s %v, want %s", m.Data, err, want)
	}
	return m
}

// watching returns what user sees of who is on a topic.
func watching(t *testing.T, c *client.Client, topic, how string) *client.Presence {
	t.Helper()
	view := client.NewPresence()
	_, err := c.Subscribe(within(t), topic, client.SubscribeOptions{Presence: how, OnPresence: view.Apply})
	must(t, err)
	return view
}

func sees(t *testing.T, view *client.Presence, users ...string) {
	t.Helper()
	must(t, view.Wait(within(t), func(m client.Members) bool {
		return m.Rev > 0 && len(m.Users) == len(users) && m.Has(users...)
	}))
}

// A crash leaves nothing behind that says goodbye: who was on the gateway leaves
// when its lease is over, not before.
func TestAKilledGatewaysUsersLeaveByItsLease(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Gateways: 2, Rules: rooms})
	ann, bob := s.Client("ann"), s.Client("bob", fairleadtest.On(s.Gateway(1)))
	view := watching(t, ann, "room.1", "watch")
	watching(t, bob, "room.1", "join")
	sees(t, view, "bob")
	s.WaitOnline("ann", "bob")

	before := time.Now()
	s.Gateway(1).Kill()
	receive(t, "bob's end", bob.Done())
	if e := bob.CloseError(); e.Code != wire.CloseAbnormal || e.Local {
		t.Errorf("bob's connection ended with %v, want a reset", e)
	}
	sees(t, view)
	if took := time.Since(before); took < time.Second {
		t.Errorf("bob left after %v: somebody said goodbye", took)
	}
	s.WaitOffline("bob")
	s.WaitOnline("ann")
	if _, err := client.Dial(within(t), s.Gateway(1).URL(), client.Options{Token: s.Token("bob")}); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("a dead gateway: got %v, want %s", err, wire.Unavailable)
	}
}

// The other end of the same: one that stops in order says goodbye for everybody.
func TestAStoppedGatewayAsksItsClientsToLeave(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Gateways: 2, Rules: rooms, Settings: map[string]string{"FAIRLEAD_GATEWAY_LEASE": "1m"}})
	ann, bob := s.Client("ann"), s.Client("bob", fairleadtest.On(s.Gateway(1)))
	view := watching(t, ann, "room.1", "watch")
	watching(t, bob, "room.1", "join")
	sees(t, view, "bob")
	asked := make(chan client.Drain, 1)
	bob.OnDrain(func(d client.Drain) { asked <- d })
	s.Gateway(1).Stop()
	receive(t, "drain", asked)
	receive(t, "bob's end", bob.Done())
	if e := bob.CloseError(); e.Code != wire.CloseGoingAway {
		t.Errorf("bob's connection ended with %v, want 1001", e)
	}
	sees(t, view)
}

func TestACutGatewaySaysSoAndHeals(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Gateways: 2, Rules: rooms})
	ann, bob := s.Client("ann"), s.Client("bob", fairleadtest.On(s.Gateway(1)))
	told := make(chan client.SystemEvent, 16)
	ann.OnSystem(func(e client.SystemEvent) { told <- e })
	bob.OnSystem(func(e client.SystemEvent) { t.Errorf("bob's gateway was cut too: %+v", e) })
	sub := subscribe(t, ann, "log.1")
	publish(t, bob, "log.1", 1)
	next(t, sub, "1")

	s.Gateway(0).CutNATS()
	for e := receive(t, "degraded", told); e.Event != "degraded" || e.What != "nats"; {
		e = receive(t, "degraded", told)
	}
	publish(t, bob, "log.1", 2)
	if _, err := ann.Publish(within(t), "log.1", "message", 0, client.PublishOptions{}); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("publish without NATS: got %v, want %s", err, wire.Unavailable)
	}
	s.Gateway(0).RestoreNATS()
	for e := receive(t, "recovered", told); e.Event != "recovered" || e.What != "nats"; {
		e = receive(t, "recovered", told)
	}
	next(t, sub, "2") // what it missed is fetched: the topic has a past
	publish(t, bob, "log.1", 3)
	next(t, sub, "3")
}

func TestNATSIsCutForEverybody(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Gateways: 2})
	ann, bob := s.Client("ann"), s.Client("bob", fairleadtest.On(s.Gateway(1)))
	degraded, recovered := make(chan string, 16), make(chan string, 16)
	hear := func(user string) func(client.SystemEvent) {
		return func(e client.SystemEvent) {
			switch {
			case e.What != "nats":
			case e.Event == "degraded":
				degraded <- user
			default:
				recovered <- user
			}
		}
	}
	ann.OnSystem(hear("ann"))
	bob.OnSystem(hear("bob"))
	s.CutNATS()
	receive(t, "degraded", degraded)
	receive(t, "degraded", degraded)
	nc := s.NATS()
	for _, service := range []string{"presence.online", "replay.gap"} {
		fairleadtest.Eventually(t, service+" is away", func() bool {
			_, err := nc.Request("fl.svc."+service, []byte(`{}`), time.Second)
			return errors.Is(err, nats.ErrNoResponders)
		})
	}
	s.RestoreNATS()
	receive(t, "recovered", recovered)
	receive(t, "recovered", recovered)
	s.WaitOnline("ann", "bob") // and the services are back
}

// A client that counts notices what it was not sent, alone or in a batch.
func TestDroppedFramesAreNoticed(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: rooms})
	for name, o := range map[string]client.Options{"one frame a message": {}, "batches": {Batch: true}} {
		t.Run(name, func(t *testing.T) {
			link := s.Link(0)
			ann, bob := s.Client("ann", fairleadtest.Through(link), fairleadtest.With(o)), s.Client("bob")
			topic := "log." + map[bool]string{false: "alone", true: "batches"}[o.Batch]
			sub := subscribe(t, ann, topic)
			publish(t, bob, topic, 1)
			last := next(t, sub, "1")
			link.Drop(2, func(f wire.ServerFrame) bool { return f.Topic == topic && f.Op == "" })
			for i := range 4 {
				publish(t, bob, topic, i+2)
			}
			m := next(t, sub, "4")
			if m.Prev <= last.Seq {
				t.Errorf("message 4 follows %d, and the last was %d: nothing is missing", m.Prev, last.Seq)
			}
			if got := link.Dropped(); got != 2 {
				t.Errorf("%d frames were dropped, want 2", got)
			}
			if m := next(t, sub, "5"); m.Prev == 0 {
				t.Errorf("message 5 follows nothing: %+v", m)
			}
		})
	}
}

// What a lost answer costs: the client does not know, and a key makes that safe.
func TestALostAnswer(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: rooms})
	link := s.Link(0)
	ann := s.Client("ann", fairleadtest.Through(link), fairleadtest.With(client.Options{RequestTimeout: 300 * time.Millisecond}))
	publish := func() (client.Result, error) {
		return ann.Publish(within(t), "log.orders", "message", 1, client.PublishOptions{Key: "order-1"})
	}
	link.DropSent(1, nil)
	if _, err := publish(); wire.CodeOf(err) != wire.DeadlineExceeded {
		t.Fatalf("a publish that is lost: got %v, want %s", err, wire.DeadlineExceeded)
	}
	link.Drop(1, func(f wire.ServerFrame) bool { return f.Kind == wire.KindReply })
	if _, err := publish(); wire.CodeOf(err) != wire.DeadlineExceeded {
		t.Fatalf("an answer that is lost: got %v, want %s", err, wire.DeadlineExceeded)
	}
	got, err := publish()
	if want := (client.Result{Seq: 1, Duplicate: true}); err != nil || got != want {
		t.Errorf("the third: got %+v %v, want %+v: the first never came, the second did", got, err, want)
	}
}

func TestDelayIsLatencyAndNotThroughput(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t)
	link := s.Link(0)
	ann := s.Client("ann", fairleadtest.Through(link))
	const delay, many = 100 * time.Millisecond, 100
	link.Delay(delay)
	before := time.Now()
	sent := make([]*client.Publication, many)
	for i := range sent {
		p, err := ann.PublishAsync("chat.lobby", "message", i, client.PublishOptions{})
		must(t, err)
		sent[i] = p
	}
	for _, p := range sent {
		_, err := p.Wait(within(t))
		must(t, err)
	}
	took := time.Since(before)
	if took < 2*delay {
		t.Errorf("%d round trips took %v, want at least %v", many, took, 2*delay)
	}
	if took > many*delay/2 {
		t.Errorf("%d publishes at once took %v: they waited for one another", many, took)
	}
	link.Restore()
	before = time.Now()
	publish(t, ann, "chat.lobby", 0)
	if took := time.Since(before); took >= 2*delay {
		t.Errorf("a round trip took %v after Restore", took)
	}
}

// A client behind a network that is gone is slow: what the gateway keeps for it
// has a bound, and the close says so.
func TestAStalledClientIsSlow(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Settings: map[string]string{"FAIRLEAD_LIMIT_OUTBOUND_BYTES": "65536"}})
	link := s.Link(0)
	ann, bob := s.Client("ann", fairleadtest.Through(link)), s.Client("bob")
	sub := subscribe(t, ann, "feed.1")
	link.Stall()
	nc := s.NATS()
	slow, err := nc.SubscribeSync("fl.event.backpressure")
	must(t, err)
	must(t, nc.Flush())
	big := strings.Repeat("x", 50_000)
	for i, slowed := 0, false; !slowed; i++ {
		if i == 2000 {
			t.Fatal("100 MB wait for a client that takes none")
		}
		publish(t, bob, "feed.1", big)
		n, _, err := slow.Pending()
		must(t, err)
		slowed = n > 0
	}
	select {
	case <-ann.Done():
		t.Error("the end of the connection came through a stalled link")
	default:
	}
	link.Restore()
	for err == nil {
		_, err = sub.Next(within(t))
	}
	receive(t, "ann's end", ann.Done())
	if e := ann.CloseError(); e.Code != wire.CloseTryAgain {
		t.Errorf("ann's connection ended with %v, want 1013", e)
	}
}

func TestBreakResetsOnceAndCutUntilRestore(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t)
	link := s.Link(0)
	ann, bob := s.Client("ann", fairleadtest.Through(link)), s.Client("bob")
	link.Break()
	receive(t, "ann's end", ann.Done())
	ann = s.Client("ann", fairleadtest.Through(link))
	link.Cut()
	receive(t, "ann's end", ann.Done())
	if _, err := client.Dial(within(t), "ws://"+link.Addr()+"/ws", client.Options{}); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("over a cut link: got %v, want %s", err, wire.Unavailable)
	}
	link.Restore()
	publish(t, s.Client("ann", fairleadtest.Through(link)), "chat.lobby", 1)
	publish(t, bob, "chat.lobby", 1) // who goes another way has noticed nothing
	s.Gateway(0).Clients().Break()   // …which this is
	receive(t, "bob's end", bob.Done())
}
