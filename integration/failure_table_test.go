package integration

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// allRules have topics for every service: what is under chat needs replay, under
// room presence, under closed, open and local ratelimit, under free nothing.
const allRules = `
limits:
  closed: {capacity: 1000000, refill: 1, per: 1s}
  open: {capacity: 1000000, refill: 1, per: 1s, failMode: open}
  local: {capacity: 1000000, refill: 1, per: 1s, failMode: local}
topics:
  - {name: chat, match: "chat.>", replay: {size: 1000, ttl: 1h}}
  - {match: "room.>", presence: {watch: user, join: user, leaveDelay: 0s}}
  - {match: "closed.>", rate: {publish: closed}}
  - {match: "open.>", rate: {publish: open}}
  - {match: "local.>", rate: {publish: local}}
  - {match: ">"}
`

// notices collects what a client is told of what is away.
type notices struct {
	mu    sync.Mutex
	heard []string
}

func listenTo(c *client.Client) *notices {
	s := &notices{}
	c.OnSystem(func(e client.SystemEvent) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.heard = append(s.heard, e.Event+":"+e.What)
	})
	return s
}

func (s *notices) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.heard, " ")
}

func (s *notices) hears(t *testing.T, want string) {
	t.Helper()
	eventually(t, "a client hears "+want, func() (any, bool) { return s.all(), s.all() == want })
}

// breakers collects the events of the breakers about one service.
type breakers struct {
	mu     sync.Mutex
	events []string
}

func watchBreakers(t *testing.T, nc *nats.Conn, what string) *breakers {
	t.Helper()
	b := &breakers{}
	_, err := nc.Subscribe("fl.event.breaker.>", func(m *nats.Msg) {
		if strings.Contains(string(m.Data), `"what":"`+what+`"`) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, strings.TrimPrefix(m.Subject, "fl.event.breaker."))
		}
	})
	must(t, err)
	flush(t, nc)
	return b
}

func (b *breakers) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

func (b *breakers) count(event string) (n int) {
	for _, e := range b.all() {
		if e == event {
			n++
		}
	}
	return n
}

// asksFor publishes where a limit decides, joins, or reads the past: what needs
// the service.
func asksFor(t *testing.T, what string, c *client.Client) error {
	t.Helper()
	var err error
	switch what {
	case "replay":
		_, err = c.Request(within(t), "history", map[string]any{"topic": "chat.a", "after": 0})
	case "presence":
		_, err = c.Request(within(t), "presence.join", map[string]any{"topic": "room.a"})
		if err == nil {
			_, err = c.Request(within(t), "presence.leave", map[string]any{"topic": "room.a"})
		}
	case "ratelimit":
		_, err = c.Publish(within(t), "closed.a", "", 1, client.PublishOptions{})
	}
	return err
}

// Each service is killed under a gateway that needs it, and started again.
// Meanwhile what needs it fails at once; nothing else is different; clients are
// told once, and those who come meanwhile behind their hello.
func TestAServiceThatIsAway(t *testing.T) {
	t.Parallel()
	for what, starts := range map[string]func(*testing.T, string, string) *process{
		"replay": startReplay,
		"presence": func(t *testing.T, url, rules string) *process {
			return startPresence(t, url, "FAIRLEAD_TOPICS_FILE="+rules)
		},
		"ratelimit": func(t *testing.T, url, rules string) *process { return startLimits(t, url, rules) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			rules, admin := rulesFile(t, allRules), "127.0.0.1:"+freePort(t)
			s := &stack{t: t, nats: natsdev.Test(t).ClientURL()}
			service := starts(t, s.nats, rules)
			s.add("FAIRLEAD_TOPICS_FILE="+rules, "FAIRLEAD_ADMIN_ADDR="+admin)
			ann := s.as(0, "ann")
			hears, events := listenTo(ann), watchBreakers(t, s.worker(), what)
			live := subscribe(t, ann, "free.a")
			kept := subscribe(t, ann, "chat.b")
			subscribe(t, ann, "room.a")
			answers := func() {
				t.Helper()
				eventually(t, what+" answers", func() (any, bool) {
					err := asksFor(t, what, ann)
					return err, err == nil
				})
			}
			state := func() int { return metric(t, admin, fmt.Sprintf(`fairlead_gateway_breaker_state{what=%q}`, what)) }
			answers()
			if got := state(); got != 0 {
				t.Errorf("the metric of a service that answers is %d, want 0", got)
			}

			service.kill()
			eventually(t, what+" is missed", func() (any, bool) {
				err := asksFor(t, what, ann)
				return hears.all(), err != nil && hears.all() != ""
			})
			const times = 20
			began := time.Now()
			for range times {
				e := wire.AsErrorOrNil(asksFor(t, what, ann))
				if e == nil || e.Code != wire.Unavailable || what != "ratelimit" && (e.Details["what"] != what || e.RetryAfter <= 0 || e.RetryAfter > time.Second) {
					t.Errorf("without %s: got %v, details %v, retry after %v", what, e, e.Details, e.RetryAfter)
				}
			}
			if took := time.Since(began); took > 4*time.Second { // one that waits for an answer takes up to as long
				t.Errorf("%d requests took %s to fail", times, took)
			}
			if what == "ratelimit" {
				publish(t, ann, "open.a", `1`)
				publish(t, ann, "local.a", `1`)
			}
			publish(t, ann, "free.a", `1`)
			expect(t, live, "", `1`)
			publish(t, ann, "chat.b", `1`)
			expect(t, kept, "", `1`)
			late := newPeer(t, s.url(0), "bob") // its first frame is the answer to hello
			if got, want := late.read(), fmt.Sprintf(`{"op":"system","event":"degraded","what":%q,`, what); !strings.HasPrefix(got, want) {
				t.Errorf("who comes meanwhile hears %s, want %s…", got, want)
			}
			eventually(t, "it is looked for more than once", func() (any, bool) { return events.all(), events.count("probing") >= 2 })
			if got, want := hears.all(), "degraded:"+what; got != want {
				t.Errorf("heard %q, want %q", got, want)
			}
			if got := state(); got == 0 {
				t.Error("the metric of a service that is away is 0")
			}

			starts(t, s.nats, rules)
			hears.hears(t, "degraded:"+what+" recovered:"+what)
			answers()
			if got, want := late.read(), fmt.Sprintf(`{"op":"system","event":"recovered","what":%q,`, what); !strings.HasPrefix(got, want) {
				t.Errorf("who came meanwhile hears %s, want %s…", got, want)
			}
			eventually(t, "the breaker says so", func() (any, bool) { return events.all(), events.count("healthy") == 1 })
			all := events.all() // broken probing broken probing … healthy
			for i, e := range all {
				want := "broken"
				switch {
				case i == len(all)-1:
					want = "healthy"
				case i%2 == 1:
					want = "probing"
				}
				if e != want {
					t.Errorf("event %d of %v is %s, want %s", i, all, e, want)
				}
			}
			if got := state(); got != 0 {
				t.Errorf("the metric is %d afterwards, want 0", got)
			}
			if err := ann.CloseError(); err != nil {
				t.Errorf("the connection did not live through it: %v", err)
			}
		})
	}
}

// NATS is away under all services: that is what clients hear, and nothing of the
// services behind it. Everything fails at once, the presence that they see
// stays, and everything works again by itself.
func TestNATSIsAwayUnderAllServices(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	rules := rulesFile(t, allRules)
	s := &stack{t: t, nats: server.ClientURL()}
	startReplay(t, s.nats, rules)
	startPresence(t, s.nats, "FAIRLEAD_TOPICS_FILE="+rules)
	startLimits(t, s.nats, rules)
	s.add("FAIRLEAD_TOPICS_FILE=" + rules)
	ann := s.as(0, "ann")
	hears := listenTo(ann)
	room := joining(t, ann, "room.here", `"ann"`)
	room.sees("ann")
	kept := subscribe(t, ann, "chat.b")
	subscribe(t, ann, "room.a")
	works := func() {
		t.Helper()
		for _, what := range []string{"replay", "presence", "ratelimit"} {
			eventually(t, what+" answers", func() (any, bool) {
				err := asksFor(t, what, ann)
				return err, err == nil
			})
		}
	}
	works()
	publish(t, ann, "chat.b", `1`)
	first := next(t, kept)

	server.Shutdown()
	hears.hears(t, "degraded:nats")
	began := time.Now()
	fails := func(what string, err error) {
		t.Helper()
		if wire.CodeOf(err) != wire.Unavailable {
			t.Errorf("%s without NATS: got %v, want UNAVAILABLE", what, err)
		}
	}
	for range 3 {
		for _, topic := range []string{"free.a", "chat.a", "closed.a", "open.a", "local.a"} {
			_, err := ann.Publish(within(t), topic, "", 1, client.PublishOptions{})
			fails("publish to "+topic, err)
		}
		fails("history", asksFor(t, "replay", ann))
		fails("join", asksFor(t, "presence", ann))
		_, err := ann.Subscribe(within(t), "chat.c", client.SubscribeOptions{After: &first.Seq, Ts: first.Ts})
		fails("resume", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("24 requests took %s to fail", took)
	}
	if got := room.view.Now(); len(got.Users) != 1 {
		t.Errorf("who is there without NATS: got %v, want the same", got.Users)
	}

	must(t, server.Restart())
	hears.hears(t, "degraded:nats recovered:nats")
	works()
	passes(4 * time.Second) // by now whoever is still away would be missed
	if got, want := hears.all(), "degraded:nats recovered:nats"; got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
	publish(t, ann, "chat.b", `2`)
	expect(t, kept, "", `2`)
	room.sees("ann")
	if err := ann.CloseError(); err != nil {
		t.Errorf("the connection did not live through it: %v", err)
	}
}

// JetStream has no leader for seconds, and NATS and all services are there: what
// has to be stored or read waits, as it would for an election. Nobody hears of a
// service that is away, and no breaker refuses what may still be done.
func TestALeaderThatIsMissingIsNobodysOutage(t *testing.T) {
	t.Parallel()
	nodes := natsdev.Cluster(t, 3)
	rules, replicas := rulesFile(t, strings.Replace(allRules, "ttl: 1h", "ttl: 1h, replicas: 3", 1)), "FAIRLEAD_NATS_REPLICAS=3"
	s := &stack{t: t, nats: nodes[0].ClientURL()}
	startReplay(t, s.nats, rules)
	startPresence(t, s.nats, "FAIRLEAD_TOPICS_FILE="+rules, replicas)
	s.add("FAIRLEAD_TOPICS_FILE="+rules, replicas)
	ann := s.as(0, "ann")
	hears := listenTo(ann)
	events := []*breakers{watchBreakers(t, s.worker(), "presence"), watchBreakers(t, s.worker(), "replay")}
	room := joining(t, ann, "room.here", `"ann"`)
	room.sees("ann")
	subscribe(t, ann, "room.a")
	publish(t, ann, "chat.a", `1`)
	for _, what := range []string{"replay", "presence"} {
		eventually(t, what+" answers", func() (any, bool) {
			err := asksFor(t, what, ann)
			return err, err == nil
		})
	}
	const users = 12 // more than a breaker takes
	var all []*client.Client
	for i := range users {
		c := s.as(0, fmt.Sprint("user", i))
		subscribe(t, c, "room.a")
		all = append(all, c)
	}
	for _, stream := range []string{clusterStream, presenceStream} {
		eventually(t, "another node leads "+stream, func() (any, bool) {
			leader := nodes.Leader(stream)
			if leader == nodes[0] {
				return leader.StepDown(stream), false
			}
			return leader, leader != nil
		})
	}
	nodes[1].Shutdown()
	nodes[2].Shutdown()
	many(t, 2*users, func(i int) error {
		op, fields := "presence.join", map[string]any{"topic": "room.a"}
		if i%2 == 0 {
			op, fields = "gap", map[string]any{"topic": "chat.a", "after": 1}
		}
		_, err := all[i/2].Request(within(t), op, fields)
		if e := wire.AsErrorOrNil(err); e != nil && e.Details["what"] != nil {
			return fmt.Errorf("%s without a leader: refused by a breaker: %w", op, e)
		}
		return nil
	})
	publish(t, ann, "free.a", `1`)
	must(t, nodes[1].Restart())
	must(t, nodes[2].Restart())
	for _, what := range []string{"replay", "presence"} {
		eventually(t, what+" answers again", func() (any, bool) {
			err := asksFor(t, what, ann)
			return err, err == nil
		})
	}
	room.sees("ann")
	if got := hears.all(); got != "" {
		t.Errorf("heard %q, want nothing: nobody was away", got)
	}
	for _, b := range events {
		if got := b.all(); len(got) > 0 {
			t.Errorf("breakers said %v, want nothing", got)
		}
	}
}
