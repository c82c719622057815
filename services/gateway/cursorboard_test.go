package gateway

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func testBoard(most int) (*cursorBoard, time.Time) {
	now := time.UnixMilli(1_760_000_000_000)
	b := newCursorBoard("g1", most)
	b.live(10*time.Second, now)
	return b, now
}

func moves(at int64, data string, users ...string) (m []wire.CursorMove) {
	for _, user := range users {
		m = append(m, wire.CursorMove{User: user, At: at, Data: []byte(data)})
	}
	return m
}

// Only the connection that moved a cursor last takes it away.
func TestCursorEndsWithItsLastMover(t *testing.T) {
	b, now := testBoard(10)
	first, second := &connection{}, &connection{}
	b.move("ann", first, []byte("1"), now)
	b.move("ann", second, []byte("2"), now)
	if b.leave("ann", first, now); b.there != 1 {
		t.Error("the connection that did not move last took the cursor away")
	}
	if b.leave("ann", second, now); b.there != 0 {
		t.Error("the cursor outlived the connection that moved it last")
	}
	b.move("ann", first, []byte("3"), now)
	b.hear(&wire.CursorMessage{Gateway: "g2", Moved: moves(now.UnixMilli()+100, "4", "ann")}, now)
	if b.leave("ann", first, now); b.there != 1 || b.own != 0 {
		t.Error("a connection took away what the user's other one, on another gateway, moved later")
	}
	b.hear(&wire.CursorMessage{Gateway: "g2", Gone: []wire.CursorGone{{User: "ann", At: now.UnixMilli() + 100}}}, now)
	if b.there != 0 {
		t.Error("the cursor outlived its end on the other gateway")
	}
}

// A move that was overtaken brings nothing back.
func TestCursorsThatAreGoneStayGone(t *testing.T) {
	b, now := testBoard(10)
	at := now.UnixMilli()
	b.hear(&wire.CursorMessage{Gateway: "g2", Gone: []wire.CursorGone{{User: "ann", At: at}}}, now)
	b.hear(&wire.CursorMessage{Gateway: "g3", Moved: moves(at-5, "1", "ann")}, now)
	if b.there != 0 {
		t.Error("an older move of another gateway brought a cursor back")
	}
	b.move("ann", &connection{}, []byte("2"), now.Add(-time.Hour)) // a clock that is behind
	if b.there != 1 || b.records["ann"].at <= at {
		t.Errorf("a move behind a newer clock's: got %+v, want a greater stamp than %d", b.records["ann"], at)
	}
	consistent(t, b)
}

func TestCursorsExpire(t *testing.T) {
	b, now := testBoard(10)
	b.move("own", &connection{}, []byte("1"), now)
	b.hear(&wire.CursorMessage{Gateway: "g2", Moved: []wire.CursorMove{{User: "old", At: 5, AgeMs: 9000, Data: []byte("1")}, {User: "new", At: 5, Data: []byte("1")}}}, now)
	step := func(after time.Duration, want ...string) {
		t.Helper()
		b.expire(now.Add(after))
		if got := slices.Sorted(maps.Keys(shownOn(b))); !slices.Equal(got, want) {
			t.Errorf("after %s: got %v, want %v", after, got, want)
		}
		consistent(t, b)
	}
	step(999*time.Millisecond, "new", "old", "own")
	step(1500*time.Millisecond, "new", "own")
	b.move("own", &connection{}, []byte("2"), now.Add(5*time.Second))
	step(9900*time.Millisecond, "new", "own")
	step(10300*time.Millisecond, "own")
	p := b.untoldPage(1000, now)
	if p.count != 1 {
		t.Errorf("%d own changes to tell, want the move", p.count)
	}
	step(15500 * time.Millisecond)
	if p = b.untoldPage(1000, now); p.count != 1 || len(p.gone) == 0 {
		t.Errorf("others are not told that an own cursor expired: %+v", p)
	}
	// What only ran out here is taken when it is said again.
	b.hear(&wire.CursorMessage{Gateway: "g2", Whole: true, Moved: moves(5, "1", "new")}, now.Add(16*time.Second))
	step(16*time.Second, "new")
	step(time.Minute)
	step(2 * time.Minute)
	if len(b.records) != 0 || !b.sweepAt.IsZero() || len(b.gateways) != 0 {
		t.Errorf("%d records and %d gateways are left, and a sweep at %v", len(b.records), len(b.gateways), b.sweepAt)
	}
}

func TestCursorBoardIsBounded(t *testing.T) {
	b, now := testBoard(3)
	for i := range 5 {
		if got, want := b.move(fmt.Sprint("own", i), &connection{}, []byte("1"), now), i < 3; got != want {
			t.Errorf("move %d: got %v, want %v", i, got, want)
		}
	}
	if !b.move("own1", &connection{}, []byte("2"), now) {
		t.Error("a cursor that is there could not move on a full board")
	}
	if got := b.hear(&wire.CursorMessage{Gateway: "g2", Moved: moves(now.UnixMilli()+9, "1", "own1", "x", "y")}, now); got != 2 {
		t.Errorf("%d of another gateway's cursors were refused, want the 2 new ones", got)
	}
	for i := range 100 {
		b.hear(&wire.CursorMessage{Gateway: fmt.Sprint("h", i), Gone: []wire.CursorGone{{User: fmt.Sprint("u", i), At: 1}}}, now)
	}
	consistent(t, b)
	if len(b.records) > 6 || len(b.gateways) > 1 {
		t.Errorf("%d records and %d gateways on a board of three", len(b.records), len(b.gateways))
	}
}

// A snapshot in pages replaces what was known of its gateway, and nothing before
// it is complete; one with a page missing takes nothing away.
func TestCursorSnapshots(t *testing.T) {
	b, now := testBoard(10)
	b.hear(&wire.CursorMessage{Gateway: "g2", Moved: moves(5, "1", "a", "b", "c")}, now)
	b.hear(&wire.CursorMessage{Gateway: "g3", Moved: moves(5, "1", "z")}, now)
	page := func(n int64, more bool, users ...string) {
		b.hear(&wire.CursorMessage{Gateway: "g2", Whole: true, Page: n, More: more, Moved: moves(5, "1", users...)}, now)
	}
	page(0, true, "a")
	if b.there != 4 {
		t.Error("half a snapshot took something away")
	}
	b.hear(&wire.CursorMessage{Gateway: "g2", Moved: moves(6, "2", "d")}, now)
	page(1, false, "b")
	if got := slices.Sorted(maps.Keys(shownOn(b))); !slices.Equal(got, []string{"a", "b", "d", "z"}) {
		t.Errorf("after the snapshot: %v", got)
	}
	page(0, true, "a")
	page(2, false)
	if b.there != 4 {
		t.Error("a snapshot without its second page took something away")
	}
	b.question()
	page(0, false, "a", "b")
	b.unanswered(now)
	if got := slices.Sorted(maps.Keys(shownOn(b))); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("after a question that g3 did not answer: %v", got)
	}
	// Who came, or came back, behind a question has nothing to answer for.
	b.question()
	b.hear(&wire.CursorMessage{Gateway: "g4", Moved: moves(9, "1", "new")}, now)
	b.hear(&wire.CursorMessage{Gateway: "g2", Moved: moves(9, "2", "b")}, now)
	b.unanswered(now)
	if got := slices.Sorted(maps.Keys(shownOn(b))); !slices.Equal(got, []string{"b", "new"}) {
		t.Errorf("after a question that came before the moves: %v", got)
	}
	b.forget("g4", now)
	b.forget("g2", now)
	if b.there != 0 || len(b.gateways) != 0 {
		t.Errorf("%d cursors of a gateway that is forgotten", b.there)
	}
	consistent(t, b)
}

// That a cursor is gone is remembered for ten seconds, however long cursors live.
func TestCursorsThatAreGoneAreForgotten(t *testing.T) {
	for name, end := range map[string]func(b *cursorBoard, now time.Time){
		"own": func(b *cursorBoard, now time.Time) {
			conn := &connection{}
			b.move("ann", conn, []byte("1"), now)
			b.leave("ann", conn, now)
			b.untoldPage(1000, now)
		},
		"another gateway's": func(b *cursorBoard, now time.Time) {
			b.hear(&wire.CursorMessage{Gateway: "g2", Gone: []wire.CursorGone{{User: "ann", At: 1}}}, now)
		},
		"of a gateway that is gone": func(b *cursorBoard, now time.Time) {
			b.hear(&wire.CursorMessage{Gateway: "g3", Moved: moves(1, "1", "ann")}, now)
			b.forget("g3", now)
		},
	} {
		b, now := testBoard(10)
		b.live(24*time.Hour, now)
		b.hear(&wire.CursorMessage{Gateway: "g2", Moved: moves(1, "1", "bob")}, now)
		end(b, now)
		if b.expire(now.Add(cursorGoneKept - time.Second)); b.gone != 1 {
			t.Errorf("%s: %d are remembered as gone, want 1", name, b.gone)
		}
		if b.expire(now.Add(cursorGoneKept + time.Second)); b.gone != 0 || b.there != 1 {
			t.Errorf("%s: %d are remembered as gone and %d are there, want the one that is", name, b.gone, b.there)
		}
		consistent(t, b)
	}
}

// Gateways that begin to say what they have and never end are forgotten, and
// there is an end to how many are remembered.
func TestCursorGatewaysAreBounded(t *testing.T) {
	b, now := testBoard(10)
	for i := range 2 * cursorGateways {
		b.hear(&wire.CursorMessage{Gateway: fmt.Sprint("x", i), Whole: true, More: true, Gone: []wire.CursorGone{{User: "u", At: 1}}}, now)
	}
	if got := len(b.gateways); got != cursorGateways {
		t.Errorf("%d gateways are remembered, want %d", got, cursorGateways)
	}
	if refused := b.hear(&wire.CursorMessage{Gateway: "y", Moved: moves(1, "1", "v", "w")}, now); refused != 2 || b.there != 0 {
		t.Errorf("%d cursors of a gateway too many were refused, want 2", refused)
	}
	if b.expire(now.Add(time.Minute)); len(b.gateways) != 0 {
		t.Errorf("%d gateways are remembered that have nothing", len(b.gateways))
	}
}

// Where more go than are remembered before others were told, these are to be
// told all there is.
func TestCursorsThatWentUnsaid(t *testing.T) {
	b, now := testBoard(3)
	conn := &connection{}
	for i := range 4 {
		if b.unsaid {
			t.Fatalf("%d that went are too many to say", i)
		}
		b.move(fmt.Sprint("u", i), conn, []byte("1"), now)
		b.leave(fmt.Sprint("u", i), conn, now)
	}
	if consistent(t, b); !b.unsaid {
		t.Error("one that went is forgotten, and nobody is told")
	}
}

// Of moves with one stamp that of the greater gateway counts, whoever hears it.
func TestCursorsMovedAtOnce(t *testing.T) {
	f := newFabric(3)
	for g, b := range f.boards {
		b.move("ann", &connection{}, fmt.Append(nil, g), f.clock(g))
	}
	f.settle(t, 1000)
	f.shows(t, "2")
}

// A gateway that repeats an end holds to it as those do who hear it, also where
// another's move has the same stamp.
func TestCursorEndThatIsRepeated(t *testing.T) {
	f := newFabric(3)
	conn := &connection{}
	f.boards[1].move("ann", conn, []byte("1"), f.clock(1))
	f.publish(1, 1000)
	f.now = f.now.Add(time.Millisecond)
	f.boards[0].move("ann", conn, []byte("2"), f.clock(0))
	f.boards[0].leave("ann", conn, f.clock(0))
	f.publish(0, 1000)
	f.pass(t, [2]int{0, 2})
	f.boards[1].move("ann", conn, []byte("3"), f.clock(1))
	f.pass(t, [2]int{1, 2}) // the first move, overtaken by the end: g2 says so
	f.settle(t, 1000)
	for g, b := range f.boards {
		consistent(t, b)
		if got, want := shownOn(b), shownOn(f.boards[0]); !maps.Equal(got, want) {
			t.Errorf("g%d shows %v, g0 %v", g, got, want)
		}
	}
	f.now = f.now.Add(time.Millisecond)
	f.boards[1].move("ann", conn, []byte("4"), f.clock(1))
	f.settle(t, 1000)
	f.shows(t, "4")
}
