package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// cursorRules have cursors that outlive every test, on topics below brief ones
// that don't, below calm and still ones with a long window, below fast ones
// without any, and on plain topics none.
const cursorRules = `
topics:
  - {name: doc, match: "doc.>", subscribe: user, publish: user, wildcards: true, cursors: {ttl: 1h}}
  - {name: lazy, match: "lazy.>", subscribe: user, publish: user, slow: conflate, cursors: {ttl: 1h}}
  - {name: brief, match: "brief.>", subscribe: user, publish: user, cursors: {ttl: 1s}}
  - {name: calm, match: "calm.>", subscribe: user, publish: user, cursors: {ttl: 1h, throttle: 300ms}}
  - {name: still, match: "still.>", subscribe: user, publish: user, cursors: {ttl: 1h, throttle: 3s}}
  - {name: fast, match: "fast.>", subscribe: user, publish: user, cursors: {ttl: 1h, throttle: 0s}}
  - {name: plain, match: ">", subscribe: user, publish: user, wildcards: true}
`

func cursorStack(t *testing.T, gateways int, env ...string) *stack {
	t.Helper()
	s := &stack{t: t, nats: natsdev.Test(t).ClientURL()}
	for range gateways {
		s.add(cursorEnv(t, env...)...)
	}
	return s
}

func cursorEnv(t *testing.T, env ...string) []string {
	t.Helper()
	return append([]string{"FAIRLEAD_TOPICS_FILE=" + rulesFile(t, cursorRules), "FAIRLEAD_GATEWAY_LEASE=" + testLease.String()}, env...)
}

// pointer is a client that sees the cursors of a topic. Where their data is a
// number it checks that none ever goes back.
type pointer struct {
	t *testing.T
	*client.Client
	topic string
	view  *client.Cursors

	mu   sync.Mutex
	last map[string]int
	bad  []string
}

func pointing(t *testing.T, c *client.Client, topic string) *pointer {
	t.Helper()
	p := &pointer{t: t, Client: c, topic: topic, view: client.NewCursors(), last: map[string]int{}}
	_, err := c.Subscribe(within(t), topic, client.SubscribeOptions{OnCursors: p.take, Queue: 1 << 16})
	must(t, err)
	return p
}

func (p *pointer) take(f *wire.ServerFrame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, moved := range []map[string]json.RawMessage{f.All, f.Moved} {
		for user, data := range moved {
			var n int
			if json.Unmarshal(data, &n) != nil {
				continue
			}
			if n < p.last[user] {
				p.bad = append(p.bad, fmt.Sprintf("%s went back from %d to %d", user, p.last[user], n))
			}
			p.last[user] = n
		}
	}
	p.view.Apply(f)
}

func (p *pointer) faults() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.bad)
}

func (p *pointer) move(data any) {
	p.t.Helper()
	must(p.t, p.MoveCursor(p.topic, data))
}

// sees waits until exactly these cursors are there: user, data, user, data.
func (p *pointer) sees(pairs ...string) {
	p.t.Helper()
	want := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		want[pairs[i]] = pairs[i+1]
	}
	err := p.view.Wait(within(p.t), func(now map[string]json.RawMessage) bool {
		return now != nil && maps.EqualFunc(now, want, func(a json.RawMessage, b string) bool { return string(a) == b })
	})
	if err != nil {
		p.t.Fatalf("%v: want %v, got %s", err, want, p.view.Now())
	}
	if err := p.view.Err(); err != nil {
		p.t.Fatal(err)
	}
}

// Cursors reach whoever sees those of the topic, on any gateway, and whoever
// comes later; they end with the connection that moved them last.
func TestCursorsAcrossGateways(t *testing.T) {
	t.Parallel()
	s := anyCursors(t, 3)
	doc7 := unique("doc")
	doc8 := unique("doc")
	ann, bob := pointing(t, s.as(0, "ann"), doc7), pointing(t, s.as(1, "bob"), doc7)
	ann.sees()
	bob.sees()
	ann.move(map[string]int{"x": 1})
	bob.move([]any{2, nil, "<&>"})
	both := []string{"ann", `{"x":1}`, "bob", `[2,null,"<&>"]`}
	ann.sees(both...)
	bob.sees(both...)
	late := pointing(t, s.as(2, "cid"), doc7) // the first on its gateway
	late.sees(both...)
	second := pointing(t, s.as(2, "dan"), doc7)
	second.sees(both...)
	other := pointing(t, s.as(2, "eve"), doc8)
	other.sees()

	// The data is passed as it stands, and a mover need not see the others.
	mover := s.as(1, "fay")
	subscribe(t, mover, doc7)
	if got := asked(t, mover, "cursor", `{"topic":"`+doc7+`","data":{"b" : 1.0,"a":"\u00e9"}}`); got != `{}` {
		t.Errorf("a move with an id: got %s", got)
	}
	all := append(slices.Clone(both), "fay", `{"b" : 1.0,"a":"\u00e9"}`)
	for _, p := range []*pointer{ann, bob, late, second} {
		p.sees(all...)
	}
	for _, end := range []struct {
		how string
		end func(*client.Client)
	}{
		{"null", func(c *client.Client) { asked(t, c, "cursor", `{"topic":"`+doc7+`","data":null}`) }},
		{"no data", func(c *client.Client) { asked(t, c, "cursor", `{"topic":"`+doc7+`"}`) }},
		{"unsubscribe", func(c *client.Client) { must(t, c.Unsubscribe(within(t), doc7)) }},
		{"a clean close", func(c *client.Client) { c.Close(wire.CloseNormal) }},
		{"a lost connection", func(c *client.Client) { c.Abort() }},
	} {
		c := s.as(1, "gil")
		subscribe(t, c, doc7)
		asked(t, c, "cursor", `{"topic":"`+doc7+`","data":5}`)
		for _, p := range []*pointer{ann, bob, late, second} {
			p.sees(append(slices.Clone(all), "gil", "5")...)
		}
		t.Log(end.how)
		end.end(c)
		for _, p := range []*pointer{ann, bob, late, second} {
			p.sees(all...)
		}
	}
	if got := other.view.Frames(); got != 1 {
		t.Errorf("a watcher of another topic got %d frames, want one: that nobody is there", got)
	}
}

// A user has one cursor, however many connections; the one that moved it last
// takes it along.
func TestOneCursorPerUser(t *testing.T) {
	t.Parallel()
	s := anyCursors(t, 3)
	doc := unique("doc")
	eye := pointing(t, s.as(2, "eye"), doc)
	phone, laptop := pointing(t, s.as(0, "ann"), doc), pointing(t, s.as(1, "ann"), doc)
	for i := 1; i < 20; i += 2 {
		phone.move(i)
		for _, p := range []*pointer{eye, phone, laptop} {
			p.sees("ann", fmt.Sprint(i))
		}
		laptop.move(i + 1)
		for _, p := range []*pointer{eye, phone, laptop} {
			p.sees("ann", fmt.Sprint(i+1))
		}
	}
	phone.move(nil) // it is not where the cursor is
	asked(t, phone.Client, "unsubscribe", `{"topic":"`+doc+`"}`)
	pointing(t, s.as(0, "cid"), doc).sees("ann", "20")
	eye.sees("ann", "20")
	laptop.Close(wire.CloseNormal)
	eye.sees()
	for _, p := range []*pointer{eye, phone, laptop} {
		for _, fault := range p.faults() {
			t.Error(fault)
		}
	}
}

func TestCursorsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := anyCursors(t, 1)
	doc1 := unique("doc")
	doc2 := unique("doc")
	plainA := unique("plain")
	plainB := unique("plain")
	c := s.as(0, "ann")
	subscribe(t, c, plainA)
	subscribe(t, c, lent("doc.*"))
	denied(t, c, "cursor", `{"topic":"`+doc1+`","data":1}`, wire.FailedPrecondition) // its messages come by a wildcard
	subscribe(t, c, doc1)
	most := `"` + strings.Repeat("x", 1022) + `"`
	asked(t, c, "cursor", `{"topic":"`+doc1+`","data":`+most+`}`)
	if e := denied(t, c, "cursor", `{"topic":"`+doc1+`","data":"x`+most[1:]+`}`, wire.InvalidArgument); e.Details["field"] != "data" {
		t.Errorf("too much data: got %v", e.Details)
	}
	if e := denied(t, c, "cursor", `{"topic":"`+plainA+`","data":1}`, wire.PermissionDenied); e.Details["rule"] != lentRule("plain") || e.Details["topic"] != plainA {
		t.Errorf("where the rule has none: got %v", e.Details)
	}
	denied(t, c, "subscribe", `{"topic":"`+plainB+`","cursors":true}`, wire.PermissionDenied)
	denied(t, c, "cursor", `{"topic":"`+plainB+`","data":1}`, wire.PermissionDenied)
	if e := denied(t, c, "subscribe", `{"topic":"`+lent("doc.>")+`","cursors":true}`, wire.InvalidArgument); e.Details["field"] != "cursors" {
		t.Errorf("with a wildcard: got %v", e.Details)
	}
	limited := dial(t, s.url(0), client.Options{Token: token("bob", map[string]any{"subscribe": []string{doc1}})})
	pointing(t, limited, doc1).sees("ann", most)
	denied(t, limited, "subscribe", `{"topic":"`+doc2+`","cursors":true}`, wire.PermissionDenied)
}

// Subscribing again adds and removes cursors; the answer comes first.
func TestSubscribingAgainReplacesCursors(t *testing.T) {
	t.Parallel()
	s := anyCursors(t, 2)
	doc := unique("doc")
	ann := pointing(t, s.as(1, "ann"), doc)
	ann.move(1)
	ann.sees("ann", "1")
	g := newGuest(t, s.url(0), "bob", "none")
	for range 2 {
		g.ok("subscribe", `"topic":"`+doc+`"`, `{"topic":"`+doc+`"}`)
		g.quiet("a subscribe without cursors")
		for range 2 { // twice: whole each time
			g.ok("subscribe", `"topic":"`+doc+`","cursors":true`, `{"topic":"`+doc+`"}`)
			if len(g.heard) > 0 {
				t.Fatalf("ahead of the answer: %s", g.heard[0].Raw)
			}
			g.hears(`{"op":"cursors","topic":"` + doc + `","all":{"ann":1}}`)
		}
		g.ok("subscribe", `"topic":"`+doc+`","cursors":false`, `{"topic":"`+doc+`"}`)
		mark := pointing(t, s.as(0, "mark"), doc)
		mark.move(1)
		mark.sees("ann", "1", "mark", "1")
		mark.move(nil)
		mark.sees("ann", "1")
		g.quiet("cursors that it does not want any more")
	}
	// The refusal of a subscribe leaves cursors as they were.
	g.ok("subscribe", `"topic":"`+doc+`","cursors":true`, `{"topic":"`+doc+`"}`)
	g.hears(`{"op":"cursors","topic":"` + doc + `","all":{"ann":1}}`)
	g.fails("subscribe", `"topic":"`+doc+`","cursors":false,"presence":"watch"`, wire.PermissionDenied)
	ann.move(2)
	g.hears(`{"op":"cursors","topic":"` + doc + `","moved":{"ann":2}}`)
}

// A cursor that does not move is gone after its time, for everybody, and one
// that does is not.
func TestCursorsRunOut(t *testing.T) {
	t.Parallel()
	s := anyCursors(t, 2)
	brief := unique("brief")
	ann, bob := pointing(t, s.as(0, "ann"), brief), pointing(t, s.as(1, "bob"), brief)
	still := s.as(1, "cid") // it sees none itself
	subscribe(t, still, brief)
	moved := time.Now()
	asked(t, still, "cursor", `{"topic":"`+brief+`","data":1}`)
	ann.sees("cid", "1")
	bob.sees("cid", "1")
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	n := 0
	for _, there := ann.view.Now()["cid"]; there && time.Since(moved) < patience; _, there = ann.view.Now()["cid"] {
		<-tick.C
		n++
		ann.move(n)
	}
	if took := time.Since(moved); took < time.Second {
		t.Errorf("a cursor was gone after %s, want a second", took)
	}
	bob.sees("ann", fmt.Sprint(n))
	bob.sees()
	ann.sees()
	asked(t, still, "cursor", `{"topic":"`+brief+`","data":2}`)
	ann.sees("cid", "2")
}

// The bounds of a window hold for the first move too: it is shown at once, what
// comes meanwhile at the window's end, together and as it is then.
func TestCursorWindow(t *testing.T) {
	t.Parallel()
	const window = 300 * time.Millisecond
	s := anyCursors(t, 2)
	calm := unique("calm")
	ann, bob := pointing(t, s.as(0, "ann"), calm), pointing(t, s.as(0, "bob"), calm)
	far := pointing(t, s.as(1, "far"), calm)
	far.sees()
	bob.sees()
	before := far.view.Frames()
	ann.move(1)
	bob.sees("ann", "1")
	led := time.Now()
	for i := 2; i <= 50; i++ {
		ann.move(i)
		bob.move(i)
	}
	bob.sees("ann", "50", "bob", "50")
	trailed := time.Since(led)
	far.sees("ann", "50", "bob", "50")
	if trailed > 10*window {
		t.Errorf("what came within the window came %s later", trailed)
	}
	if got, most := far.view.Frames()-before, 2+int(time.Since(led)/window); got > most {
		t.Errorf("%d frames in %s, want at most %d", got, time.Since(led), most)
	}
}
