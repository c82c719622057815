package client

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func fold(t *testing.T, view *Cursors, frame string) {
	t.Helper()
	decoded, err := wire.DecodeServer([]byte(frame))
	if err != nil {
		t.Fatal(err)
	}
	view.Apply(&decoded[0])
}

func TestCursorsFoldFrames(t *testing.T) {
	view := NewCursors()
	if view.Now() != nil {
		t.Errorf("before the first frame: got %v", view.Now())
	}
	frames := 0
	for _, step := range []struct{ frame, want string }{
		{`{"op":"cursors","topic":"a","all":{}}`, `{}`},
		{`{"op":"cursors","topic":"a","moved":{"ann":{"x" : 1},"bob":2}}`, `{"ann":{"x":1},"bob":2}`},
		{`{"op":"cursors","topic":"a","moved":{"ann":3},"gone":["bob","cid"]}`, `{"ann":3}`},
		{`{"op":"cursors","topic":"a","gone":["ann"]}`, `{}`},
		{`{"op":"presence","topic":"a","rev":1,"state":{}}`, `{}`},
		{`{"op":"cursors","topic":"a","moved":{"dan":1}}`, `{"dan":1}`},
		{`{"op":"cursors","topic":"a","all":{"eve":1}}`, `{"eve":1}`},
	} {
		before := view.Now()
		was := fmt.Sprintf("%s", before)
		fold(t, view, step.frame)
		if step.frame[7] == 'c' {
			frames++
		}
		if got, err := json.Marshal(view.Now()); err != nil || string(got) != step.want {
			t.Errorf("after %s: got %s, %v, want %s", step.frame, got, err, step.want)
		}
		if got := fmt.Sprintf("%s", before); got != was {
			t.Errorf("after %s: what was handed out became %s", step.frame, got)
		}
	}
	if view.Err() != nil || view.Frames() != frames {
		t.Errorf("got %v after %d frames, want %d", view.Err(), view.Frames(), frames)
	}
	early := NewCursors()
	fold(t, early, `{"op":"cursors","topic":"a","moved":{"ann":1}}`)
	if early.Err() == nil {
		t.Error("a change before all of them: got no error")
	}
}

func TestWaitForCursors(t *testing.T) {
	view := NewCursors()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	there := func(now map[string]json.RawMessage) bool { return now["ann"] != nil }
	if err := view.Wait(ctx, there); err == nil {
		t.Error("waited for nobody: got no error")
	}
	done := make(chan error, 1)
	go func() { done <- view.Wait(t.Context(), there) }()
	fold(t, view, `{"op":"cursors","topic":"a","all":{}}`)
	fold(t, view, `{"op":"cursors","topic":"a","moved":{"ann":1}}`)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSubscriptionDeliversCursors(t *testing.T) {
	c, s := connect(t, Options{})
	view := NewCursors()
	sub, err := c.Subscribe(t.Context(), "doc.7", SubscribeOptions{OnCursors: view.Apply})
	if err != nil {
		t.Fatal(err)
	}
	s.say(`{"op":"cursors","topic":"doc.8","all":{"eve":1}}`)
	s.say(`[{"op":"cursors","topic":"doc.7","all":{}},{"topic":"doc.7","event":"e","data":1},{"op":"cursors","topic":"doc.7","moved":{"ann":{"x" : 1}}}]`)
	if err := view.Wait(t.Context(), func(now map[string]json.RawMessage) bool { return string(now["ann"]) == `{"x" : 1}` }); err != nil {
		t.Fatal(err)
	}
	if view.Now()["eve"] != nil {
		t.Error("a frame of another topic was applied")
	}
	if m, err := sub.Next(t.Context()); err != nil || m.Event != "e" {
		t.Errorf("got %+v, %v, want the message alone", m, err)
	}
	for _, move := range []struct {
		data any
		want string
	}{{json.RawMessage(`{"x" : 1}`), `{"x" : 1}`}, {nil, "null"}, {[]int{1, 2}, "[1,2]"}} {
		if err := c.MoveCursor("doc.7", move.data); err != nil {
			t.Fatal(err)
		}
		if f := s.next(t); string(f["op"]) != `"cursor"` || string(f["topic"]) != `"doc.7"` || string(f["data"]) != move.want || f["id"] != nil {
			t.Errorf("sent %s, want data %s without an id", f, move.want)
		}
	}
	wantCode(t, c.MoveCursor("doc.7", json.RawMessage("{")), wire.InvalidArgument)
}
