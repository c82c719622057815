package cron

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Ask calls fn, which asks the store: for at most so long, or not at all while the
// store is known to be away. It gives the errors the code that callers are told.
type Ask func(ctx context.Context, wait time.Duration, fn func(context.Context) error) error

// Config is what the schedules of a replica need.
type Config struct {
	Store Store
	Ask   Ask                   // what asks the store goes through it; nil: it is asked as it is
	Wake  func(names ...string) // there are new tasks of these names; may be nil
	Log   *slog.Logger
}

// Service fires the schedules of all replicas from one of them. Its methods may be
// called concurrently.
type Service struct {
	cfg     Config
	wake    chan struct{} // of capacity 1: look again
	plans   plans         // of Run alone
	said    time.Time     // when it was last said that a schedule does not fire; of Run alone
	stuck   int           // schedules that are due and that the last look could not fire; of Run alone
	metrics metrics

	early time.Duration // tests: how much sooner than it should it looks
}

const (
	askWait  = 3 * time.Second
	scanWait = 10 * time.Second
	fireWait = 15 * time.Second

	// lookEvery is how often it is looked for what others have set, whatever is due;
	// leastPause is the least time between two looks.
	lookEvery  = 5 * time.Second
	leastPause = 10 * time.Millisecond
	// atOnce is how many schedules one look finds, and firesAtOnce how many tasks one
	// write enqueues, but for a schedule that has more.
	atOnce, firesAtOnce = 500, 500
	// mostStuck is how many more a look finds: those that are due for the longest may
	// be ones that this replica can't fire, and keep nobody else waiting.
	mostStuck = 20_000
	// countEvery is how often it is counted how many there are.
	countEvery = time.Minute
	sayEvery   = time.Minute
)

// New returns the schedules of a replica. It does nothing yet.
func New(cfg Config) *Service {
	if cfg.Ask == nil {
		cfg.Ask = func(ctx context.Context, wait time.Duration, fn func(context.Context) error) error {
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			return fn(ctx)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Wake == nil {
		cfg.Wake = func(...string) {}
	}
	return &Service{cfg: cfg, wake: make(chan struct{}, 1), plans: plans{}}
}

// Run fires what is due until ctx is done.
func (s *Service) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for counted := (time.Time{}); ; {
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
			return nil
		}
		if now := time.Now(); now.Sub(counted) >= countEvery {
			counted = now
			s.count(ctx)
		}
		timer.Reset(max(s.look(ctx)-s.early, leastPause))
	}
}

func (s *Service) count(ctx context.Context) {
	err := s.cfg.Ask(ctx, askWait, func(ctx context.Context) error {
		n, err := s.cfg.Store.Count(ctx)
		if err == nil {
			s.metrics.schedules.Store(n)
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.Debug("schedules are not counted", "err", err)
	}
}

// look fires what is due and says when to look again.
func (s *Service) look(ctx context.Context) time.Duration {
	var found Found
	limit := atOnce + s.stuck
	if err := s.cfg.Ask(ctx, askWait, func(ctx context.Context) (err error) {
		found, err = s.cfg.Store.Due(ctx, limit)
		return err
	}); err != nil {
		if ctx.Err() == nil {
			s.cfg.Log.Debug("it is not known which schedules are due", "err", err)
		}
		return min(lookEvery, time.Second)
	}
	pause := lookEvery
	if found.In >= 0 {
		pause = min(pause, found.In)
	}
	fires := s.turns(found)
	stuck := len(found.Due) - len(fires)
	for len(fires) > 0 {
		n, tasks := 1, len(fires[0].Ticks)
		for n < len(fires) && tasks+len(fires[n].Ticks) <= firesAtOnce {
			tasks += len(fires[n].Ticks)
			n++
		}
		stuck += s.fire(ctx, fires[:n])
		fires = fires[n:]
	}
	s.stuck = min(stuck, mostStuck)
	switch {
	case len(found.Due) == 0:
		return pause
	case stuck == len(found.Due):
		return min(pause, time.Second)
	}
	return 0 // what fired has a next tick now, and there may be more that is due
}

// fired is a [Fire] and what else there is to know of it.
type fired struct {
	Fire
	task    string
	skipped bool
}

// turns says what is to be done about what is due. A schedule that this replica
// can't read is left to those that can.
func (s *Service) turns(found Found) (fires []fired) {
	for i := range found.Due {
		d := &found.Due[i]
		p, err := s.plans.of(d.Spec, d.TZ)
		if err != nil {
			s.fails(d.Name, err)
			continue
		}
		t := take(p, d.NextAt, found.Now, d.Missed)
		if t.next.IsZero() {
			s.fails(d.Name, errors.New("it has no further tick"))
			continue
		}
		fires = append(fires, fired{
			Fire: Fire{Name: d.Name, Revision: d.Revision, Due: d.NextAt, Next: t.next, Ticks: t.fire},
			task: d.Task, skipped: t.skipped,
		})
	}
	return fires
}

// fire moves schedules on, and returns how many are hindered: what others have
// moved is no hindrance. Where one of several can't be fired the others are.
func (s *Service) fire(ctx context.Context, several []fired) (hindered int) {
	fires := make([]Fire, len(several))
	for i := range several {
		fires[i] = several[i].Fire
	}
	var moved []int
	err := s.cfg.Ask(ctx, fireWait, func(ctx context.Context) (err error) {
		moved, err = s.cfg.Store.Fire(ctx, fires)
		return err
	})
	if err != nil {
		if len(several) > 1 && oneIsWrong(err) {
			for i := range several {
				hindered += s.fire(ctx, several[i:i+1])
			}
			return hindered
		}
		if ctx.Err() == nil {
			s.fails(several[0].Name, err)
		}
		return len(several)
	}
	var names []string
	for _, i := range moved {
		f := &several[i]
		if f.skipped {
			s.metrics.skipped.Add(1)
		}
		if len(f.Ticks) > 0 {
			s.metrics.fired.Add(int64(len(f.Ticks)))
			names = append(names, f.task)
		}
	}
	if len(names) > 0 {
		s.cfg.Wake(names...)
	}
	return 0
}

// fails says, from time to time, that a schedule does not fire.
func (s *Service) fails(name string, err error) {
	s.metrics.failures.Add(1)
	if now := time.Now(); now.Sub(s.said) >= sayEvery {
		s.said = now
		s.cfg.Log.Warn("a schedule does not fire", "schedule", name, "err", err)
	}
}

// oneIsWrong reports whether Postgres answered that something can't be: that may be
// of one schedule only.
func oneIsWrong(err error) bool {
	var state *pgconn.PgError
	return errors.As(err, &state) && !errors.Is(err, wire.ErrUnavailable)
}

// plans are those of specs that were read. It is as large as there are schedules.
type plans map[[2]string]plan

func (p plans) of(spec, tz string) (plan, error) {
	key := [2]string{spec, tz}
	if known, ok := p[key]; ok {
		return known, nil
	}
	read, err := parse(spec, tz)
	if err != nil {
		return nil, err
	}
	if len(p) >= maxPlans {
		clear(p)
	}
	p[key] = read
	return read, nil
}

// maxPlans bounds what is remembered of specs: those of schedules that are gone
// are there too.
const maxPlans = 20_000
