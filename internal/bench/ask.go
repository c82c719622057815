package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Ask measures the time from asking a user to the answer, with the users spread
// over two gateways, and that of learning that somebody is offline, beside that of
// a bare NATS request between two processes' worth of connections.
type Ask struct {
	Users    int           // default 8
	InFlight int           // asks under way at a time; default 1
	Rounds   int           // default 5
	Duration time.Duration // of one side in a round; default 3 s
}

const (
	askGoal     = 3 // times a bare request, the medians
	offlineGoal = 1 // ms, the median
)

func (o *Ask) defaults() error {
	def(&o.Users, 8)
	def(&o.InFlight, 1)
	def(&o.Rounds, 5)
	def(&o.Duration, 3*time.Second)
	if o.Users < 1 || o.InFlight < 1 || o.Rounds < 1 {
		return errors.New("users, asks, rounds: at least 1")
	}
	return nil
}

// Run measures on processes of its own.
func (o Ask) Run(ctx context.Context, cfg SiteConfig) (*Comparison, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	s, err := openSite(ctx, cfg, 2)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.withPresence(ctx); err != nil {
		return nil, err
	}
	nc, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	worker, err := s.connect() // who answers the bare requests
	if err != nil {
		return nil, err
	}
	defer worker.Close()
	if _, err := worker.Subscribe("bench.bare", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil { // who gets none is counted
		return nil, err
	}
	if err := worker.Flush(); err != nil {
		return nil, err
	}
	var users, conns []string
	for i := range o.Users {
		a, err := o.answerer(ctx, s, i)
		if err != nil {
			return nil, err
		}
		defer a.close()
		users, conns = append(users, a.user), append(conns, a.conn)
	}
	sides := []*askSide{
		{name: "bare request", subjects: []string{"bench.bare"}},
		{name: "ask", subjects: users},
		{name: "ask, offline", subjects: []string{string(siteNamespace) + ".ask.nobody"}, code: wire.NotFound},
		{name: "request to a connection", subjects: conns},
	}
	c := &Comparison{Scenario: "ask", Parameters: map[string]any{
		"users": o.Users, "asks": o.InFlight, "rounds": o.Rounds, "duration": o.Duration,
	}}
	for _, side := range sides { // what comes first pays for what is not there yet
		if err := side.round(ctx, nc, c, o.InFlight, o.Duration/3); err != nil {
			return nil, err
		}
		*side = askSide{name: side.name, subjects: side.subjects, code: side.code}
	}
	c.Checked = 0
	k := s.clock()
	for range o.Rounds {
		for _, side := range sides {
			if err := side.round(ctx, nc, c, o.InFlight, o.Duration); err != nil {
				return nil, err
			}
		}
	}
	k.stop(c)
	for _, side := range sides {
		c.side(side.name, median(side.rates), "answers", &side.took)
	}
	bare, asks, offline := sides[0], sides[1], sides[2]
	ratios := make([]float64, o.Rounds)
	for i := range ratios {
		ratios[i] = asks.p50[i] / bare.p50[i]
	}
	c.atMost("an ask's median, of a bare request's", askGoal, "x", ratios...)
	c.atMost("the median of learning that somebody is offline", offlineGoal, "ms", offline.p50...)
	return c, nil
}

// answerer is a user's client that sends back what it is asked. It does nothing
// else: what clients do is not measured.
type answerer struct {
	ws         *websocket.Conn
	user, conn string
	done       chan struct{} // closed when it has ended
}

func (o *Ask) answerer(ctx context.Context, s *site, i int) (*answerer, error) {
	ws, _, err := websocket.Dial(ctx, s.target(s.gateways[i%len(s.gateways)]).URL, nil)
	if err != nil {
		return nil, fmt.Errorf("connect user %d: %w", i, err)
	}
	a := &answerer{ws: ws, done: make(chan struct{})}
	var hello struct{ OK struct{ User, Conn string } }
	if err = ws.Write(ctx, websocket.MessageText, []byte(`{"op":"hello","id":1}`)); err == nil {
		var data []byte
		if _, data, err = ws.Read(ctx); err == nil {
			err = json.Unmarshal(data, &hello)
		}
	}
	if err == nil {
		a.user, err = siteNamespace.Ask(hello.OK.User)
	}
	if err == nil {
		a.conn, err = siteNamespace.Conn(hello.OK.Conn)
	}
	if err != nil {
		_ = ws.CloseNow() // it is of no use
		return nil, fmt.Errorf("connect user %d: %w", i, err)
	}
	go a.run()
	return a, nil
}

// run answers until the connection ends; what is not answered is counted by who
// asked.
func (a *answerer) run() {
	defer close(a.done)
	ctx := context.Background()
	for {
		_, data, err := a.ws.Read(ctx)
		if err != nil {
			return
		}
		var f struct {
			Ref  string
			Data json.RawMessage
		}
		if json.Unmarshal(data, &f) != nil || f.Ref == "" {
			continue
		}
		if a.ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"op":"reply","ref":%q,"data":%s}`, f.Ref, f.Data)) != nil {
			return
		}
	}
}

func (a *answerer) close() {
	_ = a.ws.CloseNow() // nothing is left to be said
	<-a.done
}

// askSide is one of the things that are compared.
type askSide struct {
	name     string
	subjects []string
	code     wire.Code // that every answer has; "": it is what was asked

	took  Histogram
	p50   []float64 // ms, by round
	rates []float64
}

// round asks for a while, so many at a time, each subject in turn.
func (a *askSide) round(ctx context.Context, nc *nats.Conn, c *Comparison, inFlight int, d time.Duration) error {
	var group sync.WaitGroup
	var turn atomic.Uint64
	took := make([]Histogram, inFlight)
	failed := make([]error, inFlight)
	began := time.Now()
	end := began.Add(d)
	for i := range inFlight {
		group.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				n := turn.Add(1)
				if failed[i] = a.ask(ctx, nc, n, &took[i]); failed[i] != nil {
					return
				}
			}
		})
	}
	group.Wait()
	var all Histogram
	for i := range took {
		all.Merge(&took[i])
	}
	a.took.Merge(&all)
	c.Checked += int64(all.Count())
	a.p50 = append(a.p50, all.Quantiles().P50)
	a.rates = append(a.rates, float64(all.Count())/time.Since(began).Seconds())
	return errors.Join(append(failed, ctx.Err())...)
}

func (a *askSide) ask(ctx context.Context, nc *nats.Conn, n uint64, took *Histogram) error {
	subject, body := a.subjects[n%uint64(len(a.subjects))], fmt.Sprintf(`{"n":%d}`, n)
	began := time.Now()
	m, err := nc.RequestMsgWithContext(ctx, &nats.Msg{
		Subject: subject, Data: []byte(body),
		Header: nats.Header{wire.HeaderEvent: {"bench"}, wire.HeaderDeadline: {wire.Deadline(began.Add(askPatience).UnixMilli())}},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	took.Record(int64(time.Since(began)))
	if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil && e.Code != a.code {
		return fmt.Errorf("%s: %w", a.name, e)
	}
	if a.code == "" && string(m.Data) != body {
		return fmt.Errorf("%s: got %.80q, want %s", a.name, m.Data, body)
	}
	return nil
}

// askPatience is how long an answer may take.
const askPatience = 10 * time.Second
