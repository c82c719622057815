package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairleadtest"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// These tests ask real gateways: what the client says and hears is the protocol.

const openRules = `
topics:
  - {match: "log.>", subscribe: user, publish: user, from: true, replay: {size: 5, ttl: 1h}}
  - {match: "closed.>", subscribe: user, publish: none}
  - {match: "room.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 0s}}
  - {match: ">", subscribe: user, publish: user}
groups:
  - {match: ">", join: user, maxMembers: 2, roles: [member, admin], meta: [admin]}
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

func wantCode(t *testing.T, what string, err error, code wire.Code) {
	t.Helper()
	if err == nil || wire.CodeOf(err) != code {
		t.Errorf("%s: got %v, want %s", what, err, code)
	}
}

func TestPublishBatch(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: openRules})
	ann, bob := s.Client("ann"), s.Client("bob")
	sub, err := bob.Subscribe(within(t), "log.a", client.SubscribeOptions{})
	must(t, err)
	results, err := ann.PublishBatch(within(t), []client.BatchMessage{
		{Topic: "log.a", Data: 1, Key: "k"},
		{Topic: "closed.a", Data: 2},
		{Topic: "log.a", Event: "edited", Data: json.RawMessage(`{"n" : 3}`)},
		{Topic: "log.a", Data: 4, Key: "k"},
	}, client.BatchOptions{})
	must(t, err)
	if e := results[1].Err; e == nil || e.Code != wire.PermissionDenied {
		t.Errorf("a topic where nobody may publish: got %v", e)
	}
	if results[0].Err != nil || results[0].Seq == 0 || results[0].Duplicate {
		t.Errorf("the first: got %+v", results[0])
	}
	if r := results[3]; r.Seq != results[0].Seq || !r.Duplicate {
		t.Errorf("the first one's key again: got %+v, want %+v as a duplicate", r, results[0])
	}
	for _, want := range []string{`message 1`, `edited {"n" : 3}`} {
		m, err := sub.Next(within(t))
		must(t, err)
		if got := m.Event + " " + string(m.Data); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}

	_, err = ann.PublishBatch(within(t), []client.BatchMessage{{Topic: "log.a", Data: 1}, {Topic: "room.a", Data: 1}}, client.BatchOptions{Atomic: true})
	wantCode(t, "an atomic batch over two rules", err, wire.FailedPrecondition)
	_, err = ann.PublishBatch(within(t), []client.BatchMessage{{Topic: "log.a", Data: func() {}}}, client.BatchOptions{})
	wantCode(t, "what is no JSON", err, wire.InvalidArgument)
}

func TestHistoryAndGap(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: openRules})
	ann := s.Client("ann")
	for i := range 5 {
		_, err := ann.Publish(within(t), "log.a", "message", i+1, client.PublishOptions{})
		must(t, err)
	}
	page, err := ann.History(within(t), "log.a", client.HistoryOptions{Limit: 3})
	must(t, err)
	if len(page.Messages) != 3 || !page.More || page.Truncated {
		t.Fatalf("the first page: got %+v", page)
	}
	last := page.Messages[2]
	if string(last.Data) != "3" || last.Topic != "log.a" || last.From != "ann" || last.Seq == 0 || last.Ts == 0 {
		t.Errorf("the third message: got %+v", last)
	}
	page, err = ann.History(within(t), "log.a", client.HistoryOptions{After: last.Seq, Ts: last.Ts})
	must(t, err)
	if len(page.Messages) != 2 || page.More || page.Truncated || string(page.Messages[1].Data) != "5" || page.Messages[1].Seq != page.Seq {
		t.Errorf("the second page: got %+v", page)
	}
	gap, err := ann.Gap(within(t), "log.a", last.Seq, last.Ts)
	must(t, err)
	if gap.Truncated || gap.Seq != page.Seq {
		t.Errorf("gap: got %+v, want none up to %d", gap, page.Seq)
	}
	for i := range 4 { // five are kept: the fourth is gone then
		_, err := ann.Publish(within(t), "log.a", "message", i+6, client.PublishOptions{})
		must(t, err)
	}
	gap, err = ann.Gap(within(t), "log.a", last.Seq, last.Ts)
	must(t, err)
	if !gap.Truncated || gap.MissingFrom != last.Seq+1 {
		t.Errorf("gap: got %+v, want missing from %d", gap, last.Seq+1)
	}
	_, err = ann.History(within(t), "room.a", client.HistoryOptions{})
	wantCode(t, "a topic without a past", err, wire.FailedPrecondition)
}

func TestGroups(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: openRules})
	ann := s.Client("ann", fairleadtest.Claims{Groups: map[string][]string{"lobby": {"admin"}}})
	bob, cem := s.Client("bob"), s.Client("cem")
	changes, messages := make(chan client.GroupChange, 16), make(chan client.Message, 16)
	a, err := ann.JoinGroup(within(t), "lobby", client.GroupOptions{
		Role: "admin", Data: map[string]int{"n": 1},
		OnChange: func(c client.GroupChange) { changes <- c },
	})
	must(t, err)
	b, err := bob.JoinGroup(within(t), "lobby", client.GroupOptions{OnMessage: func(m client.Message) { messages <- m }})
	must(t, err)
	if count, _ := b.Joined(); count != 2 || b.Member() != bob.Welcome().Conn || b.Name() != "lobby" {
		t.Errorf("bob joined as %s of %d", b.Member(), count)
	}
	for c := receive(t, "bob's join", changes); ; c = receive(t, "bob's join", changes) {
		if m, ok := c.Joined[b.Member()]; ok {
			if m.Role != "member" {
				t.Errorf("bob's role: got %q", m.Role)
			}
			break
		}
	}
	_, err = cem.JoinGroup(within(t), "lobby", client.GroupOptions{})
	wantCode(t, "a group that is full", err, wire.ResourceExhausted)
	_, err = bob.JoinGroup(within(t), "lobby", client.GroupOptions{})
	wantCode(t, "a second time", err, wire.AlreadyExists)

	must(t, a.Publish(within(t), "deal", []int{1, 2}, ""))
	must(t, a.Publish(within(t), "secret", 1, "admin"))
	must(t, a.Send(within(t), b.Member(), "whisper", "psst"))
	for _, want := range []string{"deal [1,2]", `whisper "psst"`} {
		m := receive(t, want, messages)
		if got := m.Event + " " + string(m.Data); got != want || m.Group != "lobby" {
			t.Errorf("got %s in %q, want %s", got, m.Group, want)
		}
	}
	members, err := b.Members(within(t))
	must(t, err)
	if members.Count != 2 || string(members.Members[a.Member()].Data) != `{"n":1}` {
		t.Errorf("members: got %+v", members)
	}
	_, err = b.SetMeta(within(t), 1)
	wantCode(t, "the meta of a member", err, wire.PermissionDenied)
	set, err := a.SetMeta(within(t), map[string]int{"round": 2})
	must(t, err)
	fairleadtest.Eventually(t, "bob's gateway knows the meta", func() bool {
		got, err := b.Meta(within(t))
		must(t, err)
		return wire.EqualJSON(got, set) && string(got) == `{"round":2}`
	})
	must(t, b.Leave(within(t)))
	for c := receive(t, "bob's leave", changes); c.Left[b.Member()].Role == ""; {
		c = receive(t, "bob's leave", changes)
	}
	if _, err := cem.JoinGroup(within(t), "lobby", client.GroupOptions{}); err != nil {
		t.Errorf("bob's seat: %v", err)
	}
}

func TestMembersOfATopic(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: openRules})
	view := client.NewPresence()
	for _, user := range []string{"ann", "bob"} {
		c := s.Client(user)
		_, err := c.Subscribe(within(t), "room.a", client.SubscribeOptions{Presence: "watch", OnPresence: view.Apply})
		must(t, err)
		if user == "ann" {
			view = client.NewPresence()
		}
		must(t, c.JoinPresence(within(t), "room.a", map[string]string{"is": "new"}))
		must(t, c.UpdatePresence(within(t), "room.a", map[string]string{"is": user}))
		defer func() {
			must(t, c.LeavePresence(within(t), "room.a"))
		}()
	}
	must(t, view.Wait(within(t), func(m client.Members) bool {
		return m.Has("ann", "bob") && string(m.Users["ann"].Data) == `{"is":"ann"}` && string(m.Users["bob"].Data) == `{"is":"bob"}`
	}))
	c := s.Client("cem")
	_, err := c.Subscribe(within(t), "room.a", client.SubscribeOptions{})
	must(t, err)
	var users []string
	for page := (client.MembersPage{Cursor: ""}); ; {
		page, err = c.Members(within(t), "room.a", 1, page.Cursor)
		must(t, err)
		for user := range page.Users {
			users = append(users, user)
		}
		if page.Count != 2 {
			t.Errorf("count: got %d, want 2", page.Count)
		}
		if page.Cursor == "" {
			break
		}
	}
	if slices.Sort(users); fmt.Sprint(users) != "[ann bob]" {
		t.Errorf("members: got %v", users)
	}
}

// A connection lives as long as its source has tokens.
func TestTokenSource(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: openRules})
	var asked atomic.Int32
	ann := s.Client("ann", fairleadtest.With(client.Options{TokenSource: func(context.Context) (string, error) {
		if asked.Add(1) == 2 {
			return "", errors.New("the login is over")
		}
		return s.Token("ann", fairleadtest.Claims{Life: 6 * time.Second}), nil
	}}))
	failed := make(chan *wire.Error, 16)
	ann.OnError(func(e *wire.Error) { failed <- e })
	e := receive(t, "the source's error", failed)
	if e.Code != wire.Unauthenticated || e.Details["op"] != "refresh" {
		t.Errorf("got %+v, want what the source said", e)
	}
	if ann.CloseError() != nil {
		t.Errorf("the connection ended: %v", ann.CloseError())
	}
	fairleadtest.Eventually(t, "it is asked again", func() bool { return asked.Load() > 2 })

	_, err := client.Dial(within(t), s.URL(), client.Options{TokenSource: func(context.Context) (string, error) { return "", errors.New("no") }})
	wantCode(t, "a source without a token", err, wire.Unauthenticated)
}
