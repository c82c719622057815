package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The limits of these tests give nothing back while a test runs: what is granted
// of a bucket is counted to the token.
const (
	hotCapacity  = 600
	coldCapacity = 150
	countedRules = `
topics: [{match: ">"}]
limits:
  hot: {capacity: 600, refill: 1, per: 8760h, key: given}
  cold: {capacity: 150, refill: 1, per: 8760h, key: given}
`
)

// startLimits starts a replica of the ratelimit service. It need not answer yet.
func startLimits(t *testing.T, natsURL, rules string, env ...string) *process {
	t.Helper()
	env = append([]string{
		"FAIRLEAD_NATS_URL=" + natsURL, "FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_LOG_FORMAT=json", "FAIRLEAD_TOPICS_FILE=" + rules,
	}, env...)
	return start(t, "ratelimit", env, "run", "ratelimit")
}

// awaitLimits waits until n replicas of the ratelimit service say that they are
// there, and it counts a limit called hot.
func awaitLimits(t *testing.T, nc *nats.Conn, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d replicas of ratelimit answer", n), func() (any, bool) {
		inbox := nats.NewInbox()
		sub, err := nc.SubscribeSync(inbox)
		must(t, err)
		defer func() { must(t, sub.Unsubscribe()) }()
		must(t, nc.PublishRequest("$SRV.PING.fairlead-ratelimit", inbox, nil))
		for answers := 0; answers < n; answers++ {
			if m, err := sub.NextMsg(200 * time.Millisecond); err != nil || len(m.Data) == 0 {
				return answers, false
			}
		}
		return n, true
	})
	eventually(t, "ratelimit decides", func() (any, bool) {
		// Whether it knows the limit is no matter: what cannot count says so first.
		m, err := nc.Request("fl.svc.ratelimit.reset", []byte(`{"policy":"hot","key":"nobody"}`), time.Second)
		if err != nil {
			return err, false
		}
		return m.Header, m.Header.Get("Nats-Service-Error-Code") == ""
	})
}

// limitRun is clients that take from buckets all the time, with every answer
// written down.
type limitRun struct {
	t       *testing.T
	natsURL string
	began   time.Time
	asked   atomic.Int64
	stop    func() // lets the clients have their last answers

	mu      sync.Mutex
	history []limitOp
	faults  [][2]int64 // from and to, ns since the beginning
	refunds map[string]int
	failed  map[string]int // by what was answered instead of a verdict
}

const (
	limitClients = 8
	// limitPatience is how long a client waits for an answer, and limitForward
	// how long a replica for another one, before it decides itself.
	limitPatience = 1500 * time.Millisecond
	limitForward  = 400 * time.Millisecond
	// generation is after how many requests the clients go on to other keys.
	generation = 1500
)

func startLimitRun(t *testing.T, natsURL string) *limitRun {
	t.Helper()
	r := &limitRun{t: t, natsURL: natsURL, began: time.Now(), refunds: map[string]int{}, failed: map[string]int{}}
	r.stop = limitCrowd(t, natsURL, limitClients, func(nc *nats.Conn, client, _ int) { r.next(nc, client) })
	return r
}

// next is one op of a client.
func (r *limitRun) next(nc *nats.Conn, client int) {
	n := r.asked.Add(1)
	o := limitOp{client: client, key: fmt.Sprintf("hot %d", n/generation), cost: 1}
	if rand.IntN(10) < 4 {
		which := rand.IntN(5)
		o.key = fmt.Sprintf("cold %d of %d", which, n/generation)
		o.cost = []int64{1, 1, 2, 5}[rand.IntN(4)]
		if which == 0 { // the only one that gets something back
			r.givesBack(&o, rand.IntN(100))
		}
	}
	r.note(r.ask(nc, o))
}

// givesBack makes some of the ops refunds, and few of them resets.
func (r *limitRun) givesBack(o *limitOp, chance int) {
	const ids = 60
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case chance < 2:
		o.kind = limitReset
	case chance < 20 && r.refunds[o.key] < ids:
		o.kind, o.id = limitRefund, r.refunds[o.key]
		o.cost = 1 + int64(o.id%5) // said again it is the same refund, which one came or the other
		if chance < 18 {           // else somebody says it again
			r.refunds[o.key]++
		}
	}
}

// ask sends an op and fills in what was told.
func (r *limitRun) ask(nc *nats.Conn, o limitOp) (_ limitOp, said string) {
	policy, _, _ := strings.Cut(o.key, " ")
	endpoint, body := "consume", fmt.Sprintf(`{"policy":%q,"key":%q,"cost":%d}`, policy, o.key, o.cost)
	switch o.kind {
	case limitRefund:
		endpoint, body = "refund", fmt.Sprintf(`{"policy":%q,"key":%q,"cost":%d,"id":"id-%d"}`, policy, o.key, o.cost, o.id)
	case limitReset:
		endpoint, body = "reset", fmt.Sprintf(`{"policy":%q,"key":%q}`, policy, o.key)
	}
	o.call = int64(time.Since(r.began))
	m, err := nc.Request("fl.svc.ratelimit."+endpoint, []byte(body), limitPatience)
	o.ret = int64(time.Since(r.began))
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		o.client = -1 // it never was
		return o, "no responders"
	case err != nil:
		o.told = toldNothing
		return o, err.Error()
	}
	if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil {
		o.told = toldNothing
		if e.Details["outcome"] == "none" {
			o.client = -1
		}
		return o, e.Error()
	}
	if o.kind == limitTake {
		var reply wire.LimitReply
		if err := json.Unmarshal(m.Data, &reply); err != nil || reply.Banned || reply.Limit == 0 {
			r.t.Errorf("%s %s: got %s", endpoint, body, m.Data)
		}
		if o.remaining = reply.Remaining; !reply.Allowed {
			o.told, o.remaining = toldNo, 0
		}
	}
	return o, ""
}

func (r *limitRun) note(o limitOp, said string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if said != "" {
		r.failed[said]++
	}
	if o.client >= 0 {
		r.history = append(r.history, o)
	}
}

// reach waits until the clients have n more answers: as long as it takes, while
// they come.
func (r *limitRun) reach(n int) {
	r.t.Helper()
	const step = 250
	for want, end := r.answered(), r.answered()+n; want < end; {
		want = min(want+step, end)
		eventually(r.t, fmt.Sprintf("%d answers", want), func() (any, bool) {
			got := r.answered()
			return got, got >= want
		})
	}
}

func (r *limitRun) answered() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.history {
		if o.told != toldNothing {
			n++
		}
	}
	return n
}

// fault does something that may cost answers, and notes when.
func (r *limitRun) fault(do func()) {
	from := int64(time.Since(r.began))
	do()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, [2]int64{from, int64(time.Since(r.began))})
}

// right ends the run: every client still gets its answers, and what all were told
// is what buckets would have.
func (r *limitRun) right() {
	r.t.Helper()
	r.stop()
	for i := range limitClients {
		nc := connect(r.t, r.natsURL)
		for range 10 {
			o, said := r.ask(nc, limitOp{client: i, key: fmt.Sprintf("hot end %d", i%2), cost: 1})
			if r.note(o, said); said != "" {
				r.t.Errorf("client %d, after all faults: %s", i, said)
			}
		}
	}
	inFlight(r.history, r.faults, limitForward)
	capacities := map[string]int64{"hot": hotCapacity, "cold": coldCapacity}
	for policy, capacity := range capacities {
		ops := slices.DeleteFunc(slices.Clone(r.history), func(o limitOp) bool { return !strings.HasPrefix(o.key, policy) })
		began := time.Now()
		if wrong := checkLimits(ops, capacity); wrong != "" {
			r.t.Errorf("%s: %s", policy, wrong)
		}
		sure, perhaps := granted(ops)
		r.t.Logf("%s: %d operations, %d granted, perhaps %d more; checked in %s", policy, len(ops), sure, perhaps, time.Since(began).Round(time.Millisecond))
	}
	r.t.Logf("%d operations, %d faults; not answered: %v", len(r.history), len(r.faults), r.failed)
}

// limitCrowd lets clients do something again and again, each on a connection of
// its own, until stop is called, which returns when the last one is done.
func limitCrowd(t *testing.T, natsURL string, n int, do func(nc *nats.Conn, client, i int)) (stop func()) {
	t.Helper()
	var all sync.WaitGroup
	enough := make(chan struct{})
	stop = sync.OnceFunc(func() { close(enough); all.Wait() })
	t.Cleanup(stop)
	for client := range n {
		nc := connect(t, natsURL)
		all.Go(func() {
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			for i := 0; ; i++ {
				select {
				case <-enough:
					return
				case <-pace.C:
					do(nc, client, i)
				}
			}
		})
	}
	return stop
}
