package integration

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// echo lets a client answer every confirm with its name and what it was asked.
func echo(c *client.Client, name string) {
	c.Serve("confirm", func(_ context.Context, r client.Request) (any, error) {
		return json.RawMessage(fmt.Sprintf(`{"from":%q,"asked":%s}`, name, r.Data)), nil
	})
}

// The answer is the client's, byte for byte, and so is what it is asked.
func TestAskIsAnswered(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 3, 2)
	nc := s.worker()
	ann := newGuest(t, s.url(1), "ann@example.org", "g")
	for _, c := range []struct{ data, frame string }{
		{`{"op" : "delete"}`, `"data":{"op" : "delete"}`},
		{`1`, `"data":1`},
		{``, `"data":null`},
		{`plain text`, `"text":"plain text"`},
		{"\xff\x00", `"base64":"` + base64.StdEncoding.EncodeToString([]byte("\xff\x00")) + `"`},
	} {
		for i, reply := range []string{`{"yes" : true , "n":1e0}`, `null`, `"ü"`, `[]`} {
			got := make(chan answer, 1)
			go func() { got <- askFor(nc, "fl.ask.ann=40example=2Eorg", c.data, patience) }()
			f := ann.next()
			var timeout struct{ TimeoutMs int64 }
			must(t, json.Unmarshal(f.Raw, &timeout))
			if want := fmt.Sprintf(`{"op":"request","ref":%q,"event":"confirm",%s,"timeoutMs":%d}`, f.Ref, c.frame, timeout.TimeoutMs); string(f.Raw) != want {
				t.Fatalf("asked %s, want %s", f.Raw, want)
			}
			if timeout.TimeoutMs <= 0 || timeout.TimeoutMs > patience.Milliseconds() {
				t.Errorf("a timeout of %d ms", timeout.TimeoutMs)
			}
			ann.send(fmt.Sprintf(`{"op":"reply","id":%d,"ref":%q,"data":%s}`, 100+i, f.Ref, reply))
			if a := receive(t, got); a.err != nil || a.code != "" || a.body != reply {
				t.Errorf("asked %q: got %s, want %s", c.data, a, reply)
			}
			ann.next() // the answer to the reply
		}
	}
}

// A client's error reaches the asker with its message and what goes with it.
func TestAskIsRefused(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 1, 1)
	nc := s.worker()
	ann := s.as(0, "ann")
	for _, c := range []struct {
		err  error
		code wire.Code
		text string
		body string
	}{
		{wire.Errorf(wire.FailedPrecondition, "not in the mood: “no”"), wire.FailedPrecondition, "not in the mood: “no”", `{}`},
		{&wire.Error{Code: wire.ResourceExhausted, Message: "busy", RetryAfter: 2 * time.Second}, wire.ResourceExhausted, "busy", `{"retryAfterMs":2000}`},
		{&wire.Error{Code: wire.Unavailable, Message: "never", RetryAfter: wire.Never}, wire.Unavailable, "never", `{"retryAfterMs":null}`},
		{wire.Errorf(wire.NotFound, "no such dialog"), wire.NotFound, "no such dialog", `{}`},
		{errors.New("secret"), wire.Internal, "internal error", `{}`},
	} {
		ann.Serve("confirm", func(context.Context, client.Request) (any, error) { return nil, c.err })
		if a := fails(t, nc, "fl.ask.ann", c.code); a.text != c.text || a.body != c.body {
			t.Errorf("got %s, want %q %s", a, c.text, c.body)
		}
	}
	ann.Serve("confirm", nil)
	fails(t, nc, "fl.ask.ann", wire.Unimplemented)
}

// Nobody is there: that is the answer, at once, whether the user was there once
// or never, and for ids that are none there is another.
func TestAskOfNobody(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 3, 2)
	nc := s.worker()
	offline(t, nc, "nobody")
	offline(t, nc, "a=40b")
	ann := s.as(2, "ann")
	echo(ann, "ann")
	answers(t, nc, "ann", "1", `{"from":"ann","asked":1}`)
	ann.Close(wire.CloseNormal)
	ann.Wait()
	eventually(t, "ann is offline", func() (any, bool) {
		a := askFor(nc, "fl.ask.ann", "1", patience)
		return a, a.code == wire.NotFound
	})
	for _, token := range []string{"a=4", "=41", "a=zz", "ü", "=0A"} {
		if a := fails(t, nc, "fl.ask."+token, wire.InvalidArgument); a.text == "" {
			t.Errorf("%s: got %s", token, a)
		}
	}
}

// A client that does not answer: by the deadline the gateway says so. What it
// says later, or twice, is nobody's.
func TestAskWithoutAnswer(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 3, 2)
	nc := s.worker()
	ann := newGuest(t, s.url(0), "ann", "g")
	const deadline = 2 * time.Second
	a := askFor(nc, "fl.ask.ann", "1", deadline)
	if a.code != wire.DeadlineExceeded || a.text == "" || a.took < deadline-50*time.Millisecond {
		t.Errorf("got %s, want DEADLINE_EXCEEDED after %s", a, deadline)
	}
	late := ann.next().Ref
	ann.fails("reply", fmt.Sprintf(`"ref":%q,"data":"late"`, late), wire.NotFound)

	if a := askFor(nc, "fl.ask.ann", "1", -time.Second); a.code != wire.DeadlineExceeded || a.took > patience/2 {
		t.Errorf("a deadline that has passed: got %s", a)
	}

	got := make(chan answer, 1)
	go func() { got <- askFor(nc, "fl.ask.ann", "2", patience) }()
	f := ann.next()
	ann.ok("reply", fmt.Sprintf(`"ref":%q,"data":"first"`, f.Ref), "{}")
	ann.fails("reply", fmt.Sprintf(`"ref":%q,"data":"second"`, f.Ref), wire.NotFound)
	ann.fails("reply", fmt.Sprintf(`"ref":%q,"data":"late"`, late), wire.NotFound)
	if a := receive(t, got); a.body != `"first"` || a.code != "" {
		t.Errorf("got %s, want the first reply", a)
	}
}

// The connection ends while its client thinks: that is the answer, at once, and
// nobody else is asked, since the client may have done it.
func TestAskOfAClientThatGoes(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 3, 2)
	nc := s.worker()
	for i, leave := range []func(*guest){
		func(g *guest) { g.ws.CloseNow() },
		func(g *guest) { must(t, g.ws.Close(1000, "")) },
	} {
		user := fmt.Sprintf("goer%d", i)
		old := newGuest(t, s.url(i+1), user, "g")
		has(t, nc, user, old.conn)
		g := newGuest(t, s.url(i), user, "g")
		has(t, nc, user, g.conn, old.conn)
		got := make(chan answer, 1)
		go func() { got <- askFor(nc, "fl.ask."+user, "1", patience) }()
		if f := g.next(); f.Ref == "" {
			t.Fatalf("got %s", f.Raw)
		}
		leave(g)
		if a := receive(t, got); a.code != wire.Unavailable || a.text != "the connection closed" || a.took > patience/2 {
			t.Errorf("got %s, want that the connection closed", a)
		}
		old.quiet("an ask of the other device")
	}
}

// A reply counts on the connection that was asked, on no other of the user.
func TestAskIsAnsweredByWhoWasAsked(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 3, 2)
	nc := s.worker()
	phone := newGuest(t, s.url(0), "ann", "g")
	has(t, nc, "ann", phone.conn)
	desk := newGuest(t, s.url(1), "ann", "g")
	has(t, nc, "ann", desk.conn, phone.conn)
	tab := newGuest(t, s.url(1), "ann", "g")
	has(t, nc, "ann", tab.conn, desk.conn, phone.conn)
	got := make(chan answer, 1)
	go func() { got <- askFor(nc, "fl.ask.ann", "1", patience) }()
	f := tab.next()
	for _, other := range []*guest{phone, desk} {
		other.fails("reply", fmt.Sprintf(`"ref":%q,"data":"forged"`, f.Ref), wire.NotFound)
	}
	tab.ok("reply", fmt.Sprintf(`"ref":%q,"data":"mine"`, f.Ref), "{}")
	if a := receive(t, got); a.body != `"mine"` {
		t.Errorf("got %s", a)
	}
}

// The newest device is asked unless Fl-Conn names another that is the user's,
// then the next newest; whichever closes, the user can be asked.
func TestAskOfSeveralDevices(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 3, 2)
	nc := s.worker()
	devices := map[string]*client.Client{}
	var order []string
	for i, name := range []string{"phone", "desk", "tab"} {
		c := s.as(i, "ann")
		echo(c, name)
		devices[name] = c
		order = append([]string{c.Welcome().Conn}, order...)
		has(t, nc, "ann", order...)
	}
	bob := s.as(0, "bob")
	echo(bob, "bob")
	from := func(name string) string { return fmt.Sprintf(`{"from":%q,"asked":1}`, name) }
	conn := func(name string) string { return devices[name].Welcome().Conn }
	for range 4 { // whichever replica
		answers(t, nc, "ann", "1", from("tab"))
		answers(t, nc, "ann", "1", from("phone"), "Fl-Conn", conn("phone"))
		answers(t, nc, "ann", "1", from("desk"), "fl-conn", conn("desk"))
		answers(t, nc, "ann", "1", from("tab"), "Fl-Conn", bob.Welcome().Conn)
		answers(t, nc, "ann", "1", from("tab"), "Fl-Conn", "no such *.> conn")
	}
	// At once, whatever the registry says meanwhile.
	devices["desk"].Close(wire.CloseNormal)
	devices["desk"].Wait()
	answers(t, nc, "ann", "1", from("tab"), "Fl-Conn", conn("desk"))
	devices["tab"].Abort()
	devices["tab"].Wait()
	eventually(t, "the phone is asked", func() (any, bool) {
		a := askFor(nc, "fl.ask.ann", "1", patience)
		if a.err != nil || a.code != "" && a.code != wire.Unavailable {
			t.Fatalf("got %s", a)
		}
		return a, a.body == from("phone")
	})
	again := s.as(1, "ann")
	echo(again, "again")
	eventually(t, "the new device is asked", func() (any, bool) {
		a := askFor(nc, "fl.ask.ann", "1", patience)
		return a, a.body == from("again")
	})
	devices["phone"].Close(wire.CloseNormal)
	answers(t, nc, "ann", "1", from("again"))
}

// Fl-Conn names a device that has just come: it is asked though no registry may
// know of it.
func TestAskOfAnewDevice(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 1)
	nc := s.worker()
	echo(s.as(0, "ann"), "old")
	for i := range 20 {
		name := fmt.Sprint(i)
		c := s.as(i, "ann")
		echo(c, name)
		answers(t, nc, "ann", "1", fmt.Sprintf(`{"from":%q,"asked":1}`, name), "Fl-Conn", c.Welcome().Conn)
	}
}

// A reply subject that Fairlead does not answer: the client is not even asked.
func TestAskWithAForgedReplySubject(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 1, 1)
	nc := s.worker()
	ann := newGuest(t, s.url(0), "ann", "g")
	heard := listen(t, nc, "fl.topic.>")
	for _, reply := range []string{"$JS.API.STREAM.PURGE.KV_fl_presence", "fl.topic.room.a", "fl.ask.ann", ""} {
		must(t, nc.PublishMsg(&nats.Msg{Subject: "fl.ask.ann", Reply: reply, Data: []byte("1")}))
		must(t, nc.PublishMsg(&nats.Msg{Subject: "fl.ask.nobody", Reply: reply, Data: []byte("1")}))
	}
	got := make(chan answer, 1)
	go func() { got <- askFor(nc, "fl.ask.ann", "2", patience) }()
	f := ann.next()
	if string(f.Data) != "2" {
		t.Errorf("asked %s", f.Raw)
	}
	ann.ok("reply", fmt.Sprintf(`"ref":%q,"data":3`, f.Ref), "{}")
	if a := receive(t, got); a.body != "3" {
		t.Errorf("got %s", a)
	}
	if n, _, err := heard.Pending(); n != 0 || err != nil {
		t.Errorf("%d messages on topics (%v)", n, err)
	}
	eventually(t, "the registry still has her", func() (any, bool) { // it hears of her behind the hello
		online, _ := svc(t, nc, "online", `{"users":["ann"]}`)
		return online, online == `{"online":{"ann":true}}`
	})
}

// A request to one connection, and to one that is gone, without the service; and
// how many connections of a user a message was for.
func TestRequestsOfConnectionsAndUsers(t *testing.T) {
	t.Parallel()
	s := anyStack(t, 2)
	nc := s.worker()
	ann := s.as(0, "ann")
	other := s.beside(ann, "ann") // one gateway answers, for its own
	echo(ann, "ann")
	conn := ann.Welcome().Conn
	if a := askFor(nc, "fl.conn."+conn, "1", patience); a.body != `{"from":"ann","asked":1}` {
		t.Errorf("got %s", a)
	}
	if a := askFor(nc, "fl.user.ann", "1", patience); a.body != `{"reached":2}` || a.code != "" {
		t.Errorf("got %s", a)
	}
	if a := askFor(nc, "fl.user.ann", "1", patience, "Fl-Exclude", conn); a.body != `{"reached":1}` {
		t.Errorf("got %s", a)
	}
	var probed wire.Probed
	a := askFor(nc, "fl.user.ann", "", patience, "Fl-Probe", "1")
	must(t, json.Unmarshal([]byte(a.body), &probed))
	if len(probed.Connections) != 2 || probed.Connections[0].Since == 0 {
		t.Errorf("got %s", a)
	}
	for _, gone := range []string{"none", conn} {
		if gone == conn {
			ann.Close(wire.CloseNormal)
			ann.Wait()
		}
		eventually(t, "no responders", func() (any, bool) {
			a := askFor(nc, "fl.conn."+gone, "1", patience)
			return a, a.none()
		})
	}
	other.Close(wire.CloseNormal)
	eventually(t, "no responders", func() (any, bool) {
		_, err := nc.Request("fl.user.ann", nil, 100*time.Millisecond)
		return err, errors.Is(err, nats.ErrNoResponders)
	})
}
