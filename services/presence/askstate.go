package presence

import (
	"cmp"
	"slices"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// askTimeout is how long an ask without Fl-Deadline may take, askMost any.
	askTimeout = 5 * time.Second
	askMost    = time.Minute
	// askGrace is how much later than the gateway the replica gives up: the
	// gateway's answer says more.
	askGrace = 100 * time.Millisecond
	// probeMore is how long further gateways have to answer behind the first.
	probeMore = 20 * time.Millisecond
	// probeAgain and probeAgainMost are the pauses after which a probe that
	// nobody answered is repeated: a gateway whose last connection of the user
	// has just gone may have swallowed it.
	probeAgain     = 50 * time.Millisecond
	probeAgainMost = time.Second
	// interestWait is how long the servers of a cluster may take to tell each
	// other of a subscription.
	interestWait = 50 * time.Millisecond
	// askRounds is how often a user may be looked for, and be gone when asked, and
	// roundMost the longest pause between.
	askRounds = 16
	roundMost = 64 * time.Millisecond
	// stillThere and stillThereMost are the pauses after which it is asked
	// whether a client that has not answered is there at all.
	stillThere     = time.Second
	stillThereMost = 8 * time.Second
)

// askMove is what is to be done next for an ask.
type askMove uint8

const (
	moveWait  askMove = iota // until a reply, or until wake
	moveAsk                  // send it to the connection conn
	moveProbe                // ask the gateways for the user's connections
	moveCheck                // ask whether conn is still there
	moveEnd                  // answer with err
)

// askPhase is what an ask waits for.
type askPhase uint8

const (
	asking    askPhase = iota // a connection's answer
	probing                   // the first gateway that holds the user
	gathering                 // more of them
	resting                   // a while before it is looked again
)

// asked is one ask: which connections may answer it, and what it waits for. It
// is pure state.
type asked struct {
	deadline time.Time
	want     string   // the connection that the asker would have, "" for the newest
	next     []string // connections to be tried, in this order

	phase  askPhase
	conn   string        // that has it, while asking
	wake   time.Time     // when due is to be called; zero: at the end
	pause  time.Duration // before the next probe or check
	misses int           // checks that found nobody, one after another
	rounds int
	again  bool // the servers of a cluster have had their time
	chosen bool // connections that were found have been asked
	found  []wire.ProbedConn
	err    *wire.Error // of moveEnd
}

// askDeadline returns until when an ask may take, by the value of its header.
func askDeadline(ms int64, given bool, now time.Time) time.Time {
	if !given {
		return now.Add(askTimeout)
	}
	at := time.UnixMilli(ms)
	if most := now.Add(askMost); at.After(most) {
		return most
	}
	return at
}

// newAsked returns an ask for a user who is known to have the connections known,
// the newest first. A wanted one that is not among them is looked for: it may be
// too new to be known.
func newAsked(known []string, want string, deadline, now time.Time) (*asked, askMove) {
	q := &asked{deadline: deadline, want: want, next: known}
	if !deadline.After(now) {
		return q, q.end(wire.Errorf(wire.DeadlineExceeded, "the deadline had passed when the ask came"))
	}
	if want == "" || len(known) > 0 && q.prefer(want) {
		return q, q.advance(now)
	}
	return q, q.probe(now)
}

// prefer moves a connection to the front: false if it is not there.
func (q *asked) prefer(conn string) bool {
	i := slices.Index(q.next, conn)
	if i > 0 {
		q.next = slices.Insert(slices.Delete(q.next, i, i+1), 0, conn)
	}
	return i >= 0
}

// due returns when it is to be looked at again at the latest.
func (q *asked) due() time.Time {
	end := q.deadline.Add(askGrace)
	if !q.wake.IsZero() && q.wake.Before(end) {
		return q.wake
	}
	return end
}

// advance asks the next connection, or looks for some where none is left.
func (q *asked) advance(now time.Time) askMove {
	if len(q.next) == 0 {
		return q.probe(now)
	}
	q.phase, q.conn, q.next = asking, q.next[0], q.next[1:]
	q.misses, q.pause = 0, stillThere
	q.wake = now.Add(q.pause)
	return moveAsk
}

// probe looks for the user; from the third time on after a pause.
func (q *asked) probe(now time.Time) askMove {
	switch q.rounds++; {
	case q.rounds > askRounds:
		return q.end(wire.Errorf(wire.Unavailable, "the user's connections come and go"))
	case q.rounds > 2:
		q.phase, q.conn = resting, ""
		q.wake = now.Add(min(time.Millisecond<<(q.rounds-3), roundMost))
		return moveWait
	}
	return q.look(now)
}

// look begins to look for the user.
func (q *asked) look(now time.Time) askMove {
	q.phase, q.conn, q.found = probing, "", nil
	q.pause = probeAgain
	q.wake = now.Add(q.pause)
	return moveProbe
}

// unsent takes that NATS was away when a move was to be made. Who was asked is
// still asked, and questions are repeated anyway.
func (q *asked) unsent(move askMove, now time.Time) {
	if move == moveAsk {
		q.phase, q.next, q.conn = resting, slices.Insert(q.next, 0, q.conn), ""
		q.wake = now.Add(interestWait)
	}
}

// gone takes that nobody listens to what was sent, to the connection or to the
// user.
func (q *asked) gone(conn bool, now time.Time, clustered bool) askMove {
	switch {
	case conn && q.phase == asking:
		return q.advance(now)
	case conn || q.phase != probing: // of what was sent before
		return moveWait
	case clustered && !q.again:
		q.again, q.phase = true, resting
		q.wake = now.Add(interestWait)
		return moveWait
	}
	return q.end(wire.Errorf(wire.NotFound, "the user is offline"))
}

// probed takes a gateway's answer to a probe.
func (q *asked) probed(conns []wire.ProbedConn, now time.Time) askMove {
	if q.phase != probing && q.phase != gathering || len(conns) == 0 {
		return moveWait
	}
	q.found = append(q.found, conns...)
	if q.want != "" && slices.ContainsFunc(conns, func(c wire.ProbedConn) bool { return c.Conn == q.want }) {
		return q.choose(now)
	}
	if q.chosen { // and gone since: who is there is more than who is newest
		return q.choose(now)
	}
	if q.phase == probing {
		q.phase, q.wake = gathering, now.Add(probeMore)
	}
	return moveWait
}

// choose asks the connections that were found, the newest first.
func (q *asked) choose(now time.Time) askMove {
	slices.SortFunc(q.found, func(a, b wire.ProbedConn) int {
		return cmp.Or(cmp.Compare(b.Order-1, a.Order-1), cmp.Compare(b.Since, a.Since), cmp.Compare(b.Conn, a.Conn)) // 0 is the newest
	})
	q.next = make([]string, 0, len(q.found))
	for _, c := range q.found {
		q.next = append(q.next, c.Conn)
	}
	q.prefer(q.want)
	q.found, q.chosen = nil, true
	return q.advance(now)
}

// checked takes whether the connection that was asked is still there. One miss
// may be a gateway that has lost NATS for a moment.
func (q *asked) checked(there bool, now time.Time) askMove {
	switch {
	case q.phase != asking:
		return moveWait
	case there:
		q.misses = 0
		return moveWait
	}
	if q.misses++; q.misses > 1 {
		return q.end(wire.Errorf(wire.Unavailable, "the connection is gone, and its gateway with it"))
	}
	q.pause = stillThere
	q.wake = now.Add(q.pause)
	return moveWait
}

// over takes that time has passed.
func (q *asked) over(now time.Time) askMove {
	if !now.Before(q.deadline.Add(askGrace)) {
		return q.end(wire.Errorf(wire.DeadlineExceeded, "no answer in time"))
	}
	if now.Before(q.wake) {
		return moveWait
	}
	switch q.phase {
	case asking:
		if q.misses == 0 {
			q.pause = min(2*q.pause, stillThereMost)
		}
		q.wake = now.Add(q.pause)
		return moveCheck
	case gathering:
		return q.choose(now)
	case probing:
		if len(q.next) > 0 { // the wanted one does not turn up
			return q.advance(now)
		}
		q.pause = min(2*q.pause, probeAgainMost)
		q.wake = now.Add(q.pause)
		return moveProbe
	}
	return q.look(now)
}

func (q *asked) end(err *wire.Error) askMove {
	q.err = err
	return moveEnd
}
