package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// seen is what somebody who is sent a board's pages makes of them.
type seen struct {
	now         map[string]string
	since, base uint64
	stated      bool
}

func (s *seen) take(t errorer, b *cursorBoard, bytes int) {
	all := !s.stated || b.floor > max(s.since, s.base)
	if all {
		s.since, s.base, s.stated = 0, b.version, true
	}
	p := b.page(s.since, bytes, all)
	frames, err := wire.DecodeServer(p.frame("t", all))
	if err != nil || len(frames) != 1 {
		t.Fatalf("a page that is no frame: %v", err)
	}
	f := frames[0]
	if all {
		s.now = map[string]string{}
	}
	for _, user := range f.Gone {
		delete(s.now, user)
	}
	for _, moved := range []map[string]json.RawMessage{f.All, f.Moved} {
		for user, data := range moved {
			s.now[user] = string(data)
		}
	}
	s.since = p.to
}

type errorer interface {
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

func shownOn(b *cursorBoard) map[string]string {
	now := map[string]string{}
	for user, r := range b.records {
		if r.data != nil {
			now[user] = string(r.data)
		}
	}
	return now
}

// consistent checks what a board keeps count of.
func consistent(t errorer, b *cursorBoard) {
	there, gone, own, listed := 0, 0, 0, 0
	of := map[string]int{}
	for _, r := range b.records {
		switch {
		case r.data == nil:
			gone++
		case r.gateway == nil:
			there, own = there+1, own+1
		default:
			there++
			of[r.gateway.id]++
		}
	}
	last := uint64(0)
	for r := b.list.next; r != &b.list; r = r.next {
		if listed++; r.version < last || r.version == last && last > 0 || b.records[r.user] != r {
			t.Errorf("%s: %q is listed at version %d behind %d", b.id, r.user, r.version, last)
		}
		last = r.version
	}
	if there != b.there || gone != b.gone || own != b.own || listed != len(b.records) {
		t.Errorf("%s: counts %d there, %d gone, %d own; got %d, %d, %d of %d records in a list of %d", b.id, there, gone, own, b.there, b.gone, b.own, len(b.records), listed)
	}
	if there > b.most || gone > b.most || len(b.untold) != len(b.queued) {
		t.Errorf("%s: %d there and %d gone where %d may be; %d queued of %d", b.id, there, gone, b.most, len(b.queued), len(b.untold))
	}
	for id, g := range b.gateways {
		if g.cursors != of[id] {
			t.Errorf("%s: %s counts %d cursors, has %d", b.id, id, g.cursors, of[id])
		}
	}
}

// naive is a user's cursor by the rule alone: the newest move counts, and it ends
// when the connection that made it takes it away. Mostly that is one move. Of a
// user who moves more than once in a millisecond stamps are equal, or ahead of the
// time: a later move elsewhere then has the time for it and not the stamp, and what
// it comes to is a matter of who hears of which first. Any of these may be the one,
// but it has to be one.
type naive []naiveMove

type naiveMove struct {
	data  string
	ended bool
}

// move adds one whose stamp is so far ahead of all that any board has.
func (n *naive) move(data string, lead int64) {
	const contested = 3 // what boards may add to the stamps of those that they argue about
	if lead > contested || lead > 0 && len(*n) <= 1 {
		*n = nil
	}
	*n = append(*n, naiveMove{data: data})
}

func (n naive) end(data string) {
	for i := range n {
		n[i].ended = n[i].ended || n[i].data == data
	}
}

// allows reports whether that may be what is shown; "": nothing.
func (n naive) allows(shown string) bool {
	return len(n) == 0 && shown == "" || slices.ContainsFunc(n, func(m naiveMove) bool {
		return m.ended && shown == "" || !m.ended && m.data == shown
	})
}

// fabric is several boards and the messages on their way between them.
type fabric struct {
	now    time.Time
	ahead  []time.Duration // each gateway's clock, of the right time
	boards []*cursorBoard
	ways   map[[2]int][][]byte // by from and to: in order
	// damage is what the negative control does to a message.
	damage func([]byte) []byte
}

func newFabric(n int) *fabric {
	f := &fabric{now: time.UnixMilli(1_760_000_000_000), ways: map[[2]int][][]byte{}}
	for i := range n {
		b := newCursorBoard(fmt.Sprintf("g%d", i), cursorsMost)
		b.live(30*time.Second, f.now)
		f.boards, f.ahead = append(f.boards, b), append(f.ahead, 0)
	}
	return f
}

// clock is what a gateway takes for the time.
func (f *fabric) clock(gateway int) time.Time { return f.now.Add(f.ahead[gateway]) }

func (f *fabric) send(from, to int, m wire.CursorMessage, moved, gone []byte) {
	m.Gateway = f.boards[from].id
	data := wire.AppendCursorMessage(nil, &m, moved, gone)
	if f.damage != nil {
		data = f.damage(data)
	}
	f.ways[[2]int{from, to}] = append(f.ways[[2]int{from, to}], data)
}

// publish sends what the others don't know, in pages of bytes.
func (f *fabric) publish(from, bytes int) {
	for b := f.boards[from]; len(b.untold) > 0; {
		p := b.untoldPage(bytes, f.clock(from))
		for to := range f.boards {
			if to != from && p.count > 0 {
				f.send(from, to, wire.CursorMessage{}, p.moved, p.gone)
			}
		}
	}
}

func (f *fabric) snapshot(from, to, bytes int) {
	pages := f.boards[from].snapshot(bytes, f.clock(from))
	for i, page := range pages {
		f.send(from, to, wire.CursorMessage{Whole: true, Page: int64(i), More: i < len(pages)-1}, page.moved, page.gone)
	}
}

// pass lets the next message of a way arrive.
func (f *fabric) pass(t errorer, way [2]int) bool {
	msgs := f.ways[way]
	if len(msgs) == 0 {
		return false
	}
	m, err := wire.DecodeCursorMessage(msgs[0])
	if err != nil {
		t.Fatalf("%s: %v", msgs[0], err)
	}
	f.ways[way] = msgs[1:]
	f.boards[way[1]].hear(m, f.clock(way[1]))
	return true
}

// newest is the greatest stamp that any board has of a user.
func (f *fabric) newest(user string) (at int64) {
	for _, b := range f.boards {
		if r := b.records[user]; r != nil {
			at = max(at, r.at)
		}
	}
	return at
}

// settle lets all arrive, and what is said in return.
func (f *fabric) settle(t errorer, bytes int) {
	for rounds, more := 0, true; more; rounds++ {
		more = false
		for i := range f.boards {
			f.publish(i, bytes)
		}
		for from := range f.boards {
			for to := range f.boards {
				for f.pass(t, [2]int{from, to}) {
					more = true
				}
			}
		}
		if rounds > 8 {
			t.Errorf("the gateways don't come to an end")
			return
		}
	}
}

// boardsAgree plays moves, leaves, losses and delays over several gateways and
// checks that all of them, and who is sent their pages, end with the same. With
// clocks that are not right too: what that is the rule alone does not say then.
func boardsAgree(t errorer, draw func(n int) int, damage func([]byte) []byte) {
	const gateways, steps = 3, 120
	f := newFabric(gateways)
	f.damage = damage
	users := []string{"ann", "bob", "cid", `d"ä`}
	conns := [gateways][2]*connection{}
	for g := range conns {
		conns[g] = [2]*connection{{}, {}}
	}
	model := map[string]*naive{}
	for _, user := range users {
		model[user] = &naive{}
	}
	views := make([][]*seen, gateways)
	for g := range views {
		views[g] = []*seen{{}, {}}
	}
	lossy, lost, skewed := draw(2) == 0, false, draw(2) == 0
	for g := range f.ahead {
		if skewed {
			f.ahead[g] = time.Duration(draw(200)-100) * []time.Duration{time.Millisecond, time.Minute}[draw(2)]
		}
	}
	for step := range steps {
		f.now = f.now.Add(time.Duration(draw(5)) * time.Millisecond)
		g, user := draw(gateways), users[draw(len(users))]
		b, c := f.boards[g], conns[g][draw(2)]
		switch draw(9) {
		case 0, 1, 2:
			data, newest := fmt.Sprint(step), f.newest(user)
			b.move(user, c, []byte(data), f.clock(g))
			model[user].move(data, b.records[user].at-newest)
		case 3:
			shown := shownOn(b)[user]
			if b.leave(user, c, f.clock(g)) {
				model[user].end(shown)
			}
		case 4:
			f.publish(g, 40)
		case 5:
			f.pass(t, [2]int{g, draw(gateways)})
		case 6:
			views[g][draw(2)].take(t, b, 10+draw(60))
		case 7: // what is under way is lost, and who lost it hears all again
			if way := [2]int{g, draw(gateways)}; lossy && len(f.ways[way]) > 0 {
				f.ways[way], lost = nil, true
			}
		case 8: // the others are asked, and answer
			b.question()
			for from := range gateways {
				if from != g {
					f.snapshot(from, g, 40)
				}
			}
		}
		for _, b := range f.boards {
			consistent(t, b)
		}
	}
	f.settle(t, 50)
	for g, b := range f.boards {
		b.unanswered(f.clock(g))
	}
	if lost {
		for from := range f.boards {
			for to := range f.boards {
				if from != to {
					f.snapshot(from, to, 40)
				}
			}
		}
		f.settle(t, 50)
	}
	want := shownOn(f.boards[0])
	for g, b := range f.boards {
		consistent(t, b)
		if got := shownOn(b); !maps.Equal(got, want) {
			t.Errorf("g%d shows %v, g0 %v", g, got, want)
		}
		for i, v := range views[g] {
			for n := 0; n == 0 || v.since < b.version; n++ {
				v.take(t, b, 10)
			}
			if !maps.Equal(v.now, shownOn(b)) {
				t.Errorf("watcher %d of g%d sees %v, there is %v", i, g, v.now, shownOn(b))
			}
		}
	}
	if !lost && !skewed { // nobody missed a move: the rule alone says what is there
		for user, n := range model {
			if !n.allows(want[user]) {
				t.Errorf("of %s is shown %q, the moves make it %v", user, want[user], *n)
			}
		}
	}
}

func TestCursorBoardsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		boardsAgree(t, func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") }, nil)
	})
}

// recorder keeps the first failure, as a test of a checker has to.
type recorder struct{ failed []string }

func (r *recorder) Errorf(format string, args ...any) {
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...) }

// A gateway that forgets to say what is gone, and one that says moves with the
// wrong stamp, do not go unnoticed.
func TestCursorCheckNoticesDamage(t *testing.T) {
	for name, damage := range map[string]func(*wire.CursorMessage){
		"gone is not said": func(m *wire.CursorMessage) { m.Gone = nil },
		"stamps are wrong": func(m *wire.CursorMessage) {
			for i := range m.Moved {
				m.Moved[i].At = 1 + m.Moved[i].At%7
			}
		},
		"data is another": func(m *wire.CursorMessage) {
			for i := range m.Moved {
				m.Moved[i].Data = []byte("0")
			}
		},
	} {
		r := &recorder{}
		seed := uint64(1)
		draw := func(n int) int {
			seed = seed*6364136223846793005 + 1442695040888963407
			return int(seed>>33) % n
		}
		for range 20 {
			boardsAgree(r, draw, func(data []byte) []byte {
				m, err := wire.DecodeCursorMessage(data)
				if err != nil {
					t.Fatal(err)
				}
				damage(m)
				return messageBytes(m)
			})
		}
		if len(r.failed) == 0 {
			t.Errorf("%s: nobody noticed", name)
		}
	}
}

func messageBytes(m *wire.CursorMessage) []byte {
	var moved, gone []byte
	for i := range m.Moved {
		moved = wire.AppendCursorMove(moved, &m.Moved[i])
	}
	for _, g := range m.Gone {
		gone = wire.AppendCursorEnd(gone, g)
	}
	return wire.AppendCursorMessage(nil, m, moved, gone)
}
