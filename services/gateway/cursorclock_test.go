package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// lose loses what is under way to a gateway.
func (f *fabric) lose(to int) {
	for from := range f.boards {
		f.ways[[2]int{from, to}] = nil
	}
}

// shows checks what every gateway shows of ann.
func (f *fabric) shows(t *testing.T, want string) {
	t.Helper()
	for g, b := range f.boards {
		if got := shownOn(b)["ann"]; got != want {
			t.Errorf("g%d shows %q, want %q", g, got, want)
		}
		consistent(t, b)
	}
}

// A user leaves a gateway whose clock is ahead, comes to another that has not
// heard of it, and moves once. She stays where she is, whatever is said of her
// older cursor, and in whatever order.
func TestCursorOutlivesAnEndByAClockAhead(t *testing.T) {
	for _, ahead := range []time.Duration{2 * time.Second, 20 * time.Hour} {
		for _, answered := range []bool{false, true} {
			f := newFabric(3)
			f.ahead[0] = ahead
			first := &connection{}
			f.boards[0].move("ann", first, []byte("1"), f.clock(0))
			f.publish(0, 1000)
			f.boards[0].leave("ann", first, f.clock(0))
			f.publish(0, 1000)
			f.lose(1)
			f.settle(t, 1000)
			f.now = f.now.Add(500 * time.Millisecond)
			f.boards[1].move("ann", &connection{}, []byte("2"), f.clock(1))
			if answered {
				f.snapshot(0, 1, 1000)
			}
			f.settle(t, 1000)
			f.shows(t, "2")
		}
	}
}

// The gateway that was ahead is no more: a user who goes on elsewhere is seen by
// others with her next move, not when they have forgotten the old one.
func TestCursorMovesOnAfterAClockAhead(t *testing.T) {
	f := newFabric(2)
	at := f.now.Add(time.Hour).UnixMilli()
	dead := wire.CursorMessage{Gateway: "dead", Moved: moves(at, "1", "ann"), Gone: []wire.CursorGone{{User: "ann", At: at}}}
	f.boards[0].hear(&dead, f.now)
	conn := &connection{}
	for i := range 3 {
		f.now = f.now.Add(10 * time.Millisecond)
		f.boards[1].move("ann", conn, fmt.Append(nil, i), f.now)
		f.settle(t, 1000)
		f.shows(t, fmt.Sprint(i))
	}
}

// A gateway whose clock is ahead has an old cursor of a user still, since nobody
// told it that her socket is gone. It does not take the place of the newer one.
func TestCursorIsNotTakenBackByAClockAhead(t *testing.T) {
	f := newFabric(3)
	f.ahead[0] = time.Hour
	f.boards[0].move("ann", &connection{}, []byte(`"old"`), f.clock(0))
	f.publish(0, 1000)
	f.lose(1)
	f.settle(t, 1000)
	f.now = f.now.Add(10 * time.Second)
	f.boards[1].move("ann", &connection{}, []byte(`"new"`), f.clock(1))
	f.snapshot(0, 1, 1000)
	f.settle(t, 1000)
	f.shows(t, `"new"`)
	// What is newer by any clock still counts.
	f.now = f.now.Add(time.Second)
	f.boards[0].move("ann", &connection{}, []byte(`"newest"`), f.clock(0))
	f.settle(t, 1000)
	f.shows(t, `"newest"`)
}

// A gateway whose clock was set back says older stamps than before.
func TestCursorSurvivesAClockSetBack(t *testing.T) {
	f := newFabric(2)
	conn := &connection{}
	f.boards[0].move("ann", conn, []byte("1"), f.clock(0))
	f.settle(t, 1000)
	f.boards[0].leave("ann", conn, f.clock(0))
	f.settle(t, 1000)
	f.boards[0] = newCursorBoard("g0", 10) // it has nothing to do with the topic for a while
	f.boards[0].live(30*time.Second, f.now)
	f.now = f.now.Add(time.Second)
	f.ahead[0] = -time.Minute
	f.boards[0].move("ann", conn, []byte("2"), f.clock(0))
	f.settle(t, 1000)
	f.shows(t, "2")
}
