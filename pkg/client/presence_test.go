package client

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func apply(t *testing.T, view *Presence, frames ...string) {
	t.Helper()
	for _, frame := range frames {
		decoded, err := wire.DecodeServer([]byte(frame))
		if err != nil {
			t.Fatal(err)
		}
		view.Apply(&decoded[0])
	}
}

func TestPresenceFoldsFrames(t *testing.T) {
	view := NewPresence()
	for _, step := range []struct {
		frame string
		want  string
	}{
		{`{"op":"presence","topic":"a","rev":1,"state":{}}`, "1 [] 0 false"},
		{`{"op":"presence","topic":"a","rev":2,"joins":{"bob":{},"ann":{"data":1}}}`, "2 [ann bob] 2 false"},
		{`{"op":"presence","topic":"a","rev":3,"joins":{"ann":{"data":2}},"leaves":{"bob":{}}}`, "3 [ann] 1 false"},
		{`{"op":"presence","topic":"a","rev":4,"leaves":{"ann":{}}}`, "4 [] 0 false"},
		{`{"op":"presence","topic":"a","rev":5,"state":{"cat":{}},"more":true}`, "4 [] 0 false"},
		{`{"op":"presence","topic":"a","rev":5,"state":{"dan":{}}}`, "5 [cat dan] 2 false"},
		{`{"op":"presence","topic":"a","rev":6,"count":70000,"sample":{"eve":{}}}`, "6 [eve] 70000 true"},
		{`{"op":"presence","topic":"a","rev":7,"state":{"eve":{}}}`, "7 [eve] 1 false"},
		{`{"op":"truncated","topic":"a","missingFrom":1}`, "7 [eve] 1 false"},
	} {
		before := view.Now()
		names := fmt.Sprint(before.Names())
		apply(t, view, step.frame)
		now := view.Now()
		if got := fmt.Sprint(now.Rev, now.Names(), now.Count, now.Sampled); got != step.want {
			t.Errorf("after %s: got %s, want %s", step.frame, got, step.want)
		}
		if got := fmt.Sprint(before.Names()); got != names {
			t.Errorf("after %s: what was handed out became %s", step.frame, got)
		}
	}
	if err := view.Err(); err != nil {
		t.Error(err)
	}
}

func TestPresenceKeepsPagesOfOneStateTogether(t *testing.T) {
	view := NewPresence()
	apply(t, view,
		`{"op":"presence","topic":"a","rev":1,"state":{"ann":{}},"more":true}`,
		`{"op":"presence","topic":"a","rev":2,"state":{"bob":{}},"more":true}`,
		`{"op":"presence","topic":"a","rev":2,"state":{"cat":{}}}`)
	if now := view.Now(); fmt.Sprint(now.Names()) != "[bob cat]" || view.Err() != nil {
		t.Errorf("got %v, %v, want [bob cat]", now.Names(), view.Err())
	}
}

func TestPresenceBlamesContradictions(t *testing.T) {
	state := `{"op":"presence","topic":"a","rev":5,"state":{"ann":{}}}`
	for name, frames := range map[string][]string{
		"diff first":       {`{"op":"presence","topic":"a","rev":5,"joins":{"ann":{}}}`},
		"same rev":         {state, `{"op":"presence","topic":"a","rev":5,"joins":{"bob":{}}}`},
		"older state":      {state, `{"op":"presence","topic":"a","rev":4,"state":{}}`},
		"older count":      {state, `{"op":"presence","topic":"a","rev":4,"count":9,"sample":{}}`},
		"unknown leave":    {state, `{"op":"presence","topic":"a","rev":6,"leaves":{"bob":{}}}`},
		"leave twice":      {state, `{"op":"presence","topic":"a","rev":6,"leaves":{"ann":{}}}`, `{"op":"presence","topic":"a","rev":7,"leaves":{"ann":{}}}`},
		"within a state":   {`{"op":"presence","topic":"a","rev":5,"state":{"ann":{}},"more":true}`, `{"op":"presence","topic":"a","rev":6,"joins":{"bob":{}}}`},
		"diff after count": {state, `{"op":"presence","topic":"a","rev":6,"count":9,"sample":{}}`, `{"op":"presence","topic":"a","rev":7,"joins":{"bob":{}}}`},
	} {
		view := NewPresence()
		apply(t, view, frames...)
		if view.Err() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSubscriptionDeliversPresence(t *testing.T) {
	c, s := connect(t, Options{})
	view := NewPresence()
	sub, err := c.Subscribe(t.Context(), "chat.a", SubscribeOptions{Presence: "join", Data: 1, OnPresence: view.Apply})
	if err != nil {
		t.Fatal(err)
	}
	s.say(`{"op":"presence","topic":"chat.b","rev":9,"state":{"eve":{}}}`)
	s.say(`[{"op":"presence","topic":"chat.a","rev":1,"state":{"ann":{}}},{"topic":"chat.a","event":"e","data":1},{"op":"presence","topic":"chat.a","rev":2,"joins":{"bob":{}}}]`)
	if err := view.Wait(t.Context(), func(now Members) bool { return now.Has("ann", "bob") && now.Count == 2 }); err != nil {
		t.Fatal(err)
	}
	if m, err := sub.Next(t.Context()); err != nil || m.Event != "e" {
		t.Errorf("got %+v, %v, want the message alone", m, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := view.Wait(ctx, func(now Members) bool { return now.Has("eve") }); err == nil {
		t.Error("a frame of another topic was applied")
	}
}

func TestPresenceThatNobodyTakesEndsTheSubscription(t *testing.T) {
	c, s := connect(t, Options{})
	entered, release := make(chan struct{}, 8), make(chan struct{})
	sub, err := c.Subscribe(t.Context(), "chat.a", SubscribeOptions{Presence: "watch", Queue: 2, OnPresence: func(*wire.ServerFrame) {
		entered <- struct{}{}
		<-release
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(release) })
	frame := `{"op":"presence","topic":"chat.a","rev":1,"state":{}}`
	s.say(frame)
	receive(t, entered)
	for range 3 {
		s.say(frame)
	}
	if _, err := sub.Next(t.Context()); wire.CodeOf(err) != wire.ResourceExhausted {
		t.Errorf("got %v, want %s", err, wire.ResourceExhausted)
	}
	var op string
	if f := s.next(t); json.Unmarshal(f["op"], &op) != nil || op != "unsubscribe" {
		t.Errorf("got %s, want unsubscribe", f["op"])
	}
}

func TestGroupFramesComeInOrder(t *testing.T) {
	c, s := connect(t, Options{})
	frames := make(chan *wire.ServerFrame, 4)
	c.OnGroup(func(f *wire.ServerFrame) { frames <- f })
	c.Inbox(func(m Message) { t.Errorf("the inbox got %+v", m) })
	s.say(`[{"op":"group","group":"g 1","joined":{"c1":{"role":"admin","data":[1]}}},{"group":"g 1","event":"e","data":2},{"op":"group","group":"g 1","left":{"c1":{"role":"admin"}},"meta":{"a":1},"closed":true}]`)
	if f := receive(t, frames); f.Op != "group" || f.Joined["c1"].Role != "admin" || string(f.Joined["c1"].Data) != "[1]" {
		t.Errorf("got %s", f.Raw)
	}
	if f := receive(t, frames); f.Op != "" || f.Group != "g 1" || f.Event != "e" || string(f.Data) != "2" {
		t.Errorf("got %s", f.Raw)
	}
	if f := receive(t, frames); f.Left["c1"].Role != "admin" || string(f.Meta) != `{"a":1}` || !f.Closed {
		t.Errorf("got %s", f.Raw)
	}
}
