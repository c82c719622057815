package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairleadtest"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// sessionRules keep enough of the past for a reconnection, and little of short.
const sessionRules = `
topics:
  - {match: "log.>", subscribe: user, publish: user, replay: {size: 10000, ttl: 1h}}
  - {match: "short.>", subscribe: user, publish: user, replay: {size: 3, ttl: 1h}}
  - {match: "secret.>", subscribe: none, publish: user}
  - {match: "room.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 5s}}
  - {match: ">", subscribe: any, publish: any}
`

// session opens one that tries again at once, and ends it with the test.
func session(t *testing.T, url string, o client.SessionOptions) *client.Session {
	t.Helper()
	o.MinBackoff, o.MaxBackoff = 20*time.Millisecond, 200*time.Millisecond
	s := client.OpenSession(url, o)
	t.Cleanup(func() {
		s.Close()
		s.Wait()
	})
	return s
}

func tokens(s *fairleadtest.Stack, user string) client.Options {
	return client.Options{TokenSource: func(context.Context) (string, error) { return s.Token(user), nil }}
}

func ready(t *testing.T, s *client.Session) *client.Client {
	t.Helper()
	c, err := s.Ready(within(t))
	must(t, err)
	return c
}

// heard is what following a topic told.
type heard struct {
	mu        sync.Mutex
	messages  []string
	starts    []client.Start
	truncated []int64
	denied    []wire.Code
}

func (h *heard) options() client.FollowOptions {
	note := func(fn func()) { h.mu.Lock(); defer h.mu.Unlock(); fn() }
	return client.FollowOptions{
		OnMessage:   func(m client.Message) { note(func() { h.messages = append(h.messages, string(m.Data)) }) },
		OnStart:     func(s client.Start) { note(func() { h.starts = append(h.starts, s) }) },
		OnTruncated: func(from int64) { note(func() { h.truncated = append(h.truncated, from) }) },
		OnDenied:    func(e *wire.Error) { note(func() { h.denied = append(h.denied, e.Code) }) },
	}
}

func (h *heard) until(t *testing.T, what string, ok func(h *heard) bool) {
	t.Helper()
	fairleadtest.Eventually(t, what, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return ok(h)
	})
}

// follow follows a topic and waits until that is live.
func follow(t *testing.T, s *client.Session, topic string) (*client.Follow, *heard) {
	t.Helper()
	h := &heard{}
	f, err := s.Follow(topic, h.options())
	must(t, err)
	h.until(t, topic+" is followed", func(h *heard) bool { return len(h.starts) > 0 })
	return f, h
}

func say(t *testing.T, c *client.Client, topic string, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		_, err := c.Publish(within(t), topic, "message", i, client.PublishOptions{})
		must(t, err)
	}
}

func numbers(from, to int) (all []string) {
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

// exactly waits for the last message and compares all of them.
func (h *heard) exactly(t *testing.T, to int) {
	t.Helper()
	h.until(t, fmt.Sprintf("message %d", to), func(h *heard) bool {
		return len(h.messages) > 0 && h.messages[len(h.messages)-1] == fmt.Sprint(to)
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if got, want := fmt.Sprint(h.messages), fmt.Sprint(numbers(1, to)); got != want {
		t.Errorf("heard %s, want %s", got, want)
	}
}

func TestASessionMissesNothingWhenItsGatewayDies(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Gateways: 2, Rules: sessionRules})
	bob := s.Client("bob")
	ann := session(t, s.Gateway(1).URL()+","+s.URL(), client.SessionOptions{Options: tokens(s, "ann")})
	first := ready(t, ann)
	_, h := follow(t, ann, "log.a")
	say(t, bob, "log.a", 1, 20)
	s.Gateway(1).Kill()
	say(t, bob, "log.a", 21, 40)
	h.exactly(t, 40)
	if c := ready(t, ann); c.Welcome().Gateway != s.Gateway(0).ID() || first.Welcome().Gateway != s.Gateway(1).ID() {
		t.Errorf("from gateway %s to %s, want from %s to %s", first.Welcome().Gateway, c.Welcome().Gateway, s.Gateway(1).ID(), s.Gateway(0).ID())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.starts) != 2 || h.starts[0].Again || !h.starts[1].Again || !h.starts[1].Recovered || len(h.truncated) > 0 {
		t.Errorf("starts: got %+v, truncated %v; want a second one that has recovered", h.starts, h.truncated)
	}
}

// A topic without a single message yet has a position too.
func TestASessionMissesNotEvenTheFirstMessage(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: sessionRules})
	link := s.Link(0)
	ann := session(t, "ws://"+link.Addr()+"/ws", client.SessionOptions{Options: tokens(s, "ann")})
	_, h := follow(t, ann, "log.empty")
	link.Cut()
	fairleadtest.Eventually(t, "ann is away", func() bool { return ann.Client() == nil })
	say(t, s.Client("bob"), "log.empty", 1, 3)
	link.Restore()
	h.exactly(t, 3)
}

func TestASessionMovesWhenItsGatewayDrains(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Gateways: 3, Rules: sessionRules})
	bob := s.Client("bob", fairleadtest.On(s.Gateway(2)))
	view, mine := client.NewPresence(), client.NewPresence()
	_, err := bob.Subscribe(within(t), "room.a", client.SubscribeOptions{Presence: "watch", OnPresence: view.Apply})
	must(t, err)
	ann := session(t, s.Gateway(1).URL()+","+s.URL(), client.SessionOptions{Options: tokens(s, "ann")})
	first := ready(t, ann)
	_, h := follow(t, ann, "log.a")
	_, err = ann.Follow("room.a", client.FollowOptions{Presence: "join", View: mine, OnMessage: func(client.Message) {}})
	must(t, err)
	must(t, view.Wait(within(t), func(m client.Members) bool { return m.Has("ann") }))
	// The gateway that ann moves to has counted nothing: its state has a lower rev.
	cem := s.Client("cem", fairleadtest.On(s.Gateway(2)))
	_, err = cem.Subscribe(within(t), "room.a", client.SubscribeOptions{Presence: "join"})
	must(t, err)
	for i := range 5 {
		data := fmt.Sprint(i)
		must(t, cem.UpdatePresence(within(t), "room.a", i))
		for _, v := range []*client.Presence{view, mine} {
			must(t, v.Wait(within(t), func(m client.Members) bool { return string(m.Users["cem"].Data) == data }))
		}
	}
	rev := view.Now().Rev
	say(t, bob, "log.a", 1, 20)
	s.Gateway(1).Stop()
	say(t, bob, "log.a", 21, 40)
	h.exactly(t, 40)
	if e := first.CloseError(); e == nil || e.Code != wire.CloseGoingAway {
		t.Errorf("the first connection ended with %v, want 1001", e)
	}
	fairleadtest.Eventually(t, "ann sees herself again", func() bool { m := mine.Now(); return m.Rev > 0 && m.Has("ann") })
	if err := mine.Err(); err != nil {
		t.Error(err)
	}
	if now := view.Now(); !now.Has("ann") || now.Rev != rev {
		t.Errorf("bob saw her go: rev %d after %d, %v", now.Rev, rev, now.Names())
	}
}

func TestASessionIsToldWhatIsGone(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: sessionRules})
	link := s.Link(0)
	ann := session(t, "ws://"+link.Addr()+"/ws", client.SessionOptions{Options: tokens(s, "ann")})
	f, h := follow(t, ann, "short.a")
	bob := s.Client("bob")
	say(t, bob, "short.a", 1, 1)
	h.exactly(t, 1)
	seq, ts, ok := f.Position()
	if seq == 0 || ts == 0 || !ok {
		t.Errorf("position: got %d %d %v", seq, ts, ok)
	}
	link.Cut()
	fairleadtest.Eventually(t, "ann is away", func() bool { return ann.Client() == nil })
	if _, err := ann.Publish(within(t), "log.a", "", 1, client.PublishOptions{}); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("a publish while away: got %v, want %s", err, wire.Unavailable)
	}
	say(t, bob, "short.a", 2, 9)
	link.Restore()
	h.until(t, "message 9", func(h *heard) bool { return h.messages[len(h.messages)-1] == "9" })
	h.mu.Lock()
	defer h.mu.Unlock()
	if got, want := fmt.Sprint(h.messages, h.truncated), fmt.Sprintf("[1 7 8 9] [%d]", seq+1); got != want {
		t.Errorf("heard and missed %s, want %s", got, want)
	}
	if last := h.starts[len(h.starts)-1]; last.Recovered || !last.Again {
		t.Errorf("start: got %+v, want one that has not recovered", last)
	}
}

func TestASessionKeepsWhoItIs(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: sessionRules})
	link := s.Link(0)
	inbox := make(chan client.Message, 1)
	states := make(chan client.State, 64)
	anon := session(t, "ws://127.0.0.1:1/ws,ws://"+link.Addr()+"/ws", client.SessionOptions{ // the first is nobody's
		Setup:   func(c *client.Client) { c.Inbox(func(m client.Message) { inbox <- m }) },
		OnState: func(s client.State, _ error) { states <- s },
	})
	first := ready(t, anon)
	user := first.Welcome().User
	link.Break()
	fairleadtest.Eventually(t, "another connection", func() bool { c := anon.Client(); return c != nil && c != first })
	if got := ready(t, anon).Welcome().User; got != user || user == "" {
		t.Errorf("the user was %q and is %q", user, got)
	}
	subject, err := wire.Namespace("fl").User(user)
	must(t, err)
	must(t, s.NATS().Publish(subject, []byte(`1`)))
	receive(t, "a direct message", inbox)
	anon.Close()
	anon.Wait()
	if err := anon.Err(); err != nil || anon.State() != client.StateClosed {
		t.Errorf("closed with %v in state %s", err, anon.State())
	}
	var got []client.State
	for len(states) > 0 {
		got = append(got, <-states)
	}
	if got[0] != client.StateConnecting || got[1] != client.StateWaiting || got[len(got)-1] != client.StateClosed {
		t.Errorf("states: %v", got)
	}
}

func TestASessionEndsWhenItMust(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: sessionRules})
	expired := session(t, s.URL(), client.SessionOptions{Options: client.Options{Token: s.Token("ann", fairleadtest.Claims{Life: time.Second, Issued: time.Now()})}})
	refused := session(t, s.URL(), client.SessionOptions{Options: client.Options{Token: "none"}})
	asked := make(chan struct{}, 64)
	again := session(t, s.URL(), client.SessionOptions{Options: client.Options{TokenSource: func(context.Context) (string, error) {
		asked <- struct{}{}
		return "none", nil
	}}})
	for name, ended := range map[string]*client.Session{"expired": expired, "refused": refused, "refused twice": again} {
		receive(t, name, ended.Done())
		wantCode(t, name, ended.Err(), wire.Unauthenticated)
		_, err := ended.Ready(within(t))
		wantCode(t, name, err, wire.Unauthenticated)
		if _, err := ended.Follow("log.a", client.FollowOptions{OnMessage: func(client.Message) {}}); err == nil {
			t.Errorf("%s: it follows a topic", name)
		}
	}
	if got := len(asked); got != 2 {
		t.Errorf("a source of refused tokens was asked %d times, want 2", got)
	}
	// A source that has none at the moment is asked again.
	failing := 3
	patient := session(t, s.URL(), client.SessionOptions{Options: client.Options{TokenSource: func(context.Context) (string, error) {
		if failing--; failing > 0 {
			return "", errors.New("the login is away")
		}
		return s.Token("ann"), nil
	}}})
	ready(t, patient)
}

func TestASessionFollowsWhatItMay(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: sessionRules})
	ann := session(t, s.URL(), client.SessionOptions{Options: tokens(s, "ann")})
	denied := &heard{}
	_, err := ann.Follow("secret.a", denied.options())
	must(t, err)
	denied.until(t, "the refusal", func(h *heard) bool { return fmt.Sprint(h.denied) == "[PERMISSION_DENIED]" })
	_, err = ann.Follow("secret.a", denied.options())
	must(t, err) // it may try again

	bob := s.Client("bob")
	f, h := follow(t, ann, "log.a")
	_, err = ann.Follow("log.a", h.options())
	wantCode(t, "a second time", err, wire.AlreadyExists)
	say(t, bob, "log.a", 1, 3)
	h.exactly(t, 3)
	f.Stop()
	say(t, bob, "log.a", 4, 6)
	seq, ts, _ := f.Position()
	rest := &heard{}
	o := rest.options()
	o.After, o.Ts = &seq, ts
	_, err = ann.Follow("log.a", o)
	must(t, err)
	say(t, bob, "log.a", 7, 9)
	rest.until(t, "message 9", func(h *heard) bool { return len(h.messages) > 0 && h.messages[len(h.messages)-1] == "9" })
	if got, want := fmt.Sprint(h.messages, rest.messages), "[1 2 3] [4 5 6 7 8 9]"; got != want {
		t.Errorf("heard %s, want %s", got, want)
	}
	handled := make(chan struct{}, 16)
	var once *client.Follow
	var zero int64
	started := make(chan struct{})
	once, err = ann.Follow("log.b", client.FollowOptions{After: &zero, OnMessage: func(client.Message) {
		<-started
		once.Stop()
		handled <- struct{}{}
	}})
	must(t, err)
	say(t, bob, "log.b", 1, 5)
	close(started)
	receive(t, "a message", handled)
	_, after := follow(t, ann, "log.b") // live only when the one before is gone
	say(t, bob, "log.b", 1, 1)
	after.exactly(t, 1)
	if len(handled) > 0 {
		t.Errorf("%d messages were handled after Stop", len(handled))
	}
	_, err = ann.Follow("log.*", client.FollowOptions{After: &seq, OnMessage: func(client.Message) {}})
	wantCode(t, "a pattern from a position", err, wire.InvalidArgument)
}

// A handler that takes its time costs the queue, not messages.
func TestASlowFollowerMissesNothing(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: sessionRules})
	ann := session(t, s.URL(), client.SessionOptions{Options: tokens(s, "ann")})
	h := &heard{}
	o := h.options()
	release := make(chan struct{})
	inner := o.OnMessage
	o.OnMessage = func(m client.Message) {
		<-release
		inner(m)
	}
	o.Queue = 3
	_, err := ann.Follow("log.a", o)
	must(t, err)
	h.until(t, "log.a is followed", func(h *heard) bool { return len(h.starts) > 0 })
	say(t, s.Client("bob"), "log.a", 1, 20)
	close(release)
	h.exactly(t, 20)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.starts) < 2 || !h.starts[1].Again || !h.starts[1].Recovered {
		t.Errorf("starts: got %+v, want another one after the queue ran over", h.starts)
	}
}

func TestASessionClosesItselfFromACallback(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: sessionRules})
	ann := session(t, s.URL(), client.SessionOptions{Options: tokens(s, "ann")})
	calls := 0
	_, err := ann.Follow("log.a", client.FollowOptions{OnMessage: func(client.Message) { calls++; ann.Close() }})
	must(t, err)
	bob := s.Client("bob")
	for n := 1; ann.State() != client.StateClosed; n++ {
		say(t, bob, "log.a", n, n)
	}
	ann.Wait()
	if calls != 1 {
		t.Errorf("%d messages were handled, want the one that closed", calls)
	}
}
