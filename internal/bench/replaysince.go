package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ReplaySince measures how long `since` takes over NATS: for a hundred recent
// messages, for a hundred that are spread over the whole stream, and for all of
// one of very many small topics; and beside them a bare NATS request whose
// answer has as many bytes as the first. The sides take turns.
type ReplaySince struct {
	Messages int           // in the stream; default 1,000,000
	Sparse   int           // topics spread over it; default 200
	Recent   int           // topics at its end; default 20
	Each     int           // messages of each small topic; default 10
	Size     int           // bytes of a payload; default 128
	Workers  int           // requests at a time in the part under load; default 16
	Rounds   int           // default 3
	Duration time.Duration // of one side in a round; default 3 s
}

func (o *ReplaySince) defaults() error {
	def(&o.Messages, 1_000_000)
	def(&o.Sparse, 200)
	def(&o.Recent, 20)
	def(&o.Each, 10)
	def(&o.Size, 128)
	def(&o.Workers, 16)
	def(&o.Rounds, 3)
	def(&o.Duration, 3*time.Second)
	if o.Sparse < 1 || o.Recent < 1 || o.Each < 1 || o.Size < MinPayload || o.Workers < 1 || o.Rounds < 1 {
		return fmt.Errorf("sparse, recent, each, workers, rounds: at least 1; size: at least %d", MinPayload)
	}
	return nil
}

// question is one kind of request.
type question struct {
	name    string
	subject string
	goal    float64 // ms, p99 of one request at a time; 0: none
	next    func() (request []byte, first, want int64)

	alone, loaded Histogram
	p99           []float64 // per round, ms
	rates         []float64 // under load
}

// Run measures on processes of its own.
func (o ReplaySince) Run(ctx context.Context, cfg SiteConfig) (*Comparison, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	s, err := openSite(ctx, cfg, 0)
	if err != nil {
		return nil, err
	}
	defer s.close()
	nc, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	stored := &stock{messages: o.Messages, sparse: o.Sparse, recent: o.Recent, each: o.Each, size: o.Size}
	if err := stored.fill(ctx, nc); err != nil {
		return nil, err
	}
	c := &Comparison{Scenario: "replay-since", Parameters: map[string]any{"workers": o.Workers, "rounds": o.Rounds, "duration": o.Duration}}
	stored.describe(c.Parameters)
	questions, err := o.questions(ctx, nc, stored)
	if err != nil {
		return nil, err
	}
	k := s.clock()
	for range o.Rounds {
		for _, q := range questions {
			if err := o.measure(ctx, s, c, q); err != nil {
				return nil, fmt.Errorf("%s: %w", q.name, err)
			}
		}
	}
	k.stop(c)
	for _, q := range questions {
		c.side(q.name, 0, "", &q.alone)
		c.side(fmt.Sprintf("%s, %d at a time", q.name, o.Workers), median(q.rates), "answered", &q.loaded)
		if q.goal > 0 {
			c.atMost(q.name+", p99", q.goal, "ms", q.p99...)
		}
	}
	return c, nil
}

// questions are the sides: the last is the bare request.
func (o *ReplaySince) questions(ctx context.Context, nc *nats.Conn, stored *stock) ([]*question, error) {
	since := siteNamespace.Svc("replay", "since")
	hundred := func(n int, topic func(int) string) (func() ([]byte, int64, int64), error) {
		all, err := positions(ctx, nc, n, topic)
		if err != nil {
			return nil, err
		}
		requests := make([][]byte, n)
		for i := range requests {
			if requests[i], err = json.Marshal(wire.ReplaySinceRequest{Topic: topic(i), After: all[i].Seq, Ts: all[i].Ts, Limit: 1000}); err != nil {
				return nil, err
			}
		}
		return func() ([]byte, int64, int64) { return requests[rand.N(n)], 1, stockDepth - 1 }, nil
	}
	recent, err := hundred(o.Recent, stored.recentTopic)
	if err != nil {
		return nil, err
	}
	sparse, err := hundred(o.Sparse, stored.sparseTopic)
	if err != nil {
		return nil, err
	}
	small := func() ([]byte, int64, int64) {
		request, _ := json.Marshal(wire.ReplaySinceRequest{Topic: stored.smallTopic(rand.N(stored.small)), Limit: 1000}) // can't fail
		return request, 0, int64(o.Each)
	}
	request, _, _ := recent()
	answer, err := nc.RequestWithContext(ctx, since, request)
	if err != nil {
		return nil, fmt.Errorf("since: %w", err)
	}
	bare := nats.NewInbox()
	if err := echo(nc, bare, answer.Data); err != nil {
		return nil, err
	}
	return []*question{
		{name: "recent", subject: since, goal: 3, next: recent},
		{name: "sparse", subject: since, goal: 10, next: sparse},
		{name: fmt.Sprintf("%d of %d topics", o.Each, stored.small), subject: since, goal: 10, next: small},
		{name: "bare request", subject: bare, next: func() ([]byte, int64, int64) { return request, 1, stockDepth - 1 }},
	}, nil
}

// echo answers every request with the same bytes, until nc is closed.
func echo(nc *nats.Conn, subject string, answer []byte) error {
	if _, err := nc.Subscribe(subject, func(msg *nats.Msg) {
		_ = msg.Respond(answer) // without an answer the request fails
	}); err != nil {
		return err
	}
	return nc.Flush()
}

// measure asks one at a time, then many at a time.
func (o *ReplaySince) measure(ctx context.Context, s *site, c *Comparison, q *question) error {
	alone, err := o.ask(ctx, s, c, q, 1)
	if err != nil {
		return err
	}
	q.p99 = append(q.p99, alone.Quantiles().P99)
	q.alone.Merge(alone)
	profiled := s.profile(ctx, "since-"+q.name, o.Duration)
	loaded, err := o.ask(ctx, s, c, q, o.Workers)
	if err != nil {
		return err
	}
	q.rates = append(q.rates, float64(loaded.Count())/o.Duration.Seconds())
	q.loaded.Merge(loaded)
	return profiled()
}

// ask runs workers that ask one question after the other.
func (o *ReplaySince) ask(ctx context.Context, s *site, c *Comparison, q *question, workers int) (*Histogram, error) {
	all := make([]asker, workers)
	end := time.Now().Add(o.Duration)
	var group sync.WaitGroup
	for i := range all {
		group.Go(func() { all[i].run(ctx, s, q, o.Size, end) })
	}
	group.Wait()
	sum, failed := &Histogram{}, []error(nil)
	for i := range all {
		sum.Merge(&all[i].took)
		c.Checked += all[i].checked
		c.faults(&all[i].tally)
		failed = append(failed, all[i].err)
	}
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	if sum.Count() == 0 {
		return nil, errors.New("nothing was answered")
	}
	return sum, nil
}

// asker is one of them, on a NATS connection of its own.
type asker struct {
	took    Histogram
	tally   tally
	checked int64
	err     error
}

func (a *asker) run(ctx context.Context, s *site, q *question, size int, end time.Time) {
	nc, err := s.connect()
	if err != nil {
		a.err = err
		return
	}
	defer nc.Close()
	for time.Now().Before(end) && a.err == nil {
		a.once(ctx, nc, q, size)
	}
}

func (a *asker) once(ctx context.Context, nc *nats.Conn, q *question, size int) {
	request, first, want := q.next()
	ctx, cancel := context.WithTimeout(ctx, busWait)
	defer cancel()
	began := time.Now()
	msg, err := nc.RequestWithContext(ctx, q.subject, request)
	if err != nil {
		a.err = err
		return
	}
	a.took.Record(int64(time.Since(began)))
	a.check(msg.Data, size, first, want)
}

// check holds an answer against what it must be: want messages, numbered on
// from the first.
func (a *asker) check(answer []byte, size int, first, want int64) {
	numbers := make([]int64, 0, want)
	_, ok := scanPayloads(answer, size, func(_, number int64) { numbers = append(numbers, number-firstNumber-first) })
	if !ok {
		a.tally.damaged++
		a.tally.failed(short(answer))
		return
	}
	a.checked += want
	for i := range want {
		if i >= int64(len(numbers)) || numbers[i] != i {
			a.tally.lost++
		}
	}
	if n := int64(len(numbers)); n > want {
		a.tally.repeated += n - want
	}
	if a.tally.lost+a.tally.repeated > 0 {
		a.tally.failed(short(answer))
	}
}
