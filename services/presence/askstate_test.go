package presence

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// askAt is when the asks of these tests begin.
var askAt = time.UnixMilli(1_800_000_000_000)

func at(d time.Duration) time.Time { return askAt.Add(d) }

// asksConn checks that an ask is to be sent to a connection.
func asksConn(t *testing.T, q *asked, move askMove, conn string) {
	t.Helper()
	if move != moveAsk || q.conn != conn {
		t.Fatalf("move %d to %q, want that %q is asked", move, q.conn, conn)
	}
}

func asksMove(t *testing.T, move, want askMove) {
	t.Helper()
	if move != want {
		t.Fatalf("move %d, want %d", move, want)
	}
}

func asksEnd(t *testing.T, q *asked, move askMove, code wire.Code) {
	t.Helper()
	if move != moveEnd || q.err == nil || q.err.Code != code {
		t.Fatalf("move %d, %v, want the end with %s", move, q.err, code)
	}
}

func newTestAsked(known []string, want string) (*asked, askMove) {
	return newAsked(known, want, at(5*time.Second), askAt)
}

func TestAskedGoesFromNewestToOldest(t *testing.T) {
	q, move := newTestAsked([]string{"c3", "c2", "c1"}, "")
	for _, conn := range []string{"c3", "c2", "c1"} {
		asksConn(t, q, move, conn)
		move = q.gone(true, at(0), false)
	}
	asksMove(t, move, moveProbe)
	asksEnd(t, q, q.gone(false, at(0), false), wire.NotFound)
}

func TestAskedBeginsWithTheWantedOne(t *testing.T) {
	q, move := newTestAsked([]string{"c3", "c2", "c1"}, "c2")
	for _, conn := range []string{"c2", "c3", "c1"} {
		asksConn(t, q, move, conn)
		move = q.gone(true, at(0), false)
	}
	asksMove(t, move, moveProbe)
}

// A wanted connection that nobody knows of is looked for first.
func TestAskedLooksForTheWantedOne(t *testing.T) {
	q, move := newTestAsked([]string{"c2", "c1"}, "new")
	asksMove(t, move, moveProbe)
	asksMove(t, q.probed([]wire.ProbedConn{{Conn: "c1", Order: 1}}, at(0)), moveWait)
	move = q.probed([]wire.ProbedConn{{Conn: "c2", Order: 2}, {Conn: "new", Order: 3}}, at(0))
	asksConn(t, q, move, "new")

	q, _ = newTestAsked([]string{"c2", "c1"}, "gone")
	asksMove(t, q.probed([]wire.ProbedConn{{Conn: "c2", Order: 2}, {Conn: "c3"}}, at(0)), moveWait)
	asksConn(t, q, q.over(q.due()), "c3") // the newest of those that were found

	q, _ = newTestAsked([]string{"c2", "c1"}, "gone")
	asksConn(t, q, q.over(q.due()), "c2") // no gateway answers: what is known

	q, move = newTestAsked(nil, "gone")
	asksMove(t, move, moveProbe)
	asksEnd(t, q, q.gone(false, at(0), false), wire.NotFound)
}

func TestAskedGathersForAWhile(t *testing.T) {
	q, move := newTestAsked(nil, "")
	asksMove(t, move, moveProbe)
	first := at(10 * time.Millisecond)
	asksMove(t, q.probed([]wire.ProbedConn{{Conn: "old", Order: 7, Since: 9}, {Conn: "older", Order: 5}}, first), moveWait)
	if got, want := q.due(), first.Add(probeMore); !got.Equal(want) {
		t.Errorf("due at %s, want %s", got, want)
	}
	asksMove(t, q.gone(false, first, false), moveWait) // of another server, say
	asksMove(t, q.over(first.Add(probeMore-1)), moveWait)
	asksMove(t, q.probed([]wire.ProbedConn{{Conn: "new", Order: 0, Since: 1}, {Conn: "newest", Order: 0, Since: 2}}, first), moveWait)
	if got, want := q.due(), first.Add(probeMore); !got.Equal(want) {
		t.Errorf("due at %s after the second gateway, want %s", got, want)
	}
	move = q.over(first.Add(probeMore))
	for _, conn := range []string{"newest", "new", "old", "older"} {
		asksConn(t, q, move, conn)
		asksMove(t, q.probed([]wire.ProbedConn{{Conn: "late"}}, first), moveWait)
		move = q.gone(true, first, false)
	}
	asksMove(t, move, moveProbe)
}

// Who is gone again when asked is looked for again, and the first that is found is
// asked at once; not for ever.
func TestAskedOfAUserWhoMoves(t *testing.T) {
	q, move := newTestAsked([]string{"c0"}, "")
	asksConn(t, q, move, "c0")
	now := askAt
	asksMove(t, q.gone(true, now, false), moveProbe)
	asksMove(t, q.probed([]wire.ProbedConn{{Conn: "c1"}}, now), moveWait)
	now = q.due()
	asksConn(t, q, q.over(now), "c1")
	asksMove(t, q.gone(true, now, false), moveProbe)
	for range 2 {
		asksConn(t, q, q.probed([]wire.ProbedConn{{Conn: "c2"}}, now), "c2")
		asksMove(t, q.gone(true, now, false), moveWait)
		now = q.due()
		asksMove(t, q.over(now), moveProbe)
	}
	for move = moveWait; move != moveEnd; {
		asksConn(t, q, q.probed([]wire.ProbedConn{{Conn: "c3"}}, now), "c3")
		if move = q.gone(true, now, false); move != moveEnd {
			asksMove(t, move, moveWait)
			now = q.due()
			asksMove(t, q.over(now), moveProbe)
		}
	}
	asksEnd(t, q, move, wire.Unavailable)
	if took := now.Sub(askAt); took < 10*interestWait || took > 2*time.Second {
		t.Errorf("given up after %s", took)
	}
}

// Interest takes a moment in a cluster: it is looked again, once.
func TestAskedInACluster(t *testing.T) {
	q, _ := newTestAsked(nil, "")
	asksMove(t, q.gone(false, at(0), true), moveWait)
	if got, want := q.due(), at(interestWait); !got.Equal(want) {
		t.Errorf("due at %s, want %s", got, want)
	}
	asksMove(t, q.over(at(interestWait)), moveProbe)
	asksEnd(t, q, q.gone(false, at(interestWait), true), wire.NotFound)
}

// What nobody answers is sent again, less and less often: a gateway may have
// swallowed it.
func TestAskedProbesAgain(t *testing.T) {
	q, _ := newTestAsked(nil, "")
	var now time.Time
	probes := 0
	for {
		now = q.due()
		move := q.over(now)
		if move == moveEnd {
			asksEnd(t, q, move, wire.DeadlineExceeded)
			break
		}
		asksMove(t, move, moveProbe)
		probes++
	}
	if probes < 5 || probes > 12 || !now.Equal(at(5*time.Second+askGrace)) {
		t.Errorf("%d probes until %s", probes, now)
	}
}

// A client that thinks is left alone, as long as it is there.
func TestAskedChecksWhetherTheClientIsThere(t *testing.T) {
	q, move := newAsked([]string{"c2", "c1"}, "", at(time.Minute), askAt)
	asksConn(t, q, move, "c2")
	checks := 0
	for now := q.due(); now.Before(at(time.Minute)); now = q.due() {
		asksMove(t, q.over(now), moveCheck)
		asksMove(t, q.checked(true, now), moveWait)
		checks++
	}
	if checks < 5 || checks > 12 {
		t.Errorf("%d checks in a minute", checks)
	}
	asksEnd(t, q, q.over(q.due()), wire.DeadlineExceeded)

	q, _ = newAsked([]string{"c2", "c1"}, "", at(time.Minute), askAt)
	now := q.due()
	asksMove(t, q.over(now), moveCheck)
	asksMove(t, q.checked(false, now), moveWait) // perhaps its gateway has lost NATS
	now = q.due()
	asksMove(t, q.over(now), moveCheck)
	asksMove(t, q.checked(true, now), moveWait)
	now = q.due()
	asksMove(t, q.over(now), moveCheck)
	asksMove(t, q.checked(false, now), moveWait)
	now = q.due()
	asksMove(t, q.over(now), moveCheck)
	asksEnd(t, q, q.checked(false, now), wire.Unavailable) // it may have acted: nobody else is asked
	if now.After(at(10 * time.Second)) {
		t.Errorf("told after %s", now.Sub(askAt))
	}
}

func TestAskDeadline(t *testing.T) {
	for _, c := range []struct {
		ms    int64
		given bool
		want  time.Time
	}{
		{0, false, at(askTimeout)},
		{at(time.Second).UnixMilli(), true, at(time.Second)},
		{at(time.Hour).UnixMilli(), true, at(askMost)},
		{1<<63 - 1, true, at(askMost)},
		{at(-time.Second).UnixMilli(), true, at(-time.Second)},
	} {
		if got := askDeadline(c.ms, c.given, askAt); !got.Equal(c.want) {
			t.Errorf("%d %t: got %s, want %s", c.ms, c.given, got, c.want)
		}
	}
	q, move := newAsked([]string{"c"}, "", askAt, askAt)
	asksEnd(t, q, move, wire.DeadlineExceeded)
}

// Whatever comes in whatever order, an ask ends by its deadline, and its
// connections are asked one at a time: the next only when nobody had the one
// before.
func TestAskedModel(t *testing.T) {
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 7))
		conns := []string{"c1", "c2", "c3", "c4"}
		random.Shuffle(len(conns), func(i, j int) { conns[i], conns[j] = conns[j], conns[i] })
		known := slices.Clone(conns[:random.IntN(4)])
		want := []string{"", "c1", "c9"}[random.IntN(3)]
		deadline := at(time.Duration(random.IntN(3000)) * time.Millisecond)
		q, move := newAsked(known, want, deadline, askAt)
		now, held := askAt, false // held: a connection has the ask
		for steps := 0; move != moveEnd; steps++ {
			if steps > 5000 {
				t.Fatalf("seed %d: no end", seed)
			}
			if move == moveAsk {
				if held {
					t.Fatalf("seed %d: asked %s while another has it", seed, q.conn)
				}
				held = true
			}
			if due := q.due(); due.After(deadline.Add(askGrace)) {
				t.Fatalf("seed %d: due at %s, after the deadline", seed, due)
			}
			switch random.IntN(6) {
			case 0:
				held = held && q.phase != asking
				move = q.gone(q.phase == asking, now, random.IntN(2) == 0)
			case 1:
				move = q.probed([]wire.ProbedConn{{Conn: conns[random.IntN(4)], Order: random.Uint64N(4)}}, now)
			case 2:
				move = q.checked(random.IntN(2) == 0, now)
			default:
				now = now.Add(time.Duration(random.Int64N(int64(q.due().Sub(now)) + int64(time.Millisecond))))
				move = q.over(now)
			}
			if move == moveProbe && held {
				t.Fatalf("seed %d: looks for others while %s has it", seed, q.conn)
			}
		}
		if now.After(deadline.Add(askGrace + 2*time.Millisecond)) {
			t.Fatalf("seed %d: ended %s after the deadline", seed, now.Sub(deadline))
		}
	}
}

// A request that could not be sent is sent when the gateways can be asked again;
// one that was stays with whom it was sent to.
func TestAskedWaitsWhileNATSIsAway(t *testing.T) {
	q, move := newTestAsked([]string{"c2", "c1"}, "")
	asksConn(t, q, move, "c2")
	q.unsent(move, at(0))
	asksMove(t, q.over(q.due()), moveProbe)
	q.unsent(moveProbe, at(time.Second))
	asksMove(t, q.probed([]wire.ProbedConn{{Conn: "c1", Order: 1}, {Conn: "c2", Order: 2}}, at(2*time.Second)), moveWait)
	asksConn(t, q, q.over(q.due()), "c2")
	asksMove(t, q.over(q.due()), moveCheck)
	q.unsent(moveCheck, at(3*time.Second))
	if q.phase != asking || q.conn != "c2" {
		t.Errorf("phase %d of %q, want that c2 is asked", q.phase, q.conn)
	}
	asksEnd(t, q, q.over(at(5*time.Second+askGrace)), wire.DeadlineExceeded)
}
