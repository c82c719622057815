package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Ratelimit measures how many decisions a second the ratelimit service makes: of
// one hot key for workers that ask over NATS, and for gateways, whose clients fold
// what they want, with one replica and with three; of many keys; and what a flood
// costs that is denied. What was granted is held against what the buckets gave.
type Ratelimit struct {
	InFlight int           // requests under way at a time, of the workers; default 512
	Gateways int           // clients that fold, each with a connection of its own; default 4
	Callers  int           // calls under way in each of them; default 512
	Keys     int           // of the part with many; default 10,000
	Rounds   int           // default 3
	Duration time.Duration // of one side in a round; default 3 s
}

func (o *Ratelimit) defaults() error {
	def(&o.InFlight, 512)
	def(&o.Gateways, 4)
	def(&o.Callers, 512)
	def(&o.Keys, 10_000)
	def(&o.Rounds, 3)
	def(&o.Duration, 3*time.Second)
	if o.InFlight < 1 || o.Gateways < 1 || o.Callers < 1 || o.Keys < 1 || o.Rounds < 1 {
		return errors.New("requests, gateways, callers, keys, rounds: at least 1")
	}
	return nil
}

const (
	askedGoal   = 60_000  // decisions a second, over NATS
	foldedGoal  = 150_000 // the same, of clients that fold
	decideGoal  = 20      // ms, p99
	replicaGoal = 0.5     // of one replica's rate, with three
	deniedGoal  = 1       // messages for each key, gateway and 5 s

	// limitRules are read by the replicas; the clients have the same limits.
	limitRules = `limits:
  plenty: {capacity: 1000000000, refill: 1, per: 8760h}
  tight: {capacity: 20000, refill: 10000, per: 1s}
  none: {capacity: 1, refill: 1, per: 8760h}
topics: []
`
)

// Run measures on processes of its own.
func (o Ratelimit) Run(ctx context.Context, cfg SiteConfig) (*Comparison, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	s, err := openLimits(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer s.close()
	nc, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	g, err := openFolders(ctx, s, o.Gateways)
	if err != nil {
		return nil, err
	}
	defer g.close()
	c := &Comparison{Scenario: "ratelimit", Parameters: map[string]any{
		"requests": o.InFlight, "gateways": o.Gateways, "callers": o.Callers, "keys": o.Keys, "rounds": o.Rounds, "duration": o.Duration,
	}}
	r := &limitRun{
		Ratelimit: o, s: s, nc: nc, folders: g, c: c,
		plenty: &rules.Limit{Name: "plenty", Capacity: 1_000_000_000, Refill: 1, Per: 8760 * time.Hour},
		tight:  &rules.Limit{Name: "tight", Capacity: 20_000, Refill: 10_000, Per: time.Second},
		none:   &rules.Limit{Name: "none", Capacity: 1, Refill: 1, Per: 8760 * time.Hour},
	}
	return c, r.run(ctx)
}

// openLimits starts a NATS server and one replica.
func openLimits(ctx context.Context, cfg SiteConfig) (*site, error) {
	s, err := prepareSite(cfg)
	if err != nil {
		return nil, err
	}
	if err = os.WriteFile(s.path("rules.yaml"), []byte(limitRules), 0o600); err == nil {
		err = s.startNATS(ctx)
	}
	if err == nil {
		err = s.withRatelimit(ctx)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// limitRun is one run of [Ratelimit].
type limitRun struct {
	Ratelimit
	s       *site
	nc      *nats.Conn // of the workers
	folders *folders
	c       *Comparison
	parts   int
	over    []float64 // tokens that were granted and not there, of each part

	plenty, tight, none *rules.Limit
}

// decided is what one side measured.
type decided struct {
	took  Histogram
	rates []float64
	p99   []float64 // ms
	cpu   []float64 // µs of all processes, for a decision
}

func (d *decided) add(count int64, took *Histogram, elapsed time.Duration) {
	d.took.Merge(took)
	d.rates = append(d.rates, float64(count)/elapsed.Seconds())
	d.p99 = append(d.p99, took.Quantiles().P99)
}

func (r *limitRun) run(ctx context.Context) error {
	var asked, one, many, three, manyThree, short decided
	k := r.s.clock()
	// What comes first pays for what is not there yet.
	if err := r.part(ctx, &decided{}, "warm up", 1, r.ask, r.Duration/3); err != nil {
		return err
	}
	for range r.Rounds {
		if err := errors.Join(
			r.part(ctx, &asked, "requests", 1, r.ask, r.Duration),
			r.part(ctx, &one, "folded", 1, r.fold, r.Duration),
			r.part(ctx, &many, "keys", r.Keys, r.fold, r.Duration),
		); err != nil {
			return err
		}
	}
	messages, err := r.flood(ctx)
	if err != nil {
		return err
	}
	k.stop(r.c)
	cores := r.c.Cores // with one replica
	for range 2 {
		if err := r.s.withRatelimit(ctx); err != nil {
			return err
		}
	}
	if err := r.folders.await(ctx, 3); err != nil {
		return err
	}
	k = r.s.clock()
	for range r.Rounds {
		if err := errors.Join(
			r.part(ctx, &three, "folded-3", 1, r.fold, r.Duration),
			r.part(ctx, &manyThree, "keys-3", r.Keys, r.fold, r.Duration),
			r.scarce(ctx, &short),
		); err != nil {
			return err
		}
	}
	k.stop(r.c)
	c := r.c
	c.Cores = cores
	report := func(name string, d *decided) {
		c.side(fmt.Sprintf("%s (%.1f µs of CPU each)", name, median(d.cpu)), median(d.rates), "decisions", &d.took)
	}
	report("one key, requests", &asked)
	report("one key, folded", &one)
	report("one key, folded, 3 replicas", &three)
	report(fmt.Sprintf("%d keys, folded", r.Keys), &many)
	report(fmt.Sprintf("%d keys, folded, 3 replicas", r.Keys), &manyThree)
	c.side("one key with too little, 3 replicas", median(short.rates), "decisions", &short.took)
	c.side("denied, remembered", median(messages.rates), "decisions", &messages.took)
	c.atLeast("decisions about one key, requests", askedGoal, "/s", asked.rates...)
	c.atLeast("decisions about one key, folded", foldedGoal, "/s", one.rates...)
	c.atMost("p99 of a request about one key", decideGoal, "ms", asked.p99...)
	c.atMost("p99 of a folded decision about one key", decideGoal, "ms", one.p99...)
	ratios := make([]float64, r.Rounds)
	for i := range ratios {
		ratios[i] = three.rates[i] / one.rates[i]
	}
	c.atLeast("decisions with 3 replicas, of those with one", replicaGoal, "x", ratios...)
	c.atMost("messages of a denied flood, for each gateway and 5 s", deniedGoal, "", messages.p99...)
	most := 0.0
	for _, over := range r.over {
		most = max(most, over)
	}
	c.atMost("tokens granted that were not there", 0, "", most)
	if most > 0 {
		c.Errors++
		c.Failure = "more was granted than there was"
	}
	return nil
}

// part lets a side ask for the tokens of new keys, and holds what was granted
// against what their buckets have left.
func (r *limitRun) part(ctx context.Context, d *decided, name string, keys int, side func(context.Context, spending) (spent, error), duration time.Duration) error {
	r.parts++
	w := spending{limit: r.plenty, duration: duration, keys: make([]string, keys)}
	for i := range w.keys {
		w.keys[i] = fmt.Sprintf("part-%d-%d", r.parts, i)
	}
	profiled, err := r.profile(ctx, "ratelimit-"+name, duration)
	if err != nil {
		return err
	}
	before := r.s.usage()
	got, err := side(ctx, w)
	if err = errors.Join(err, profiled()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	cores := 0.0
	for _, used := range costs(before, r.s.usage(), got.elapsed) {
		cores += used
	}
	d.cpu = append(d.cpu, cores*1e6*got.elapsed.Seconds()/float64(max(got.count, 1)))
	left, err := r.left(ctx, w.limit, w.keys)
	if err != nil {
		return fmt.Errorf("%s: what is left: %w", name, err)
	}
	// A bucket that gives nothing back: what is gone was taken.
	r.over = append(r.over, float64(got.granted-(int64(keys)*int64(r.plenty.Capacity)-left)))
	r.c.Checked += got.count
	d.add(got.count, &got.took, got.elapsed)
	return nil
}

// scarce lets gateways want more of one key than its bucket gives.
func (r *limitRun) scarce(ctx context.Context, d *decided) error {
	r.parts++
	began := time.Now()
	got, err := r.fold(ctx, spending{limit: r.tight, duration: r.Duration, keys: []string{fmt.Sprintf("part-%d", r.parts)}})
	if err != nil {
		return fmt.Errorf("too little: %w", err)
	}
	gives := float64(r.tight.Capacity) + float64(r.tight.Refill)*time.Since(began).Seconds()
	r.over = append(r.over, max(0, float64(got.granted)-gives))
	r.c.Checked += got.count
	d.add(got.count, &got.took, got.elapsed)
	return nil
}

// flood lets gateways ask for what they are denied, and counts their messages: in
// p99, for each gateway and 5 s.
func (r *limitRun) flood(ctx context.Context) (*decided, error) {
	d := &decided{}
	for round := range r.Rounds {
		keys := []string{fmt.Sprintf("denied-%d", round)}
		if _, err := r.fold(ctx, spending{limit: r.none, duration: 100 * time.Millisecond, keys: keys}); err != nil {
			return nil, err
		}
		before := r.folders.asked()
		got, err := r.fold(ctx, spending{limit: r.none, duration: r.Duration, keys: keys})
		if err != nil {
			return nil, err
		}
		if got.granted > 0 {
			r.over = append(r.over, float64(got.granted))
		}
		r.c.Checked += got.count
		d.took.Merge(&got.took)
		d.rates = append(d.rates, float64(got.count)/got.elapsed.Seconds())
		windows := float64((got.elapsed + 5*time.Second - 1) / (5 * time.Second))
		d.p99 = append(d.p99, float64(r.folders.asked()-before)/float64(r.Gateways)/windows)
	}
	return d, nil
}

// profile is that of the site, and of this process.
func (r *limitRun) profile(ctx context.Context, name string, d time.Duration) (func() error, error) {
	if !r.s.cfg.Profile {
		return func() error { return nil }, nil
	}
	f, err := os.Create(r.s.path(name + ".generator.pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	others := r.s.profile(ctx, name, d)
	return func() error {
		err := others()
		pprof.StopCPUProfile()
		return errors.Join(err, f.Close())
	}, nil
}

// left returns how many tokens are left of all keys.
func (r *limitRun) left(ctx context.Context, limit *rules.Limit, keys []string) (sum int64, _ error) {
	for len(keys) > 0 {
		n := min(len(keys), wire.MaxLimitTakes)
		req := wire.LimitRequest{Batch: make([]wire.LimitTake, n)}
		cost := int64(0)
		for i := range req.Batch {
			req.Batch[i] = wire.LimitTake{Policy: limit.Name, Key: keys[i], Cost: &cost}
		}
		msg, err := r.nc.RequestWithContext(ctx, siteNamespace.Svc("ratelimit", "peek"), req.AppendJSON(nil))
		if err != nil {
			return 0, err
		}
		if err := wire.ParseErrorHeader(msg.Header, msg.Data); err != nil {
			return 0, err
		}
		var reply wire.LimitReply
		if err := reply.ParseJSON(msg.Data); err != nil {
			return 0, err
		}
		for _, v := range reply.Batch {
			sum += v.Remaining
		}
		keys = keys[n:]
	}
	return sum, nil
}
