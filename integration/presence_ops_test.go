package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ask sends an op as it stands and returns the answer, or its error.
func ask(t *testing.T, c *client.Client, op, fields string) (string, error) {
	t.Helper()
	ok, err := c.Request(within(t), op, json.RawMessage(fields))
	return string(ok), err
}

// asked is ask for what must succeed.
func asked(t *testing.T, c *client.Client, op, fields string) string {
	t.Helper()
	ok, err := ask(t, c, op, fields)
	if err != nil {
		t.Fatalf("%s %s: %v", op, fields, err)
	}
	return ok
}

// denied is ask for what must fail; it returns the error.
func denied(t *testing.T, c *client.Client, op, fields string, code wire.Code) *wire.Error {
	t.Helper()
	ok, err := ask(t, c, op, fields)
	if err == nil {
		t.Fatalf("%s %s: got %s, want %s", op, fields, ok, code)
	}
	e := wire.AsError(err)
	if e.Code != code {
		t.Fatalf("%s %s: got %v, want %s", op, fields, err, code)
	}
	return e
}

// list is op `presence`.
func list(t *testing.T, c *client.Client, fields string) (l wire.PresenceList) {
	t.Helper()
	must(t, json.Unmarshal([]byte(asked(t, c, "presence", fields)), &l))
	return l
}

// hears reads raw frames up to the reply with an id, and returns those before it
// and the reply.
func (p *peer) hears(id int64) (before []wire.ServerFrame, reply wire.ServerFrame) {
	p.t.Helper()
	for {
		frames, err := wire.DecodeServer([]byte(p.read()))
		must(p.t, err)
		for _, f := range frames {
			if f.Kind == wire.KindReply && f.ID == id {
				return before, f
			}
			before = append(before, f)
		}
	}
}

// presence reads the next frame, which is one of presence.
func (p *peer) presence() wire.ServerFrame {
	p.t.Helper()
	frames, err := wire.DecodeServer([]byte(p.read()))
	must(p.t, err)
	if len(frames) != 1 || frames[0].Op != "presence" {
		p.t.Fatalf("got %s, want a frame of presence", frames[0].Raw)
	}
	return frames[0]
}

// Joining is for subscribers, changing for members; leaving is for everybody.
func TestPresenceOpsNeedTheirStep(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 1, 1)
	now := unique("now")
	ann := s.as(0, "ann")
	denied(t, ann, "presence.join", `{"topic":"`+now+`"}`, wire.FailedPrecondition)
	denied(t, ann, "presence.update", `{"topic":"`+now+`","data":1}`, wire.FailedPrecondition)
	if got := asked(t, ann, "presence.leave", `{"topic":"`+now+`"}`); got != `{}` {
		t.Errorf("leave by who was never there: got %s", got)
	}
	subscribe(t, ann, now)
	denied(t, ann, "presence.update", `{"topic":"`+now+`","data":1}`, wire.FailedPrecondition)
	eye := watching(t, s.as(0, "eye"), now)
	eye.sees()
	for _, c := range []struct {
		op, fields string
		rev        int64 // of the eye after it
		data       string
	}{
		{"presence.join", `{"topic":"` + now + `","data":{"a":1,"b":[2]}}`, 2, `{"a":1,"b":[2]}`},
		{"presence.join", `{"topic":"` + now + `","data":{"a":1,"b":[2]}}`, 2, `{"a":1,"b":[2]}`},
		{"presence.join", `{"topic":"` + now + `","data":{"b":[2],"a":1}}`, 2, `{"a":1,"b":[2]}`},
		{"presence.update", `{"topic":"` + now + `","data":{"b": [2], "a":1}}`, 2, `{"a":1,"b":[2]}`},
		{"presence.update", `{"topic":"` + now + `","data":{"b":[2],"a":2}}`, 3, `{"a":2,"b":[2]}`},
	} {
		if got := asked(t, ann, c.op, c.fields); got != `{}` {
			t.Errorf("%s: got %s", c.op, got)
		}
		eye.says("ann", c.data)
		if got := eye.view.Now().Rev; got > c.rev {
			t.Errorf("%s %s: rev %d, want %d", c.op, c.fields, got, c.rev)
		}
	}
	for range 3 {
		asked(t, ann, "presence.leave", `{"topic":"`+now+`"}`)
	}
	eye.sees()
	denied(t, ann, "presence.update", `{"topic":"`+now+`","data":1}`, wire.FailedPrecondition)
	// Who came through the door is seen once more: nothing was said in between.
	asked(t, ann, "presence.join", `{"topic":"`+now+`"}`)
	eye.sees("ann")
	if got := eye.view.Now().Rev; got != 5 {
		t.Errorf("rev %d after a join, an update, a leave and a join, want 5", got)
	}
}

// Subscribing again replaces what a connection is on a topic.
func TestSubscribeAgainReplacesPresence(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 1)
	long := unique("long")
	eye := watching(t, s.as(1, "eye"), long)
	eye.sees()
	p := newPeer(t, s.url(0), "ann")
	p.send(`{"op":"subscribe","id":2,"topic":"` + long + `","presence":"join","data":1}`)
	p.hears(2)
	if f := p.presence(); len(f.State) != 1 || string(f.State["ann"].Data) != "1" {
		t.Fatalf("got %s, want the state with ann", f.Raw)
	}
	eye.says("ann", "1")
	p.send(`{"op":"subscribe","id":3,"topic":"` + long + `","presence":"join","data":2}`)
	p.hears(3)
	if f := p.presence(); len(f.Joins) != 1 || string(f.Joins["ann"].Data) != "2" {
		t.Fatalf("got %s, want that ann has changed", f.Raw)
	}
	eye.says("ann", "2")
	p.send(`{"op":"subscribe","id":4,"topic":"` + long + `","presence":"watch"}`)
	p.hears(4)
	if f := p.presence(); len(f.Leaves) != 1 {
		t.Fatalf("got %s, want that ann has left", f.Raw)
	}
	eye.sees() // at once, though the rule leaves time for a return
	p.send(`{"op":"subscribe","id":5,"topic":"` + long + `","presence":"join","data":3}`)
	p.hears(5)
	if f := p.presence(); string(f.Joins["ann"].Data) != "3" {
		t.Fatalf("got %s, want that ann has joined", f.Raw)
	}
	eye.says("ann", "3")
	p.send(`{"op":"subscribe","id":6,"topic":"` + long + `"}`)
	p.hears(6)
	eye.sees()
	// It hears messages, and nothing of presence any more.
	bob := joining(t, s.as(1, "bob"), long, "")
	eye.sees("bob")
	publish(t, bob.Client, long, `"last"`)
	for {
		got := p.read()
		if strings.Contains(got, `"last"`) {
			break
		}
		t.Errorf("heard %s after a subscribe without presence", got)
	}
}

// Nothing of presence follows the reply to unsubscribe, nor the end of watching.
func TestNothingFollowsUnsubscribe(t *testing.T) {
	s := anyPresence(t, 2, 1)
	now := unique("now")
	p := newPeer(t, s.url(0), "ann")
	nc := s.worker()
	for i := range 20 {
		id := int64(10 + 2*i)
		p.send(fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":"`+now+`","presence":"watch"}`, id))
		before, _ := p.hears(id)
		for _, f := range before {
			t.Errorf("%s before the reply to subscribe", f.Raw)
		}
		p.presence() // the state
		join(t, nc, now, fmt.Sprintf("u%d", i), `1`, "5s")
		p.send(fmt.Sprintf(`{"op":"unsubscribe","id":%d,"topic":"`+now+`"}`, id+1))
		p.hears(id + 1)
		for j := range 3 {
			join(t, nc, now, fmt.Sprintf("u%d", i), fmt.Sprint(j), "5s")
		}
		p.usable("unsubscribe") // a round trip later: any other frame fails here
	}
}

// What is refused before anything is done, with the reason.
func TestPresenceInput(t *testing.T) {
	t.Parallel()
	rules := strings.Replace(presenceRules, "topics:", `topics:
  - {name: wild, match: "wild.>", subscribe: user, publish: user, wildcards: true, presence: {watch: user, join: user}}`, 1)
	s := anyPresence(t, 1, 1, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, rules))
	now := unique("now")
	plain := unique("plain")
	ann := s.as(0, "ann")
	text := func(bytes int) string { return `"` + strings.Repeat("x", bytes-2) + `"` }
	big, fits := text(wire.MaxMemberData+1), text(wire.MaxMemberData)
	for _, c := range []struct {
		name, op, fields string
		code             wire.Code
		field            string
	}{
		{"watch of a wildcard", "subscribe", `{"topic":"` + lent("wild.>") + `","presence":"watch"}`, wire.InvalidArgument, "presence"},
		{"join of a wildcard", "subscribe", `{"topic":"` + lent("wild.*") + `","presence":"join"}`, wire.InvalidArgument, "presence"},
		{"another presence", "subscribe", `{"topic":"` + now + `","presence":"lurk"}`, wire.InvalidArgument, "presence"},
		{"large data", "subscribe", `{"topic":"` + now + `","presence":"join","data":` + big + `}`, wire.InvalidArgument, "data"},
		{"no presence", "subscribe", `{"topic":"` + plain + `","presence":"watch"}`, wire.PermissionDenied, ""},
		{"no presence to join", "subscribe", `{"topic":"` + plain + `","presence":"join"}`, wire.PermissionDenied, ""},
		{"no presence to list", "presence", `{"topic":"` + plain + `"}`, wire.PermissionDenied, ""},
		{"limit 0", "presence", `{"topic":"` + now + `","limit":0}`, wire.InvalidArgument, "limit"},
		{"limit 1001", "presence", `{"topic":"` + now + `","limit":1001}`, wire.InvalidArgument, "limit"},
	} {
		e := denied(t, ann, c.op, c.fields, c.code)
		if c.field != "" && e.Details["field"] != c.field {
			t.Errorf("%s: got details %v, want the field %s", c.name, e.Details, c.field)
		}
		if e.Details["op"] != c.op {
			t.Errorf("%s: got details %v, want the op", c.name, e.Details)
		}
	}
	// None of them has left a subscription.
	denied(t, ann, "presence.join", `{"topic":"`+now+`"}`, wire.FailedPrecondition)
	denied(t, ann, "presence.join", `{"topic":"`+plain+`"}`, wire.PermissionDenied)
	asked(t, ann, "subscribe", `{"topic":"`+now+`"}`)
	for _, op := range []string{"presence.join", "presence.update"} {
		fields := `{"topic":"` + now + `","data":`
		if op == "presence.update" {
			asked(t, ann, "presence.join", `{"topic":"`+now+`"}`)
		}
		if e := denied(t, ann, op, fields+big+`}`, wire.InvalidArgument); e.Details["field"] != "data" {
			t.Errorf("%s: got details %v, want the field data", op, e.Details)
		}
		asked(t, ann, op, fields+fits+`}`)
	}
	if e := denied(t, ann, "subscribe", `{"topic":"`+now+`","presence":"join","data":`+big+`}`, wire.InvalidArgument); e.Details["field"] != "data" {
		t.Errorf("subscribe again: got details %v, want the field data", e.Details)
	}
	if got := list(t, ann, `{"topic":"`+now+`"}`); len(got.Users["ann"].Data) != wire.MaxMemberData {
		t.Errorf("data of %d bytes, want %d", len(got.Users["ann"].Data), wire.MaxMemberData)
	}
}

// Who may watch need not be allowed to join, and a rule without either is one
// without presence to everybody.
func TestPresenceRights(t *testing.T) {
	t.Parallel()
	rules := rulesFile(t, `
topics:
  - {name: blind, match: "blind.>", subscribe: user, publish: user, presence: {watch: none, join: user}}
  - {name: mute, match: "mute.>", subscribe: user, publish: user, presence: {watch: user, join: none}}
  - {name: shut, match: "shut.>", subscribe: none, publish: user, presence: {watch: user, join: user}}
`)
	s := anyPresence(t, 1, 1, "FAIRLEAD_TOPICS_FILE="+rules)
	blind := unique("blind")
	mute := unique("mute")
	shut := unique("shut")
	ann := s.as(0, "ann")
	for _, c := range []struct{ op, fields string }{
		{"subscribe", `{"topic":"` + blind + `","presence":"watch"}`},
		{"subscribe", `{"topic":"` + blind + `","presence":"join"}`},
		{"presence", `{"topic":"` + blind + `"}`},
		{"subscribe", `{"topic":"` + mute + `","presence":"join"}`},
		{"presence.join", `{"topic":"` + mute + `"}`},
		{"presence.update", `{"topic":"` + mute + `","data":1}`},
		{"subscribe", `{"topic":"` + shut + `","presence":"watch"}`},
	} {
		if e := denied(t, ann, c.op, c.fields, wire.PermissionDenied); e.Details["rule"] == nil {
			t.Errorf("%s %s: got details %v, want the rule", c.op, c.fields, e.Details)
		}
	}
	eye := watching(t, ann, mute)
	eye.sees()
	denied(t, ann, "presence.join", `{"topic":"`+mute+`"}`, wire.PermissionDenied)
	denied(t, ann, "subscribe", `{"topic":"`+mute+`","presence":"join"}`, wire.PermissionDenied)
}

// The answer to op `presence` fits the frames: one rev, one list.
func TestPresenceListIsPagedAndFitsTheFrames(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 1)
	now := unique("now")
	empty := unique("now")
	nc := s.worker()
	names := make([]string, 25)
	for i := range names {
		names[i] = fmt.Sprintf("u%02d", i)
		join(t, nc, now, names[i], fmt.Sprint(i), "1m")
	}
	eye := watching(t, s.as(0, "eye"), now)
	// An answer that comes before the first frame is no answer of nobody.
	if got := list(t, eye.Client, `{"topic":"`+now+`","limit":1000}`); got.Count != 25 || len(got.Users) != 25 {
		t.Errorf("while the state is read: %d of %d, want 25", len(got.Users), got.Count)
	}
	eye.sees(names...)
	stranger := s.as(1, "stranger") // on a gateway where nobody watches
	for _, c := range []*client.Client{eye.Client, stranger} {
		seen, cursor, pages := map[string]bool{}, "", 0
		for {
			fields, err := json.Marshal(map[string]any{"topic": now, "limit": 10, "cursor": cursor})
			must(t, err)
			if cursor == "" {
				fields = []byte(`{"topic":"` + now + `","limit":10}`)
			}
			got := list(t, c, string(fields))
			pages++
			if got.Count != 25 || len(got.Users) > 10 {
				t.Fatalf("page %d: count %d, %d users", pages, got.Count, len(got.Users))
			}
			for user, m := range got.Users {
				if seen[user] {
					t.Errorf("%s is on two pages", user)
				}
				seen[user] = true
				if fmt.Sprintf("u%02s", m.Data) != user {
					t.Errorf("%s: data %s", user, m.Data)
				}
			}
			if c == eye.Client && int64(got.Rev) != eye.view.Now().Rev {
				t.Errorf("rev %d, the frames have %d", got.Rev, eye.view.Now().Rev)
			}
			if cursor = got.Cursor; cursor == "" {
				break
			}
		}
		if len(seen) != 25 || pages != 3 {
			t.Errorf("%d users on %d pages, want 25 on 3", len(seen), pages)
		}
	}
	if got := list(t, stranger, `{"topic":"`+empty+`"}`); got.Count != 0 || got.Users == nil || got.Cursor != "" {
		t.Errorf("nobody there: got %+v", got)
	}
}

// What the token says of a user stands apart from what the user says, and
// neither shows a secret.
func TestInfoAndDataArePublicOnly(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 1)
	now := unique("now")
	eye := watching(t, s.as(1, "eye"), now)
	eye.sees()
	claims := map[string]any{"info": map[string]any{
		"name": "Ann", "Session": "s", "deep": []any{map[string]any{"PASSWORD": 1, "tokenCount": 2}},
	}}
	c := dial(t, s.url(0), client.Options{Token: token("ann", claims)})
	data := `{"author":"x","tokenCount":3,"ToKeN":"t","list":[[{"apiKey":1,"keep":true,"nested":{"Cookie":{},"also":null}}]],"__proto__":{"a":1},"constructor":2,"secret":"s","access_token":"y"}`
	ann := joining(t, c, now, data)
	eye.says("ann", `{"author":"x","tokenCount":3,"list":[[{"keep":true,"nested":{"also":null}}]]}`)
	m := eye.view.Now().Users["ann"]
	if want := `{"name":"Ann","deep":[{"tokenCount":2}]}`; !wire.EqualJSON(m.Info, []byte(want)) {
		t.Errorf("info: got %s, want %s", m.Info, want)
	}
	asked(t, ann.Client, "presence.update", `{"topic":"`+now+`","data":{"pwd":1,"mood":"fine"}}`)
	eye.says("ann", `{"mood":"fine"}`)
	asked(t, ann.Client, "presence.update", `{"topic":"`+now+`","data":null}`)
	eye.until("ann without data", func(m client.Members) bool { return len(m.Users["ann"].Data) == 0 })
	// What the data claims to be is not taken for what the token says.
	asked(t, ann.Client, "presence.update", `{"topic":"`+now+`","data":{"info":{"name":"Root"}}}`)
	eye.says("ann", `{"info":{"name":"Root"}}`)
	if got := eye.view.Now().Users["ann"].Info; !wire.EqualJSON(got, m.Info) {
		t.Errorf("info: got %s", got)
	}
	// A newer token says otherwise.
	if _, err := c.Refresh(within(t), token("ann", map[string]any{"info": map[string]any{"name": "Anna"}})); err != nil {
		t.Fatal(err)
	}
	eye.until("Anna", func(m client.Members) bool { return string(m.Users["ann"].Info) == `{"name":"Anna"}` })
}
