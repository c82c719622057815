//go:build compose

package compose

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// proof is a stack, the crowd that uses it, and what came of each fault.
type proof struct {
	t *testing.T
	*stack
	*crowd
	outcomes  []outcome
	ended     int    // tasks that were seen to have ended by the end of the last fault
	onPurpose string // a subject that a worker wanted of NATS since it was started, and may not
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
	p.trespass()
	p.ended = p.recover(map[string]time.Duration{})
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
	_, _, doubly := p.tasks.told()
	began := time.Now()
	f.do(p.stack)
	done := time.Now()
	ended := p.recover(o.after)
	<-time.After(time.Until(began.Add(time.Second))) // less than a second has no rate
	o.lasted, o.longest = time.Since(began), p.waited()
	a, _, l, w := p.messages.told()
	o.acks, o.lost, o.twice = a-acks, l-lost, w-twice
	o.bySecond = p.flow.bySecond(began, began.Add(o.lasted))
	_, _, d := p.tasks.told()
	o.tasks, o.tasksTwice = ended-p.ended, d-doubly
	p.ended = ended
	for _, r := range p.rosters {
		gone := r.left()
		o.left += len(gone)
		if len(gone) > 0 && !f.away {
			p.t.Errorf("%s: seemed to leave %s: %v", f.what, r.topic, gone)
		}
	}
	over, line := p.bucket.exceeded()
	if o.over = over; over > 0 {
		p.t.Errorf("%s: %s", f.what, line)
	}
	for _, wrong := range o.beyond(f.costs) {
		p.t.Errorf("%s: %s", f.what, wrong)
	}
	p.outcomes = append(p.outcomes, o)
	p.t.Logf("%-45s done in %5.1fs, right after %s, acks %v, longest %.1fs, lost %d, twice %d, left %d, again %v", f.what, done.Sub(began).Seconds(), inOrder(o.after), o.bySecond, o.longest.Seconds(), o.lost, o.twice, o.left, p.retried())
}

// recover waits until all parts do what they are there for, and notes when each
// of them did. What is wrong for good fails the test. It returns how many tasks
// have ended: all that had been asked for.
func (p *proof) recover(after map[string]time.Duration) (ended int) {
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
		"limits":  func() string { return p.bucket.shut(began.Sub(p.began)) },
		"tasks": func() (said string) {
			if rows, said = p.rows(); said != "" {
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
	p.fail(append(wrong, lost...))
	return len(due)
}

// fail says what is wrong, so that it can still be read.
func (p *proof) fail(wrong []string) {
	p.t.Helper()
	for i, w := range wrong {
		if i == 20 {
			p.t.Errorf("… and %d more", len(wrong)-i)
			break
		}
		p.t.Error(w)
	}
}

// finish has everybody finish what they have begun, and looks at all of it once
// more: nothing is excused any longer by that it may still come.
func (p *proof) finish() {
	p.t.Helper()
	if !p.t.Failed() { // else what follows would be judged by what is broken already
		p.hush()
		p.recover(map[string]time.Duration{})
		rows, wrong := p.rows()
		if wrong != "" {
			p.t.Error(wrong)
		}
		p.fail(p.tasks.unaccounted(rows))
		for room := range rooms {
			p.fail(p.workers[0].kept(p.room(room)))
		}
		p.permitted()
	}
	p.report()
}

// trespass has a worker want what it may not, and be refused: permitted has to
// find that in the logs.
func (p *proof) trespass() {
	p.t.Helper()
	p.onPurpose = fmt.Sprintf("fl.control.user.%s-%d", p.run, time.Now().UnixNano())
	refused := make(chan error, 1)
	nc, err := nats.Connect(p.workers[0].url, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case refused <- err:
		default:
		}
	}))
	if err != nil {
		p.t.Fatalf("connect a worker that wants what it may not: %v", err)
	}
	defer nc.Close()
	if err := nc.Publish(p.onPurpose, nil); err != nil {
		p.t.Fatal(err)
	}
	select {
	case err := <-refused:
		if !strings.Contains(err.Error(), p.onPurpose) {
			p.t.Errorf("%s is refused with %v", p.onPurpose, err)
		}
	case <-time.After(patience):
		p.t.Errorf("a worker may publish to %s", p.onPurpose)
	}
}

// permitted checks that nobody else wanted anything of NATS that its role may not
// since the containers are there: what takes them away takes their logs with it.
func (p *proof) permitted() {
	p.t.Helper()
	p.fail(refusals(p.compose("logs", "--no-color", "--no-log-prefix"), p.onPurpose))
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

// rows asks the database for the tasks of the crowd, and what became of them.
func (p *proof) rows() (rows []row, wrong string) {
	const states = `case state when 0 then 'pending' when 1 then 'running' when 2 then 'committed' when 3 then 'failed' when 4 then 'cancelled' when 5 then 'dead' end`
	out, err := p.try("exec", "-T", "postgres", "psql", "-U", "fairlead", "-d", "fairlead", "-AtF", "\t", "-c",
		`select id, `+states+`, result, idem_key from (
			select id, state, name, idem_key, result from fairlead.task_done union all
			select id, state, name, idem_key, null from fairlead.task
		) all_of_them where name = '`+p.task()+`'`)
	if err != nil {
		return nil, "the database: " + strings.TrimSpace(out)
	}
	for line := range strings.Lines(out) {
		if f := strings.Split(strings.TrimRight(line, "\n"), "\t"); len(f) == 4 {
			rows = append(rows, row{id(f[0]), f[1], f[2], f[3]})
		} else {
			return nil, "the database: " + line
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
	if partly = partly || p.t.Failed() || *only != ""; *report && !partly {
		if err := write(root+"/docs/reliability.md", all); err != nil {
			p.t.Error(err)
		}
	}
}

// all are the outcomes of all tests so far, which run one after the other.
var (
	all    []outcome
	partly bool // they are not what the table is to show
)
