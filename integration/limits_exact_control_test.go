package integration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// rehearsal is a history as a right limiter would leave it, with clients that
// overlap: each op counts at a moment between its call and its return.
type rehearsal struct {
	clients, ops    int
	capacity        int64
	costs           []int64
	unheard         float64 // share of the ops that nobody is told the end of
	resets, refunds float64 // shares
	random          *rand.Rand
	history         []limitOp
	left            map[string]int64
	refundsOf       map[string]int
}

func (r *rehearsal) run(key func(i int) string) []limitOp {
	r.left, r.refundsOf = map[string]int64{}, map[string]int{}
	free := make([]int64, r.clients) // when each client asks next
	type counted struct {
		at int64
		op limitOp
	}
	var all []counted
	for i := range r.ops {
		client := i % r.clients
		o := limitOp{client: client, key: key(i), cost: r.costs[r.random.IntN(len(r.costs))], call: free[client] + r.random.Int64N(50_000)}
		at := o.call + 1 + r.random.Int64N(200_000)
		o.ret = at + 1 + r.random.Int64N(200_000)
		free[client] = o.ret + 1
		all = append(all, counted{at, o})
	}
	slices.SortFunc(all, func(a, b counted) int { return int(a.at - b.at) })
	for _, c := range all {
		r.history = append(r.history, r.decide(c.op))
	}
	return r.history
}

// decide says what a right limiter does.
func (r *rehearsal) decide(o limitOp) limitOp {
	left, known := r.left[o.key]
	if !known {
		left = r.capacity
	}
	unheard := r.random.Float64() < r.unheard
	switch p := r.random.Float64(); {
	case p < r.resets:
		o.kind, left = limitReset, r.capacity
	case p < r.resets+r.refunds && r.refundsOf[o.key] < 60:
		o.kind, o.id = limitRefund, r.refundsOf[o.key]
		left = min(left+o.cost, r.capacity)
		r.refundsOf[o.key]++
	case unheard && r.random.IntN(2) == 0: // it never came
	case left >= o.cost:
		left -= o.cost
		o.remaining = left
	default:
		o.told = toldNo
	}
	if unheard {
		o.told, o.remaining = toldNothing, 0
	}
	r.left[o.key] = left
	return o
}

// hotAndCold gives half of the ops to one key.
func hotAndCold(i int) string {
	if i%2 == 0 {
		return "hot"
	}
	return "cold" + strconv.Itoa(i/2%5)
}

// A right history is accepted, quickly, whatever nobody was told of it.
func TestTheCheckerOfLimitsAcceptsARightHistory(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		for name, r := range map[string]*rehearsal{
			"plain":  {costs: []int64{1}, capacity: 2000},
			"mixed":  {costs: []int64{1, 1, 2, 5}, capacity: 2500, unheard: 0.02},
			"refund": {costs: []int64{1, 3}, capacity: 1000, unheard: 0.02, resets: 0.001, refunds: 0.005},
		} {
			r.clients, r.ops, r.random = 8, 10_000, rand.New(rand.NewPCG(seed, 6))
			began := time.Now()
			if wrong := checkLimits(r.run(hotAndCold), r.capacity); wrong != "" {
				t.Errorf("%s, seed %d: %s", name, seed, wrong)
			}
			t.Logf("%s, seed %d: %s", name, seed, time.Since(began).Round(time.Millisecond))
		}
	}
}

// What a wrong limiter leaves is found, each kind of it.
func TestTheCheckerOfLimitsFindsWrongHistories(t *testing.T) {
	t.Parallel()
	const capacity = 300
	first := func(history []limitOp, ok func(limitOp) bool) int {
		i := slices.IndexFunc(history, ok)
		if i < 0 {
			t.Fatal("the history has nothing of the kind")
		}
		return i
	}
	last := func(history []limitOp) *limitOp { return &history[len(history)-1] }
	denied := func(o limitOp) bool { return o.told == toldNo }
	granted := func(o limitOp) bool { return o.told == toldYes }
	for _, c := range []struct {
		name  string
		wrong func([]limitOp) []limitOp
		over  bool // also the sum shows it
	}{
		{"a denial that was a grant", func(h []limitOp) []limitOp {
			h[first(h, denied)].told = toldYes
			return h
		}, true},
		{"a grant long after the last token", func(h []limitOp) []limitOp {
			last(h).told = toldYes
			return h
		}, true},
		{"a take that took twice", func(h []limitOp) []limitOp {
			return slices.Delete(h, 5, 6) // gone, and nobody has it
		}, false},
		{"a denial while there was enough", func(h []limitOp) []limitOp {
			h[first(h, granted)].told = toldNo
			return h
		}, false},
		{"two grants of one token", func(h []limitOp) []limitOp {
			i := first(h, func(o limitOp) bool { return o.remaining == 100 })
			for j := i; h[j].told == toldYes; j++ {
				h[j].remaining++
			}
			return h[:i+20]
		}, false},
		{"a refund that counts twice", func(h []limitOp) []limitOp {
			end := last(h).ret
			add := func(kind limitKind, id int) {
				h = append(h, limitOp{key: "k", kind: kind, id: id, cost: 1, call: end + 10, ret: end + 20})
				end += 20
			}
			add(limitRefund, 1)
			add(limitTake, 0)
			add(limitRefund, 1)
			add(limitTake, 0)
			return h
		}, true},
		{"a reset that is not seen for longer than a second", func(h []limitOp) []limitOp {
			end := last(h).ret
			h = append(h, limitOp{key: "k", kind: limitReset, call: end + 1, ret: end + 2})
			late := end + 3 + int64(stale)
			return append(h, limitOp{key: "k", cost: 1, told: toldNo, call: late, ret: late + 1})
		}, false},
	} {
		r := rehearsal{clients: 8, ops: 500, capacity: capacity, costs: []int64{1}, random: rand.New(rand.NewPCG(1, 1))}
		h := r.run(func(int) string { return "k" })
		if wrong := checkLimits(h, capacity); wrong != "" {
			t.Fatalf("before: %s", wrong)
		}
		h = c.wrong(h)
		if checkLimits(h, capacity) == "" {
			t.Errorf("%s: not found", c.name)
		}
		if got := overAdmitted(h, capacity) != ""; got != c.over {
			t.Errorf("%s: the sum shows it: %v, want %v", c.name, got, c.over)
		}
	}
}

// What nobody was told of excuses as much as it can have taken, and no more.
func TestTheCheckerOfLimitsCountsWhatNobodyWasTold(t *testing.T) {
	t.Parallel()
	history := func(unheard, early int) (h []limitOp) {
		at := int64(0)
		next := func(told answered, remaining int64) {
			h = append(h, limitOp{key: "k", cost: 1, told: told, remaining: remaining, call: at, ret: at + 1})
			at += 2
		}
		for range unheard {
			next(toldNothing, 0)
		}
		for i := range 10 - early {
			next(toldYes, int64(9-i))
		}
		next(toldNo, 0)
		return h
	}
	for _, c := range []struct {
		unheard, early int
		right          bool
	}{{0, 0, true}, {0, 1, false}, {3, 3, true}, {3, 0, true}, {3, 4, false}} {
		if got := checkLimits(history(c.unheard, c.early), 10) == ""; got != c.right {
			t.Errorf("%d takes without an answer, denied with %d left: right is %v, want %v", c.unheard, c.early, got, c.right)
		}
	}
}

// A limiter that reads and writes without a revision grants too much under
// concurrency: the history of one that really runs is found wrong.
func TestTheCheckerOfLimitsFindsALimiterWithoutRevisions(t *testing.T) {
	t.Parallel()
	const clients, takes, capacity = 8, 100, 300
	url := natsdev.Test(t).ClientURL()
	js, err := jetstream.New(connect(t, url))
	must(t, err)
	_, err = js.CreateKeyValue(within(t), jetstream.KeyValueConfig{Bucket: "naive", Storage: jetstream.MemoryStorage})
	must(t, err)
	began := time.Now()
	histories := make([][]limitOp, clients)
	var all errgroup.Group
	for client := range clients {
		js, err := jetstream.New(connect(t, url))
		must(t, err)
		bucket, err := js.KeyValue(within(t), "naive")
		must(t, err)
		all.Go(func() error {
			ctx := within(t)
			for range takes {
				o := limitOp{client: client, key: "k", cost: 1, call: int64(time.Since(began))}
				left := int64(capacity)
				entry, err := bucket.Get(ctx, "k")
				if err == nil {
					left, err = strconv.ParseInt(string(entry.Value()), 10, 64)
				}
				if err != nil && !strings.Contains(err.Error(), "not found") {
					return err
				}
				if o.remaining = left - 1; left < 1 {
					o.told, o.remaining = toldNo, 0
				} else if _, err := bucket.Put(ctx, "k", fmt.Append(nil, left-1)); err != nil {
					return err
				}
				o.ret = int64(time.Since(began))
				histories[client] = append(histories[client], o)
			}
			return nil
		})
	}
	must(t, all.Wait())
	history := slices.Concat(histories...)
	if checkLimits(history, capacity) == "" {
		t.Error("not found")
	}
	if over := overAdmitted(history, capacity); over == "" {
		t.Error("not found in the sum")
	} else {
		t.Log(over)
	}
}
