package integration

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// limitOp is what a client wanted of one bucket, and what it was told.
type limitOp struct {
	client    int
	key       string
	kind      limitKind
	cost      int64
	id        int   // of a refund, below 64 for each key; all of one id have one cost
	call, ret int64 // ns since the history began
	told      answered
	remaining int64 // said with a grant
	// twice is set where a replica may have died, or been too slow, after it
	// took, and another was asked: what was told is not all that was taken.
	twice bool
}

type limitKind int

const (
	limitTake limitKind = iota
	limitRefund
	limitReset
)

type answered int

const (
	toldYes answered = iota
	toldNo
	toldNothing // it counts from its call on, later, or never
)

func (o limitOp) String() string {
	what := [...]string{"take", "refund", "reset"}[o.kind]
	said := [...]string{"yes", "no", "nothing"}[o.told]
	return fmt.Sprintf("%s %s of %d by client %d, told %s with %d left, from %s to %s",
		o.key, what, o.cost, o.client, said, o.remaining, time.Duration(o.call), time.Duration(o.ret))
}

// limitTruth is the state of a bucket without refill. What nobody was told is
// kept apart: tokens that may be taken at any time from now on, or given. Only
// as much of it is used as what is told makes necessary, so that one state
// stands for all that are possible.
type limitTruth struct {
	left              int64
	taken, given      int64  // at most so many more than was told
	refunds, probably uint64 // ids that were told of, and that may have come
}

// stale is how old the state may be of which a replica denies.
const stale = time.Second

// limitInput is an op as the model sees it.
type limitInput struct {
	limitOp
	excused bool // a denial that may be of before the bucket got more
}

// limitModel is a bucket that holds so much and does not refill: nothing is
// given that is not there, a grant never says that more is left than is, and
// nothing is denied that is there.
func limitModel(capacity int64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return limitTruth{left: capacity} },
		Step: func(state, input, _ any) (bool, any) {
			s, ok := state.(limitTruth).step(capacity, input.(limitInput))
			return ok, s
		},
		Hash: func(state any) uint64 {
			s := state.(limitTruth)
			return uint64(s.left)*0x9e3779b97f4a7c15 ^ uint64(s.taken)<<40 ^ uint64(s.given)<<20 ^ s.refunds
		},
		DescribeOperation: func(input, _ any) string { return input.(limitInput).String() },
	}
}

func (s limitTruth) step(capacity int64, o limitInput) (limitTruth, bool) {
	bit := uint64(1) << o.id
	switch {
	case o.kind == limitTake && o.told == toldNothing:
		s.taken += o.cost
	case o.kind == limitTake && o.told == toldYes:
		if short := o.cost + o.remaining - s.left; short > 0 {
			s.left, s.given = s.left+short, s.given-short
		}
		s.left -= o.cost
	case o.kind == limitTake:
		if over := s.left - o.cost + 1; over > 0 && !o.excused {
			s.left, s.taken = s.left-over, s.taken-over
		}
	case o.kind == limitRefund && s.refunds&bit != 0: // it counts once
	case o.kind == limitRefund && o.told == toldNothing:
		if s.probably&bit == 0 {
			s.given += o.cost
			s.probably |= bit
		}
	case o.kind == limitRefund:
		more := o.cost
		if s.probably&bit != 0 { // what a grant needed of it is used already
			more = min(more, s.given)
			s.given -= more
		}
		s.left = min(s.left+more, capacity)
		s.refunds |= bit
	case o.told == toldNothing:
		s.given += capacity
	default:
		s.left = capacity
	}
	return s, s.taken >= 0 && s.given >= 0
}

// byKey takes a history apart. Each bucket is by itself.
func byKey(history []limitOp) map[string][]limitOp {
	keys := map[string][]limitOp{}
	for _, o := range history {
		keys[o.key] = append(keys[o.key], o)
	}
	return keys
}

// checkLimits says what is wrong with a history of buckets of one capacity, ""
// if nothing is.
func checkLimits(history []limitOp, capacity int64) string {
	for key, ops := range byKey(history) {
		if over := overAdmitted(ops, capacity); over != "" {
			return over
		}
		const most = 30 * time.Second // it takes well below a second
		if got := porcupine.CheckOperationsTimeout(limitModel(capacity), operations(ops), most); got != porcupine.Ok {
			return fmt.Sprintf("%s: no order of these %d operations is one of a bucket of %d: %s%s", key, len(ops), capacity, got, inOrder(ops))
		}
	}
	return ""
}

// inOrder is a history as people read it.
func inOrder(ops []limitOp) string {
	var b strings.Builder
	for _, o := range slices.SortedFunc(slices.Values(ops), func(a, b limitOp) int { return cmp.Compare(a.call, b.call) }) {
		fmt.Fprintf(&b, "\n\t%s, twice %t, id %d", o, o.twice, o.id)
	}
	return b.String()
}

// operations prepares the ops of one key. What nobody was told is there as a
// possibility from its call on.
func operations(ops []limitOp) []porcupine.Operation {
	var more []limitOp // what makes earlier denials void, in time
	for _, o := range ops {
		if o.kind != limitTake {
			more = append(more, o)
		}
	}
	var history []porcupine.Operation
	add := func(in limitInput) {
		history = append(history, porcupine.Operation{ClientId: in.client, Input: in, Call: in.call, Return: in.ret})
	}
	for _, o := range ops {
		in := limitInput{limitOp: o}
		if o.told == toldNothing {
			in.ret = in.call
		}
		if o.told == toldNo {
			in.excused = slices.ContainsFunc(more, func(m limitOp) bool {
				return m.call <= o.ret && o.call <= m.ret+int64(stale)
			})
		}
		add(in)
		if o.twice && o.kind == limitTake && o.told != toldNothing {
			again := in
			again.told, again.ret = toldNothing, again.call
			add(again)
		}
	}
	return history
}

// overAdmitted says where the ops of one key were granted more than there was,
// in one pass over them: at every moment, what was told to be granted is at most
// what a full bucket has, and what may have been given to it by then.
func overAdmitted(ops []limitOp, capacity int64) string {
	type moment struct {
		at, granted, given int64
		op                 limitOp
	}
	var moments []moment
	refunded := map[int]bool{}
	for _, o := range slices.SortedFunc(slices.Values(ops), func(a, b limitOp) int { return cmp.Compare(a.call, b.call) }) {
		switch {
		case o.kind == limitTake && o.told == toldYes:
			moments = append(moments, moment{o.ret, o.cost, 0, o})
		case o.kind == limitRefund && !refunded[o.id]:
			refunded[o.id] = true
			moments = append(moments, moment{o.call, 0, o.cost, o})
		case o.kind == limitReset:
			moments = append(moments, moment{o.call, 0, capacity, o})
		}
	}
	slices.SortStableFunc(moments, func(a, b moment) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(b.given, a.given))
	})
	granted, most := int64(0), capacity
	for _, m := range moments {
		granted, most = granted+m.granted, most+m.given
		if granted > most {
			return fmt.Sprintf("%d granted of at most %d: %s", granted, most, m.op)
		}
	}
	return ""
}

// granted sums up what clients were told to have of a key, and what else may be
// gone of it.
func granted(ops []limitOp) (sure, perhaps int64) {
	for _, o := range ops {
		if o.kind != limitTake {
			continue
		}
		if o.told == toldYes {
			sure += o.cost
		}
		if o.told == toldNothing || o.twice {
			perhaps += o.cost
		}
	}
	return sure, perhaps
}

// inFlight marks the ops that were under way in one of the faults, each from and
// to, or took so long that a second replica may have been asked.
func inFlight(ops []limitOp, faults [][2]int64, patience time.Duration) {
	for i := range ops {
		o := &ops[i]
		o.twice = o.ret-o.call >= int64(patience) || slices.ContainsFunc(faults, func(f [2]int64) bool { return o.call <= f[1] && f[0] <= o.ret })
	}
}
