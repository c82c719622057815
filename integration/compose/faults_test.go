//go:build compose

package compose

import (
	"cmp"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

var (
	report = flag.Bool("report", false, "write the table of docs/reliability.md")
	only   = flag.String("only", "", "do the faults that this regular expression matches")
)

// theLimit is one of deploy/rules.yaml.
const theLimit = "demo"

// least is how many publishes a second have to be acknowledged throughout each fault.
const least = 50

// fault is something that happens to the stack.
type fault struct {
	what string
	away bool // clients hear nothing for longer than users stay present: they may seem to leave
	do   func(s *stack)
}

// One stack, one crowd, one fault after the other; then down and up again.
func TestFaults(t *testing.T) {
	s := newStack(t, "fairlead-faults", ".env")
	p := start(t, s, "gateway=2")
	p.suffer([]fault{
		{what: "gateways: from 2 to 4", do: scale("gateway", 4)},
		{what: "kill -9 of the ratelimit service", do: kill("ratelimit")},
		{what: "gateways: from 4 to 1", do: scale("gateway", 1)},
		{what: "kill -9 of the presence service", do: kill("presence")},
		{what: "rolling restart of the only gateway", do: roll("gateway")},
		{what: "kill -9 of the tasks service", do: kill("tasks")},
		{what: "gateways: from 1 to 2", do: scale("gateway", 2)},
		{what: "kill -9 of the replay service", do: kill("replay")},
		{what: "rolling restart of the presence service", do: roll("presence")},
		// Whoever restarts the load balancer has the clients spread over the gateways:
		// what then happens to one of them happens to some clients, and not to the others.
		{what: "kill -9 of the load balancer", do: kill("lb")},
		{what: "kill -9 of a gateway", do: kill("gateway")},
		{what: "rolling restart of the replay service", do: roll("replay")},
		{what: "rolling restart of the ratelimit service", do: roll("ratelimit")},
		{what: "rolling restart of the tasks service", do: roll("tasks")},
		{what: "kill -9 of the demo page", do: kill("demo")},
		{what: "restart of the load balancer", do: roll("lb")},
		// Longer than a gateway's lease, and shorter than users stay present without one.
		{what: "pause of a gateway for 11 s", do: hang("gateway", 11*time.Second)},
		{what: "kill -9 of Postgres", do: kill("postgres")},
		{what: "the presence service cut off for 5 s", do: cut("presence", 5*time.Second)},
		{what: "kill -9 of NATS", do: kill("nats")},
		{what: "a gateway cut off for 10 s", away: true, do: cut("gateway", 10*time.Second)},
		{what: "restart of Postgres", do: restart("postgres")},
		{what: "restart of NATS", do: restart("nats")},
	})
	p.downAndUp()
	p.permitted()
	p.report()
}

// The same on three NATS nodes, of which one is lost.
func TestFaultsOfACluster(t *testing.T) {
	s := newStack(t, "fairlead-cluster", ".env", "deploy/cluster.env")
	p := start(t, s, "gateway=2")
	p.suffer([]fault{
		{what: "three NATS nodes: one cut off for 5 s", do: cut("nats-2", 5*time.Second)},
		{what: "three NATS nodes: kill -9 of one", do: kill("nats-3")},
	})
	p.permitted()
	p.report()
}

func scale(service string, n int) func(*stack) {
	return func(s *stack) {
		s.compose("up", "-d", "--no-recreate", "--no-deps", "--scale", fmt.Sprintf("%s=%d", service, n), service)
		s.eventually(fmt.Sprintf("%d of %s are there", n, service), func() (any, bool) {
			all := s.containers(service)
			well := 0
			for _, c := range all {
				if c.well() {
					well++
				}
			}
			return well, well == n && len(all) == n
		})
	}
}

func kill(service string) func(*stack) {
	return func(s *stack) { s.kill(s.one(service)) }
}

func restart(service string) func(*stack) {
	return func(s *stack) { s.compose("restart", service) }
}

// roll restarts a service in the way that users are told to.
func roll(service string) func(*stack) {
	return func(s *stack) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		if out, err := s.command(ctx, "deploy/rolling.sh", service).CombinedOutput(); err != nil {
			s.t.Fatalf("deploy/rolling.sh %s: %v\n%s", service, err, out)
		}
	}
}

// hang stops every process of a container for a while, without the end of any.
func hang(service string, d time.Duration) func(*stack) {
	return func(s *stack) {
		c := s.one(service)
		s.engine("pause", c.ID)
		<-time.After(d) // the fault itself
		s.engine("unpause", c.ID)
	}
}

func cut(service string, d time.Duration) func(*stack) {
	return func(s *stack) {
		join := s.cut(s.one(service))
		<-time.After(d) // the fault itself
		join()
	}
}

// proof is a stack, the crowd that uses it, and what came of each fault.
type proof struct {
	t *testing.T
	*stack
	*crowd
	outcomes []outcome
}

// start brings a stack and its crowd up.
func start(t *testing.T, s *stack, scaled string) *proof {
	t.Helper()
	began := time.Now()
	s.compose("up", "-d", "--build", "--wait", "--scale", scaled)
	t.Logf("up after %s", time.Since(began).Round(time.Second))
	port := s.setting("FAIRLEAD_PORT")
	p := &proof{t: t, stack: s, crowd: gather(t, "ws://127.0.0.1:"+port+"/ws", s.setting("FAIRLEAD_AUTH_JWT_SECRET"))}
	for _, name := range []string{"one", "two"} {
		p.hire(name, "nats://worker:"+s.setting("NATS_WORKER_PASSWORD")+"@127.0.0.1:"+s.setting("FAIRLEAD_NATS_PORT"))
	}
	p.employ(theLimit)
	p.recover(map[string]time.Duration{})
	for _, r := range p.rosters {
		r.left() // while all came in, nobody left
	}
	t.Logf("everybody is there after %s", time.Since(began).Round(time.Second))
	return p
}

// suffer does one fault after the other.
func (p *proof) suffer(faults []fault) {
	wanted := regexp.MustCompile(*only)
	for _, f := range faults {
		if p.t.Failed() {
			return // what follows would be judged by what is broken already
		}
		if wanted.MatchString(f.what) {
			p.undergo(f)
		}
	}
}

// undergo does a fault, waits until everything is right again, and says what
// came of it.
func (p *proof) undergo(f fault) {
	p.t.Helper()
	p.waited()
	p.retried()
	o := outcome{what: f.what, after: map[string]time.Duration{}}
	acks, _, lost, twice := p.messages.told()
	asked, _, doubly := p.tasks.told()
	began := time.Now()
	f.do(p.stack)
	done := time.Now()
	p.recover(o.after)
	o.lasted, o.longest = time.Since(began), p.waited()
	a, _, l, w := p.messages.told()
	o.acks, o.lost, o.twice = a-acks, l-lost, w-twice
	as, _, d := p.tasks.told()
	o.tasks, o.tasksTwice = as-asked, d-doubly
	for _, r := range p.rosters {
		gone := r.left()
		o.left += len(gone)
		if len(gone) > 0 && !f.away {
			p.t.Errorf("%s: seemed to leave %s: %v", f.what, r.topic, gone)
		}
	}
	for _, b := range p.buckets {
		over, line := b.exceeded()
		if o.over += over; over > 0 {
			p.t.Errorf("%s: %s", f.what, line)
		}
	}
	if o.rate() < least {
		p.t.Errorf("%s: %d acknowledged publishes in %s are %.0f a second, want %d", f.what, o.acks, o.lasted, o.rate(), least)
	}
	p.outcomes = append(p.outcomes, o)
	p.t.Logf("%-45s done in %5.1fs, right after %s, %4.0f acks/s, longest %.1fs, lost %d, twice %d, left %d, again %v", f.what, done.Sub(began).Seconds(), inOrder(o.after), o.rate(), o.longest.Seconds(), o.lost, o.twice, o.left, p.retried())
}

// recover waits until all parts do what they are there for, and notes when each
// of them did. What is wrong for good fails the test.
func (p *proof) recover(after map[string]time.Duration) {
	p.t.Helper()
	began := time.Now()
	due := p.tasks.asked()
	var marks map[string]int64
	var rows []row
	published := make(chan struct{})
	parts := map[string]func() string{ // "": it is right
		"containers":  func() string { return first(p.stopped()) },
		"connections": func() string { return some(p.unconnected(), "clients are not connected") },
		"publishing": func() string { // what waited meanwhile has been published too
			at := time.Now().Add(-time.Second)
			if at.Before(began) {
				at = began
			}
			return some(p.behind(at), "have not done all that was due")
		},
		"messages": func() string {
			<-published
			if marks == nil {
				marks = p.messages.marks()
			}
			return first(p.messages.lacking(marks))
		},
		"presence": func() string {
			var wrong []string
			for _, r := range p.rosters {
				if d := r.differs(); d != "" {
					wrong = append(wrong, d)
				}
			}
			return first(append(wrong, p.workers[0].listed(p.rosters[0])...))
		},
		"history": func() string { return p.workers[0].remembers(p.room(0)) },
		"limits": func() string {
			var wrong []string
			for _, b := range p.buckets {
				if b.latest() < began.Sub(p.began) {
					wrong = append(wrong, b.key+": no verdict")
				}
			}
			return first(wrong)
		},
		"tasks": func() (said string) {
			if rows, said = p.ended(); said != "" {
				return said
			}
			_, open := p.tasks.audit(rows, due)
			return first(open)
		},
	}
	var watching sync.WaitGroup
	var mu sync.Mutex // guards after
	for name, wrong := range parts {
		watching.Go(func() {
			got, done := poll(func() (any, bool) {
				said := wrong()
				return said, said == ""
			})
			if name == "publishing" {
				close(published)
			}
			mu.Lock()
			defer mu.Unlock()
			if after[name] = time.Since(began); !done {
				p.t.Errorf("%s is not right again: %v", name, got)
			}
		})
	}
	watching.Wait()
	wrong := append(p.messages.audit(marks), p.problems()...)
	lost, _ := p.tasks.audit(rows, nil)
	for i, w := range append(wrong, lost...) {
		if i == 20 {
			p.t.Error("… and more")
			break
		}
		p.t.Error(w)
	}
}

// permitted checks that nobody wanted anything of NATS that its role may not.
func (p *proof) permitted() {
	p.t.Helper()
	seen := map[string]bool{}
	for line := range strings.Lines(p.compose("logs", "--no-color", "--no-log-prefix")) {
		if _, what, ok := strings.Cut(line, `"FAIRLEAD/user:`); ok && strings.Contains(line, "Violation") && !seen[what] {
			seen[what] = true
			p.t.Errorf("NATS refuses what is needed: %s", strings.TrimSpace(what))
		}
	}
}

// inOrder is when which part was right, for people.
func inOrder(after map[string]time.Duration) string {
	var said []string
	for _, name := range slices.SortedFunc(maps.Keys(after), func(a, b string) int { return cmp.Compare(after[a], after[b]) }) {
		said = append(said, fmt.Sprintf("%s %.1fs", name, after[name].Seconds()))
	}
	return strings.Join(said, ", ")
}

// some is a line about a number of things, "" where there are none.
func some(n int, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n, " ", what)
}

// first is a line about what is in a list, "" where nothing is.
func first(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf("%s and %d more", all[0], len(all)-1)
}

// ended asks the database which tasks of the crowd have ended, and how.
func (p *proof) ended() (rows []row, wrong string) {
	const states = `case state when 2 then 'committed' when 3 then 'failed' when 4 then 'cancelled' when 5 then 'dead' end`
	out, err := p.try("exec", "-T", "postgres", "psql", "-U", "fairlead", "-d", "fairlead", "-AtF", "\t", "-c",
		`select id, `+states+`, result from fairlead.task_done where name = '`+p.task()+`'`)
	if err != nil {
		return nil, "the database: " + strings.TrimSpace(out)
	}
	for line := range strings.Lines(out) {
		if f := strings.Split(strings.TrimRight(line, "\n"), "\t"); len(f) == 3 {
			rows = append(rows, row{id(f[0]), f[1], f[2]})
		}
	}
	return rows, ""
}

// id is what the service calls the task of a row.
func id(uuid string) string {
	var id wire.TaskID
	if n, err := hex.Decode(id[:], []byte(strings.ReplaceAll(uuid, "-", ""))); err != nil || n != len(id) {
		return uuid
	}
	return id.String()
}

// report logs the table, and writes it where that was asked for.
func (p *proof) report() {
	p.t.Helper()
	p.t.Log("\n" + table(p.outcomes))
	all = append(all, p.outcomes...)
	if *report && !p.t.Failed() {
		if err := write(root+"/docs/reliability.md", all); err != nil {
			p.t.Error(err)
		}
	}
}

// all are the outcomes of all tests so far, which run one after the other.
var all []outcome
