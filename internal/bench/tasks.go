package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/internal/pgdev"
)

// Tasks measures durable tasks: how many a second are stored one by one and
// done, how fast a backlog is done, how soon an idle system starts one, and what
// each costs Postgres's log; with a rival, the same of that on the same Postgres,
// in turn. Postgres waits for the disk at each commit.
type Tasks struct {
	Callers []int // of the first part, in turn; default 64 and 1,024
	Tasks   int   // of each of them; default 30,000
	Backlog int   // tasks of the second part; default 60,000
	Idle    int   // of the third, at 50 a second; default 150
	Rounds  int   // default 3
	// Rival opens what it is compared with, on a database of its own; may be nil.
	Rival func(ctx context.Context, postgresURL string) (TaskSide, error)
}

// TaskSide is a task system that is measured. Its methods return when all tasks
// are done and that is stored.
type TaskSide interface {
	Name() string
	// Run stores n tasks by callers that each wait until theirs is stored, while
	// workers work.
	Run(ctx context.Context, callers, n int) (time.Duration, error)
	// Drain stores n tasks while no worker is there, then returns how long the
	// workers need for them.
	Drain(ctx context.Context, n int) (time.Duration, error)
	// Starts stores n tasks at a rate, and returns how long after each call its
	// worker began.
	Starts(ctx context.Context, n int, perSecond float64) (*Histogram, error)
	// Done says how many tasks ended well since the last call, by what is stored.
	Done(ctx context.Context) (int, error)
	Close()
}

const (
	idleRate = 50.0

	fewCallersGoal  = 4.0 // times the rival's rate, below manyCallers
	manyCallersGoal = 5.0 // the same, from there on
	manyCallers     = 256
	tasksGoal       = 30_000 // a second, with many callers
	drainGoal       = 2.0    // times the rival's rate
	startGoal       = 3.0    // ms, p50
	logGoal         = 0.5    // of the rival's bytes of log for each task
)

func (o *Tasks) defaults() error {
	if len(o.Callers) == 0 {
		o.Callers = []int{64, 1024}
	}
	def(&o.Tasks, 30_000)
	def(&o.Backlog, 60_000)
	def(&o.Idle, 150)
	def(&o.Rounds, 3)
	for _, n := range append([]int{o.Tasks, o.Backlog, o.Idle, o.Rounds}, o.Callers...) {
		if n < 1 {
			return errors.New("callers, tasks, backlog, idle, rounds: at least 1")
		}
	}
	return nil
}

// Run measures on processes of its own.
func (o Tasks) Run(ctx context.Context, cfg SiteConfig) (*Comparison, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	s, err := prepareSite(cfg)
	if err != nil {
		return nil, err
	}
	defer s.close()
	// A directory of its own: Postgres may run as another user, who needs a way in.
	dir, err := os.MkdirTemp("", "fairlead-bench-pg-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	pg, err := pgdev.Start(ctx, pgdev.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	defer pg.Stop()
	if s.postgres, err = postmaster(dir); err != nil {
		return nil, err
	}
	if err := s.startNATS(ctx); err != nil {
		return nil, err
	}
	c := &Comparison{Scenario: "tasks", Parameters: map[string]any{
		"callers": o.Callers, "tasks": o.Tasks, "backlog": o.Backlog, "idle": o.Idle, "rounds": o.Rounds,
	}}
	r := &taskRun{Tasks: o, c: c, site: s, pg: pg.URL()}
	ours, err := openOwnTasks(ctx, s, pg.URL())
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	r.sides = append(r.sides, &taskSide{TaskSide: ours})
	if o.Rival != nil {
		url, err := newDatabase(ctx, pg.URL(), "rival")
		if err != nil {
			return nil, err
		}
		rival, err := o.Rival(ctx, url)
		if err != nil {
			return nil, err
		}
		defer rival.Close()
		r.sides = append(r.sides, &taskSide{TaskSide: rival})
	}
	return c, r.run(ctx)
}

// postmaster is the process of the Postgres in a directory.
func postmaster(dir string) (pid int, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strconv.Atoi(first)
}

// newDatabase makes a database beside the one of a URL.
func newDatabase(ctx context.Context, url, name string) (string, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return "", err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", fmt.Errorf("make a database: %w", err)
	}
	return withDatabase(url, name)
}

// taskRun is one run of [Tasks].
type taskRun struct {
	Tasks
	c     *Comparison
	site  *site
	pg    string
	sides []*taskSide
}

// taskSide is what was measured of a side, by part and round.
type taskSide struct {
	TaskSide
	rates, logs map[string][]float64
	starts      Histogram
	medians     []float64 // ms, of the starts of each round
}

func (r *taskRun) run(ctx context.Context) error {
	k := r.site.clock()
	for round := range r.Rounds {
		for i := range r.sides {
			side := r.sides[(round+i)%len(r.sides)] // neither always goes first
			if err := r.round(ctx, side); err != nil {
				return fmt.Errorf("%s: %w", side.Name(), err)
			}
		}
	}
	k.stop(r.c)
	r.report()
	return nil
}

func (r *taskRun) round(ctx context.Context, side *taskSide) error {
	if side.rates == nil {
		side.rates, side.logs = map[string][]float64{}, map[string][]float64{}
	}
	for _, callers := range r.Callers {
		what := callersPart(callers)
		err := r.part(ctx, side, what, r.Tasks.Tasks, func() (time.Duration, error) { return side.Run(ctx, callers, r.Tasks.Tasks) })
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := r.part(ctx, side, drainPart, r.Backlog, func() (time.Duration, error) { return side.Drain(ctx, r.Backlog) }); err != nil {
		return fmt.Errorf("backlog: %w", err)
	}
	started, err := side.Starts(ctx, r.Idle, idleRate)
	if err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	side.starts.Merge(started)
	side.medians = append(side.medians, started.Quantiles().P50)
	return r.count(ctx, side, r.Idle)
}

// part measures one part of a round: its rate, and its share of the log.
func (r *taskRun) part(ctx context.Context, side *taskSide, what string, n int, fn func() (time.Duration, error)) error {
	profiled := r.site.profile(ctx, side.Name()+"-"+what, time.Second)
	before, err := logPosition(ctx, r.pg)
	if err != nil {
		return err
	}
	took, err := fn()
	if err := errors.Join(err, profiled()); err != nil {
		return err
	}
	after, err := logPosition(ctx, r.pg)
	if err != nil {
		return err
	}
	side.rates[what] = append(side.rates[what], float64(n)/took.Seconds())
	side.logs[what] = append(side.logs[what], float64(after-before)/float64(n))
	return r.count(ctx, side, n)
}

// count holds what is stored against what had to be done.
func (r *taskRun) count(ctx context.Context, side *taskSide, n int) error {
	done, err := side.Done(ctx)
	if err != nil {
		return err
	}
	r.c.Checked += int64(n)
	r.c.Lost += int64(max(n-done, 0))
	r.c.Repeated += int64(max(done-n, 0))
	return nil
}

const drainPart = "backlog"

func callersPart(callers int) string { return fmt.Sprintf("%d callers", callers) }

// logPosition is how many bytes of log Postgres has written.
func logPosition(ctx context.Context, url string) (at int64, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, `select pg_current_wal_insert_lsn() - '0/0'::pg_lsn`).Scan(&at)
	return at, err
}

func (r *taskRun) report() {
	for _, side := range r.sides {
		for _, callers := range r.Callers {
			r.c.side(side.Name()+", "+callersPart(callers), median(side.rates[callersPart(callers)]), "tasks", nil)
		}
		r.c.side(side.Name()+", "+drainPart, median(side.rates[drainPart]), "tasks", nil)
		r.c.side(side.Name()+", call to start, idle", 0, "", &side.starts)
	}
	ours := r.sides[0]
	for _, callers := range r.Callers {
		what := callersPart(callers)
		if callers >= manyCallers {
			r.c.atLeast("tasks stored one by one and done, "+what, tasksGoal, "tasks/s", ours.rates[what]...)
		}
	}
	r.c.atMost("call to start, idle, p50", startGoal, "ms", ours.medians...)
	if len(r.sides) < 2 {
		return
	}
	rival := r.sides[1]
	for _, callers := range r.Callers {
		what, goal := callersPart(callers), fewCallersGoal
		if callers >= manyCallers {
			goal = manyCallersGoal
		}
		r.c.atLeast("rate against "+rival.Name()+"'s, "+what, goal, "x", ratios(ours.rates[what], rival.rates[what])...)
		r.c.atMost("log for a task against "+rival.Name()+"'s, "+what, logGoal, "x", ratios(ours.logs[what], rival.logs[what])...)
	}
	r.c.atLeast("rate against "+rival.Name()+"'s, "+drainPart, drainGoal, "x", ratios(ours.rates[drainPart], rival.rates[drainPart])...)
	r.c.atMost("log for a task against "+rival.Name()+"'s, "+drainPart, logGoal, "x", ratios(ours.logs[drainPart], rival.logs[drainPart])...)
}

func ratios(a, b []float64) []float64 {
	of := make([]float64, min(len(a), len(b)))
	for i := range of {
		of[i] = a[i] / b[i]
	}
	return of
}
