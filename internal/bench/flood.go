package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// Flood measures what others notice of a user who publishes what a limit denies,
// as fast as the gateway answers: the time from their publishes, which are few and
// regular, to the acknowledgements, with the flood and without it in turn.
type Flood struct {
	Clients  int           // others, each with a connection; default 16
	Rate     float64       // publishes a second of all others together; default 400
	Window   int           // publishes of the flood without an answer at a time; default 64
	Limit    float64       // publishes a second of the flood at most; 0: no bound
	Rounds   int           // pairs; default 7
	Duration time.Duration // of one side in a pair; default 4 s
}

const (
	floodGoal   = 1.1 // p99 of the others with the flood, of that without it
	floodTopic  = "bench.flood"
	othersTopic = "bench.others"
	floodFrames = 2000 // a second of one connection, as a gateway has it by itself
	floodRules  = `limits:
  few: {capacity: 10, refill: 1, per: 1m}
topics:
  - {name: flood, match: "bench.flood", subscribe: any, publish: any, rate: {publish: few}}
  - {name: others, match: "bench.others", subscribe: any, publish: any}
`
)

func (o *Flood) defaults() error {
	def(&o.Clients, 16)
	def(&o.Window, 64)
	def(&o.Rounds, 7)
	def(&o.Duration, 4*time.Second)
	if o.Rate == 0 {
		o.Rate = 400
	}
	if o.Clients < 1 || o.Window < 1 || o.Rounds < 1 || o.Rate < 0 || o.Limit < 0 {
		return errors.New("clients, window, rounds: at least 1; rate: above 0; limit: at least 0")
	}
	return nil
}

// Run measures on processes of its own.
func (o Flood) Run(ctx context.Context, cfg SiteConfig) (*Comparison, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	s, err := openFlood(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer s.close()
	others := make([]*client.Client, o.Clients)
	for i := range others {
		if others[i], err = client.Dial(ctx, s.target(s.gateways[0]).URL, client.Options{Batch: true}); err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		defer hangUp(others[i])
	}
	c := &Comparison{Scenario: "flood", Parameters: map[string]any{
		"clients": o.Clients, "rate": o.Rate, "window": o.Window, "limit": o.Limit, "rounds": o.Rounds, "duration": o.Duration,
	}}
	// What comes first pays for what is not there yet.
	if err := o.side(ctx, s, others, c, &floodSide{}, false); err != nil {
		return nil, err
	}
	var sides [2]floodSide // without, with
	k := s.clock()
	for round := range o.Rounds {
		for i := range sides {
			which := (round + i) % 2 // each is first as often
			if err := o.side(ctx, s, others, c, &sides[which], which == 1); err != nil {
				return nil, err
			}
		}
	}
	k.stop(c)
	c.side("others, alone", median(sides[0].rates), "acknowledged", &sides[0].took)
	c.side("others, beside the flood", median(sides[1].rates), "acknowledged", &sides[1].took)
	c.side("the flood", median(sides[1].denied), "denied", nil)
	var p50, p99 []float64
	for i := range sides[0].p99 {
		p50 = append(p50, sides[1].p50[i]/sides[0].p50[i])
		p99 = append(p99, sides[1].p99[i]/sides[0].p99[i])
	}
	c.atMost("p99 of the others beside the flood, of that alone", floodGoal, "x", p99...)
	c.Parameters["p50 beside/alone"] = fmt.Sprintf("%.2f", median(p50))
	return c, nil
}

// openFlood starts a NATS server, a replica of the ratelimit service and a gateway.
func openFlood(ctx context.Context, cfg SiteConfig) (*site, error) {
	s, err := prepareSite(cfg)
	if err != nil {
		return nil, err
	}
	if err = os.WriteFile(s.path("rules.yaml"), []byte(floodRules), 0o600); err == nil {
		err = s.startNATS(ctx)
	}
	if err == nil {
		err = s.withRatelimit(ctx)
	}
	if err == nil {
		var g *child
		g, err = s.service(ctx, "gateway0", "gateway", fmt.Sprintf("FAIRLEAD_LIMIT_FRAMES_PER_SECOND=%d", floodFrames))
		s.gateways = append(s.gateways, g)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func hangUp(c *client.Client) {
	c.Abort()
	c.Wait()
}

// floodSide is what one side measured.
type floodSide struct {
	took          Histogram
	p50, p99      []float64 // ms, by round
	rates, denied []float64 // a second, by round
}

// side lets the others publish for a while, with a flood beside them or without.
func (o *Flood) side(ctx context.Context, s *site, others []*client.Client, c *Comparison, out *floodSide, flood bool) error {
	stop := func() (int64, error) { return 0, nil }
	if flood {
		f, err := o.begin(ctx, s)
		if err != nil {
			return err
		}
		stop = f.end
	}
	began := time.Now()
	var all Histogram
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed error
	every := time.Duration(float64(len(others)) / o.Rate * float64(time.Second))
	for i, other := range others {
		group.Go(func() {
			took, err := publishCalmly(ctx, other, began.Add(every*time.Duration(i)/time.Duration(len(others))), every, began.Add(o.Duration))
			mu.Lock()
			defer mu.Unlock()
			all.Merge(took)
			failed = errors.Join(failed, err)
		})
	}
	group.Wait()
	elapsed := time.Since(began).Seconds()
	denied, err := stop()
	if err = errors.Join(failed, err); err != nil {
		return err
	}
	q := all.Quantiles()
	out.took.Merge(&all)
	out.p50, out.p99 = append(out.p50, q.P50), append(out.p99, q.P99)
	out.rates, out.denied = append(out.rates, float64(q.Count)/elapsed), append(out.denied, float64(denied)/elapsed)
	c.Checked += int64(q.Count) + denied
	return nil
}

// publishCalmly publishes at a fixed rate, whatever the last one took. A publish
// counts from its sending: what a late alarm costs is neither side's.
func publishCalmly(ctx context.Context, c *client.Client, first time.Time, every time.Duration, end time.Time) (*Histogram, error) {
	took := &Histogram{}
	for due := first; due.Before(end); due = due.Add(every) {
		if wait := time.Until(due); wait > 0 {
			if err := pause(ctx, wait); err != nil {
				return took, err
			}
		}
		began := time.Now()
		if _, err := c.Publish(ctx, othersTopic, "", 1, client.PublishOptions{}); err != nil {
			return took, fmt.Errorf("one of the others: %w", err)
		}
		took.Record(int64(time.Since(began)))
	}
	return took, nil
}

// flooding is a user who publishes and publishes. It does as little as it can to
// send and to count: what it costs the machine is in the others' times too.
type flooding struct {
	ws      *websocket.Conn
	quit    chan struct{}
	done    chan struct{} // closed when it has ended
	denied  int64
	failure error
}

// floodJoins is how many publishes go in one message, as a client that means
// harm would have it.
const floodJoins = 16

func (o *Flood) begin(ctx context.Context, s *site) (*flooding, error) {
	ws, _, err := websocket.Dial(ctx, s.target(s.gateways[0]).URL, &websocket.DialOptions{Subprotocols: []string{"fairlead.v1"}})
	if err != nil {
		return nil, fmt.Errorf("connect the flood: %w", err)
	}
	f := &flooding{ws: ws, quit: make(chan struct{}), done: make(chan struct{})}
	if err = ws.Write(ctx, websocket.MessageText, []byte(`{"op":"hello","id":1}`)); err == nil {
		_, _, err = ws.Read(ctx)
	}
	if err != nil {
		_ = ws.CloseNow() // it is of no use
		return nil, fmt.Errorf("connect the flood: %w", err)
	}
	ws.SetReadLimit(-1)
	joined := min(floodJoins, o.Window)
	go func() {
		defer close(f.done)
		f.failure = f.run(joined, o.Window, o.Limit)
	}()
	return f, nil
}

func (f *flooding) run(joined, window int, limit float64) error {
	frame := fmt.Sprintf(`{"op":"publish","id":7,"topic":%q,"data":1}`, floodTopic)
	message := []byte("[" + strings.Repeat(frame+",", joined-1) + frame + "]")
	ctx := context.Background() // CloseNow ends it
	began, sent, flying := time.Now(), 0, 0
	for {
		for ; flying+joined <= window; flying += joined {
			if sent += joined; limit > 0 {
				select {
				case <-time.After(time.Until(began.Add(time.Duration(float64(sent) / limit * float64(time.Second))))):
				case <-f.quit:
				}
			}
			select {
			case <-f.quit:
				return nil
			default:
			}
			if err := f.ws.Write(ctx, websocket.MessageText, message); err != nil {
				return fmt.Errorf("the flood was closed: %w", err)
			}
		}
		_, answers, err := f.ws.Read(ctx)
		if err != nil {
			return fmt.Errorf("the flood was closed: %w", err)
		}
		flying -= bytes.Count(answers, []byte(`"id":7`))
		f.denied += int64(bytes.Count(answers, []byte(`"RESOURCE_EXHAUSTED"`)))
	}
}

// end stops the flood and returns how much of it was denied. A connection that
// the gateway closed is an error.
func (f *flooding) end() (denied int64, err error) {
	close(f.quit)
	<-f.done
	_ = f.ws.CloseNow() // what is on its way is not counted
	if f.failure == nil && f.denied == 0 {
		return 0, errors.New("nothing of the flood was denied")
	}
	return f.denied, f.failure
}
