package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Presence measures how many joins and leaves a gateway and one replica of the
// presence service take, each client in a room of its own and all in one with
// many members; how many the service takes where no sockets are in the way; and
// what members who only stay cost, in NATS messages.
type Presence struct {
	Clients  int           // connections that join and leave in turn; default 128
	Members  int           // of the full room; default 1,000
	Idle     int           // connections that join and stay, in the last part; default 1,000
	Rounds   int           // default 3
	Duration time.Duration // of one side in a round; default 4 s
}

func (o *Presence) defaults() error {
	def(&o.Clients, 128)
	def(&o.Members, 1000)
	def(&o.Idle, 1000)
	def(&o.Rounds, 3)
	def(&o.Duration, 4*time.Second)
	if o.Clients < 1 || o.Members < 1 || o.Idle < 2 || o.Rounds < 1 {
		return errors.New("clients, members, rounds: at least 1; idle: at least 2")
	}
	return nil
}

const (
	roomPrefix = "bench.room."
	// pairsGoal is twice what a toolkit on Redis was measured at, with one
	// instance on one such machine; roomGoal is what a full room may cost more.
	pairsGoal = 9000
	roomGoal  = 1.2
)

// Run measures on processes of its own.
func (o Presence) Run(ctx context.Context, cfg SiteConfig) (*Comparison, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	s, err := openSite(ctx, cfg, 1)
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
	if err := o.fill(ctx, nc, roomPrefix+"full"); err != nil {
		return nil, err
	}
	c := &Comparison{Scenario: "presence", Parameters: map[string]any{
		"clients": o.Clients, "members": o.Members, "idle": o.Idle, "rounds": o.Rounds, "duration": o.Duration,
	}}
	k := s.clock()
	var empty, full, service visits
	for round := range o.Rounds {
		own := func(i int) string { return fmt.Sprintf("%sempty%d-%d", roomPrefix, round, i) }
		if err := o.visit(ctx, s, c, &empty, own, "empty"); err != nil {
			return nil, err
		}
		if err := o.visit(ctx, s, c, &full, func(int) string { return roomPrefix + "full" }, "full"); err != nil {
			return nil, err
		}
		if err := o.put(ctx, nc, c, &service); err != nil {
			return nil, err
		}
	}
	k.stop(c)
	c.side("the service alone", median(service.rates), "pairs", &service.joins)
	c.side("join, empty room", median(empty.rates), "pairs", &empty.joins)
	c.side(fmt.Sprintf("join, room of %d", o.Members), median(full.rates), "pairs", &full.joins)
	ratios := make([]float64, len(full.rates))
	for i := range ratios {
		ratios[i] = empty.rates[i] / full.rates[i]
	}
	c.atLeast("joins and leaves, the service alone", pairsGoal, "pairs/s", service.rates...)
	c.atLeast("joins and leaves through a gateway, empty room", pairsGoal, "pairs/s", empty.rates...)
	c.atMost("cost of a pair in the full room, of one in the empty room", roomGoal, "x", ratios...)
	return c, o.idle(ctx, s, c)
}

// fill puts members without a socket on a topic.
func (o *Presence) fill(ctx context.Context, nc *nats.Conn, topic string) error {
	for i := range o.Members {
		req, err := json.Marshal(wire.PresenceJoin{Topic: topic, User: fmt.Sprintf("member-%d", i), TTL: "1h"})
		if err != nil {
			return err
		}
		msg, err := nc.RequestWithContext(ctx, siteNamespace.Svc("presence", "join"), req)
		if err != nil {
			return fmt.Errorf("fill the room: %w", err)
		}
		if err := wire.ParseErrorHeader(msg.Header, msg.Data); err != nil {
			return fmt.Errorf("fill the room: %w", err)
		}
	}
	return nil
}

// visits are what one side measured.
type visits struct {
	joins Histogram
	rates []float64
}

// visit lets all clients join and leave a topic, each again and again.
func (o *Presence) visit(ctx context.Context, s *site, c *Comparison, p *visits, topic func(int) string, name string) error {
	all := make([]*attendant, o.Clients)
	for i := range all {
		a, err := attend(ctx, s, topic(i), fmt.Sprintf("%s-%d", name, i))
		if err != nil {
			return err
		}
		defer a.close()
		all[i] = a
	}
	profiled := s.profile(ctx, "presence-"+name, o.Duration)
	end := time.Now().Add(o.Duration)
	var group sync.WaitGroup
	for _, a := range all {
		group.Go(func() { a.run(end) })
	}
	group.Wait()
	count := int64(0)
	for _, a := range all {
		if a.err != nil {
			return a.err
		}
		p.joins.Merge(&a.joins)
		count += int64(a.joins.Count())
	}
	c.Checked += 2 * count
	p.rates = append(p.rates, float64(count)/o.Duration.Seconds())
	return profiled()
}

// putSections is how many changes a busy gateway says in one request, and
// putWorkers how many of them it has under way.
const (
	putSections = 64
	putWorkers  = 4
)

// put lets requests such as a busy gateway's join and leave users.
func (o *Presence) put(ctx context.Context, nc *nats.Conn, c *Comparison, p *visits) error {
	var group sync.WaitGroup
	var version atomic.Uint64
	version.Store(uint64(time.Now().UnixNano()))
	took := make([]Histogram, putWorkers)
	failed := make([]error, putWorkers)
	end := time.Now().Add(o.Duration)
	for worker := range putWorkers {
		group.Go(func() {
			req := wire.PresencePut{Sections: make([]wire.PresenceSection, putSections)}
			for failed[worker] == nil && time.Now().Before(end) {
				for _, joins := range [...]bool{true, false} {
					for i := range req.Sections {
						user := fmt.Sprintf("user-%d-%d", worker, i)
						section := wire.PresenceSection{Topic: roomPrefix + "service" + user, User: user, Gateway: "bench", Epoch: 1, Version: version.Add(1)}
						if joins {
							section.Conns = []wire.PresenceConn{{Conn: user, Data: json.RawMessage(`{"mood":"fine"}`)}}
						}
						req.Sections[i] = section
					}
					began := time.Now()
					if failed[worker] = ask(ctx, nc, req); failed[worker] != nil {
						return
					}
					if joins {
						for range req.Sections {
							took[worker].Record(int64(time.Since(began)))
						}
					}
				}
			}
		})
	}
	group.Wait()
	count := uint64(0)
	for i := range took {
		count += took[i].Count()
		p.joins.Merge(&took[i])
	}
	c.Checked += 2 * int64(count)
	p.rates = append(p.rates, float64(count)/o.Duration.Seconds())
	return errors.Join(failed...)
}

// ask has sections stored, all of them.
func ask(ctx context.Context, nc *nats.Conn, req wire.PresencePut) error {
	data, err := json.Marshal(req)
	if err != nil {
		return err
	}
	msg, err := nc.RequestWithContext(ctx, siteNamespace.Svc("presence", "put"), data)
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if err := wire.ParseErrorHeader(msg.Header, msg.Data); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	var reply wire.PresencePutReply
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	for _, r := range reply.Results {
		if r.Revision == 0 || r.Stale || len(r.Error) > 0 {
			return fmt.Errorf("put: a section was not stored: %+v", r)
		}
	}
	return nil
}

// attendant is one client that joins and leaves.
type attendant struct {
	c     *client.Client
	topic string
	id    int64
	joins Histogram
	err   error
}

func attend(ctx context.Context, s *site, topic, session string) (*attendant, error) {
	c, err := client.Dial(ctx, s.target(s.gateways[0]).URL, client.Options{Batch: true, Tap: true})
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", session, err)
	}
	a := &attendant{c: c, topic: topic}
	if err := a.ask(`{"op":"subscribe","id":%d,"topic":%q}`); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *attendant) close() {
	a.c.Abort()
	a.c.Wait()
}

// ask sends a frame and waits for its answer.
func (a *attendant) ask(format string) error {
	a.id++
	if err := a.c.SendFrame(fmt.Appendf(nil, format, a.id, a.topic)); err != nil {
		return err
	}
	for f := range a.c.Frames() {
		switch {
		case f.Kind != wire.KindReply || f.ID != a.id:
		case f.Error != nil:
			return f.Error
		default:
			return nil
		}
	}
	return errors.New("the connection was closed")
}

func (a *attendant) run(end time.Time) {
	for time.Now().Before(end) {
		began := time.Now()
		if a.err = a.ask(`{"op":"presence.join","id":%d,"topic":%q}`); a.err != nil {
			return
		}
		a.joins.Record(int64(time.Since(began)))
		if a.err = a.ask(`{"op":"presence.leave","id":%d,"topic":%q}`); a.err != nil {
			return
		}
	}
}

// idle counts the NATS messages of a quiet time with few members and with many:
// what each of them costs is the difference.
func (o *Presence) idle(ctx context.Context, s *site, c *Comparison) error {
	tap, err := s.connect()
	if err != nil {
		return err
	}
	defer tap.Close()
	var heard atomic.Int64
	if _, err := tap.Subscribe(">", func(*nats.Msg) { heard.Add(1) }); err != nil {
		return err
	}
	if err := tap.Flush(); err != nil {
		return err
	}
	quiet := 3 * o.Duration
	var rates []float64
	for n := 0; n < o.Idle; {
		next := o.Idle
		if n == 0 {
			next = max(o.Idle/10, 1)
		}
		for ; n < next; n++ {
			a, err := attend(ctx, s, fmt.Sprintf("%sidle%d", roomPrefix, n%10), fmt.Sprintf("idle-%d", n))
			if err != nil {
				return err
			}
			defer a.close()
			if err := a.ask(`{"op":"presence.join","id":%d,"topic":%q}`); err != nil {
				return err
			}
			go drain(a.c)
		}
		if err := pause(ctx, 2*time.Second); err != nil { // what the joins still cause
			return err
		}
		from := heard.Load()
		if err := pause(ctx, quiet); err != nil {
			return err
		}
		rates = append(rates, float64(heard.Load()-from)/quiet.Seconds())
		c.side(fmt.Sprintf("%d members who stay", n), rates[len(rates)-1], "NATS messages", nil)
	}
	c.atMost("messages a second for each member who stays", 0.01, "/s", max(0, rates[1]-rates[0])/float64(o.Idle-max(o.Idle/10, 1)))
	return nil
}

// drain reads what a client is sent, until it is closed.
func drain(c *client.Client) {
	for range c.Frames() {
	}
}
