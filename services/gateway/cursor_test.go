package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// other is another gateway, played by the test, with cursors on one topic.
type other struct {
	t     *testing.T
	nc    *nats.Conn
	id    string
	topic string
	heard *nats.Subscription
}

func newOther(t *testing.T, r *rig, id, topic string) *other {
	t.Helper()
	nc := r.bus()
	heard, err := nc.SubscribeSync("fl.cursor." + topic)
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return &other{t: t, nc: nc, id: id, topic: topic, heard: heard}
}

func (o *other) say(subject string, m wire.CursorMessage) {
	o.t.Helper()
	m.Gateway = o.id
	if err := o.nc.Publish(subject, messageBytes(&m)); err != nil {
		o.t.Fatal(err)
	}
}

// hears returns the next message of another gateway than itself.
func (o *other) hears() (*wire.CursorMessage, string) {
	o.t.Helper()
	for {
		msg, err := o.heard.NextMsg(patience)
		if err != nil {
			o.t.Fatalf("nothing on fl.cursor.%s: %v", o.topic, err)
		}
		m, err := wire.DecodeCursorMessage(msg.Data)
		if err != nil {
			o.t.Fatalf("%s: %v", msg.Data, err)
		}
		if m.Gateway != o.id {
			return m, msg.Reply
		}
	}
}

func manyCursors(n int, data string) (moved []wire.CursorMove) {
	for i := range n {
		moved = append(moved, wire.CursorMove{User: fmt.Sprintf("u%05d", i), At: 5, Data: []byte(data)})
	}
	return moved
}

// cursorFrame reads the next frame of cursors and checks its size.
func (p *peer) cursorFrame(most int) wire.ServerFrame {
	p.t.Helper()
	for {
		raw := p.read()
		frames, err := wire.DecodeServer([]byte(raw))
		if err != nil {
			p.t.Fatal(err)
		}
		if f := frames[0]; f.Op == "cursors" {
			if len(raw) > most {
				p.t.Errorf("a frame of %d bytes, want at most %d", len(raw), most)
			}
			return f
		}
	}
}

// What other gateways have is asked for when the first client of a topic comes,
// and a client is told once they had the time to answer: a large state in
// frames that fit its queue, whole before anything it is owed besides.
func TestFirstWatcherGetsWhatOthersHave(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), limited(func(l *Limits) { l.OutboundBytes = 64 << 10 }))
	o := newOther(t, r, "other", "doc.1")
	p := r.dial()
	p.hello("")
	p.send(`{"op":"subscribe","id":2,"topic":"doc.1","cursors":true}`)
	p.expect(`{"id":2,"ok":{"topic":"doc.1"}}`)
	ask, reply := o.hears()
	if !ask.Ask || !r.g.guard.MayReply(reply) {
		t.Fatalf("got %+v with reply %q, want a question", ask, reply)
	}
	const n = 1000
	all := manyCursors(n, `"`+strings.Repeat("x", 500)+`"`)
	for i := range 4 {
		o.say(reply, wire.CursorMessage{Topic: "doc.1", Whole: true, Page: int64(i), More: i < 3, Moved: all[i*n/4 : (i+1)*n/4]})
	}
	have, first := map[string]bool{}, true
	for len(have) < n {
		f := p.cursorFrame(17 << 10)
		if (f.All != nil) != first {
			t.Fatalf("frame %d: all is %v", len(have), f.All != nil)
		}
		first = false
		for _, moved := range []map[string]json.RawMessage{f.All, f.Moved} {
			for user := range moved {
				if have[user] {
					t.Errorf("%s came twice", user)
				}
				have[user] = true
			}
		}
	}
	// A later one is told at once, and of what changes in between.
	o.say("fl.cursor.doc.1", wire.CursorMessage{Gone: []wire.CursorGone{{User: "u00000", At: 5}}})
	if f := p.cursorFrame(17 << 10); len(f.Gone) != 1 || f.Gone[0] != "u00000" {
		t.Errorf("got %s, want that u00000 is gone", f.Raw)
	}
}

// A client that is told of a topic's cursors is told of those on other gateways
// too, if they answer at once.
func TestFirstWatcherWaitsForOthers(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p := r.dial()
	p.hello("")
	for i := range 50 {
		topic := fmt.Sprint("doc.", i)
		o := newOther(t, r, "other", topic)
		p.send(fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":%q,"cursors":true}`, i+2, topic))
		began := time.Now()
		_, reply := o.hears()
		o.say(reply, wire.CursorMessage{Topic: topic, Whole: true, Moved: moves(5, "1", "ann")})
		if err := o.nc.Flush(); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		f := p.cursorFrame(1 << 10)
		if string(f.All["ann"]) == "1" {
			return
		}
		if took < cursorGather/3 {
			t.Fatalf("answered within %s, and the client was told %s", took, f.Raw)
		}
		if f = p.cursorFrame(1 << 10); string(f.Moved["ann"]) != "1" {
			t.Fatalf("an answer that came late: the client was told %s", f.Raw)
		}
	}
	t.Error("no answer was quick enough")
}

// A gateway answers who asks with all it has, on inboxes only, and takes no
// nonsense.
func TestCursorsAnswerOtherGateways(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	o := newOther(t, r, "other", "doc.1")
	p := r.dial()
	_, user, _ := p.hello("")
	p.send(`{"op":"subscribe","id":2,"topic":"doc.1"}`)
	p.expect(`{"id":2,"ok":{"topic":"doc.1"}}`)
	p.send(`{"op":"cursor","topic":"doc.1","data":{"x" : 1}}`)
	var moved *wire.CursorMessage
	for moved == nil || len(moved.Moved) == 0 {
		moved, _ = o.hears()
	}
	if m := moved.Moved[0]; m.User != user || string(m.Data) != `{"x" : 1}` || time.Since(time.UnixMilli(m.At)).Abs() > patience {
		t.Errorf("others hear %+v", m)
	}
	inbox := nats.NewInbox()
	answers, err := o.nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	ask := messageBytes(&wire.CursorMessage{Gateway: "other", Ask: true})
	topic, err := o.nc.SubscribeSync("fl.topic.victim")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`{}`, `no`, `{"gateway":"other","moved":{"":{"at":1,"data":1}}}`, ""} {
		if err := o.nc.Publish("fl.cursor.doc.1", []byte(bad)); err != nil {
			t.Fatal(err)
		}
	}
	for _, reply := range []string{"fl.topic.victim", inbox} {
		if err := o.nc.PublishRequest("fl.cursor.doc.1", reply, ask); err != nil {
			t.Fatal(err)
		}
	}
	msg, err := answers.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	m, err := wire.DecodeCursorMessage(msg.Data)
	if err != nil || !m.Whole || m.More || m.Topic != "doc.1" || len(m.Moved) != 1 || m.Moved[0].User != user {
		t.Errorf("got %s, %v, want all cursors of the gateway", msg.Data, err)
	}
	if n, _, _ := topic.Pending(); n > 0 || r.g.metrics.badReplies.Load() != 1 {
		t.Errorf("%d answers to a topic, %d counted, want the question refused", n, r.g.metrics.badReplies.Load())
	}
	if got := r.g.metrics.malformed.Load(); got != 4 {
		t.Errorf("%d malformed messages, want 4", got)
	}
}

// A topic has room for so many cursors; those that are there still move.
func TestCursorsOfATopicAreBounded(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	o := newOther(t, r, "other", "doc.1")
	p := r.dial()
	p.hello("")
	p.send(`{"op":"subscribe","id":2,"topic":"doc.1","cursors":true}`)
	p.expect(`{"id":2,"ok":{"topic":"doc.1"}}`)
	o.hears()
	o.say("fl.cursor.doc.1", wire.CursorMessage{Moved: manyCursors(cursorsMost+7, "1")})
	eventually(t, "all that fit are there", func() bool { _, there := r.g.cursors.size(); return there == cursorsMost })
	if got := r.g.metrics.cursorRefusals.Load(); got != 7 {
		t.Errorf("%d were refused, want 7", got)
	}
	q := r.dial()
	q.hello("")
	q.send(`{"op":"subscribe","id":2,"topic":"doc.1"}`)
	q.expect(`{"id":2,"ok":{"topic":"doc.1"}}`)
	q.send(`{"op":"cursor","id":3,"topic":"doc.1","data":1}`)
	if details := q.expectError(3, "RESOURCE_EXHAUSTED"); details["limit"] != float64(cursorsMost) {
		t.Errorf("one too many: got %v", details)
	}
	o.say("fl.cursor.doc.1", wire.CursorMessage{Gone: []wire.CursorGone{{User: "u00001", At: 5}}})
	eventually(t, "there is room", func() bool { _, there := r.g.cursors.size(); return there < cursorsMost })
	q.send(`{"op":"cursor","id":4,"topic":"doc.1","data":1}`)
	q.expect(`{"id":4,"ok":{}}`)
}

// A topic that nobody has to do with any more leaves nothing behind.
func TestCursorTopicsAreForgotten(t *testing.T) {
	server := natsdev.Test(t)
	r := startGateway(t, server)
	for i := range 3 {
		p := r.dial()
		p.hello("")
		for topic := range 5 {
			p.send(fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":"doc.%d","cursors":%v}`, topic+2, topic, topic%2 == 0))
			if got := p.read(); !strings.Contains(got, `"ok"`) && !strings.Contains(got, `"cursors"`) {
				t.Fatal(got)
			}
			p.send(fmt.Sprintf(`{"op":"cursor","topic":"doc.%d","data":1}`, topic))
		}
		eventually(t, "five topics are held", func() bool { topics, _ := r.g.cursors.size(); return topics == 5 })
		if i%2 == 0 {
			p.ws.CloseNow()
		} else {
			for topic := range 5 {
				p.send(fmt.Sprintf(`{"op":"unsubscribe","id":%d,"topic":"doc.%d"}`, topic+12, topic))
			}
		}
		eventually(t, "none is held", func() bool { topics, there := r.g.cursors.size(); return topics == 0 && there == 0 })
	}
	eventually(t, "nothing is subscribed", func() bool { return server.SubscriptionsTo("fl.cursor.") == 0 })
}

// A rule that loses its cursors takes them away.
func TestCursorsEndWithTheirRule(t *testing.T) {
	r := startGateway(t, natsdev.Test(t), withRules(`topics: [{match: ">", subscribe: any, cursors: {}}]`))
	p := r.dial()
	_, user, _ := p.hello("")
	p.send(`{"op":"subscribe","id":2,"topic":"doc.1","cursors":true}`)
	p.expect(`{"id":2,"ok":{"topic":"doc.1"}}`)
	p.expect(`{"op":"cursors","topic":"doc.1","all":{}}`)
	p.send(`{"op":"cursor","topic":"doc.1","data":1}`)
	p.expect(`{"op":"cursors","topic":"doc.1","moved":{"` + user + `":1}}`)
	r.apply(`topics: [{match: ">", subscribe: any}]`)
	p.expect(`{"op":"cursors","topic":"doc.1","gone":["` + user + `"]}`)
	p.send(`{"op":"cursor","id":3,"topic":"doc.1","data":1}`)
	p.expectError(3, "PERMISSION_DENIED")
}
