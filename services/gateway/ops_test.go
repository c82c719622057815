package gateway

import (
	"context"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestEveryOpIsServed(t *testing.T) {
	for i := range wire.Ops {
		if op := wire.Op(i); op != wire.OpUnknown && ops[op] == nil {
			t.Errorf("nothing runs %s", op)
		}
	}
}

// Ops of the presence service are known where there is none: it is away.
func TestOpsWithoutAPresenceService(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	p.send(`{"op":"subscribe","id":2,"topic":"a.b","presence":"watch"}`)
	p.expect(`{"id":2,"ok":{"topic":"a.b"}}`) // what there is to see comes when the service does
	for i, frame := range []string{
		`"op":"presence","topic":"a.b"`,
		`"op":"presence","topic":"c.d"`,
		`"op":"presence.join","topic":"a.b"`,
		`"op":"subscribe","topic":"a.b","presence":"join"`,
		`"op":"subscribe","topic":"e.f","presence":"join","data":{}`,
		`"op":"group.join","group":"g"`,
	} {
		p.sendf(`{"id":%d,%s}`, i+3, frame)
		p.expectError(int64(i+3), "UNAVAILABLE")
	}
	p.send(`{"id":20,"op":"presence.leave","topic":"a.b"}`)
	p.expect(`{"id":20,"ok":{}}`)
	p.send(`{"id":21,"op":"presence.update","topic":"a.b","data":1}`)
	p.expectError(21, "FAILED_PRECONDITION")
	p.send(`{"id":22,"op":"presence.join","topic":"e.f"}`) // nothing is left of the subscribe
	p.expectError(22, "FAILED_PRECONDITION")
	p.silent()
}

// A frame that can't be used is answered, and the next one works.
func TestBadFrames(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	many := strings.Repeat(`{"op":"pong"},`, 256)
	for _, c := range []struct {
		name, frame string
		id          int64
		details     map[string]any
	}{
		{"not JSON", `{"op":"publish"`, 0, nil},
		{"nothing", ``, 0, nil},
		{"two values", `{"op":"pong"}{"op":"pong"}`, 0, nil},
		{"not UTF-8", "{\"op\":\"publish\",\"id\":7,\"topic\":\"a\",\"data\":\"\xff\"}", 0, nil},
		{"not an object", `7`, 0, map[string]any{"field": "frame"}},
		{"null", `null`, 0, map[string]any{"field": "frame"}},
		{"257 frames", `[` + many + `{"op":"pong"}]`, 0, map[string]any{"field": "frame"}},
		{"no op", `{"id":7}`, 7, map[string]any{"field": "op"}},
		{"op is a number", `{"id":7,"op":1}`, 7, map[string]any{"field": "op"}},
		{"unknown op", `{"id":7,"op":"frobnicate","topic":"a"}`, 7, map[string]any{"field": "op"}},
		{"op in capitals", `{"id":7,"op":"PUBLISH"}`, 7, map[string]any{"field": "op"}},
		{"id 0", `{"id":0,"op":"subscribe","topic":"a"}`, 0, map[string]any{"field": "id", "op": "subscribe"}},
		{"id is text", `{"id":"7","op":"subscribe","topic":"a"}`, 0, map[string]any{"field": "id", "op": "subscribe", "topic": "a"}},
		{"id is a fraction", `{"id":1.5,"op":"subscribe","topic":"a"}`, 0, map[string]any{"field": "id"}},
		{"id is too large", `{"id":9007199254740992,"op":"subscribe","topic":"a"}`, 0, map[string]any{"field": "id"}},
		{"id is missing", `{"op":"subscribe","topic":"a"}`, 0, map[string]any{"field": "id", "op": "subscribe", "topic": "a"}},
		{"no topic", `{"id":7,"op":"unsubscribe"}`, 7, map[string]any{"field": "topic", "op": "unsubscribe"}},
		{"bad topic", `{"id":7,"op":"unsubscribe","topic":"a..b"}`, 7, map[string]any{"field": "topic", "op": "unsubscribe"}},
		{"bad method", `{"id":7,"op":"call","method":"a b"}`, 7, map[string]any{"field": "method", "op": "call"}},
		{"bad timeout", `{"id":7,"op":"call","method":"a","timeoutMs":0}`, 7, map[string]any{"field": "timeoutMs", "op": "call"}},
		{"no ref", `{"op":"cancel"}`, 0, map[string]any{"field": "ref", "op": "cancel"}},
		{"no token", `{"id":7,"op":"refresh"}`, 7, map[string]any{"field": "token", "op": "refresh"}},
	} {
		p.send(c.frame)
		got := p.expectError(c.id, "INVALID_ARGUMENT")
		for name, want := range c.details {
			if got[name] != want {
				t.Errorf("%s: got details %v, want %s: %v", c.name, got, name, want)
			}
		}
		p.silent()
	}
	p.send(`[` + many[:len(many)-1] + `]`) // as many as there may be
	p.silent()
}

// Every frame of an array is answered by itself.
func TestBadFrameInAnArray(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	p.send(`[{"op":"subscribe","id":2,"topic":"a.b"},7,{"op":"subscribe","id":3,"topic":"a..b"},{"id":4,"op":"cursor","topic":"c.d","data":1},{"op":"subscribe","id":5,"topic":"a.b"}]`)
	p.expect(`{"id":2,"ok":{"topic":"a.b"}}`)
	p.expectError(0, "INVALID_ARGUMENT")
	p.expectError(3, "INVALID_ARGUMENT")
	p.expectError(4, "FAILED_PRECONDITION") // the topic is not subscribed
	p.expect(`{"id":5,"ok":{"topic":"a.b"}}`)
}

func TestEmptyArrayAndUnknownMembersAreIgnored(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	for _, frame := range []string{`[]`, " [ \n] "} {
		p.send(frame)
		p.silent()
	}
	p.send(` {"future":{"op":"x"},"op":"subscribe","id":2,"topic":"a.b","colour":"red"} `)
	p.expect(`{"id":2,"ok":{"topic":"a.b"}}`)
}

func TestBinaryMessage(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.ws.Write(ctx, websocket.MessageBinary, []byte(`{"op":"subscribe","id":2,"topic":"a.b"}`)); err != nil {
		t.Fatal(err)
	}
	p.expectError(0, "INVALID_ARGUMENT")
	p.silent()
	p.subscribe(2, "a.b")
}

func TestPongNeedsNothing(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.send(`{"op":"pong"}`)
	p.hello("") // the first frame that is answered
	p.send(`{"op":"pong"}`)
	p.silent()
}
