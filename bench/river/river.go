package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/fairlead-io/fairlead/internal/bench"
)

const (
	connections = 32 // to Postgres, of callers and workers
	chunk       = 5000
	patience    = 2 * time.Minute
)

// args are those of the only kind of job: when it was asked for, 0 where nobody
// wants to know.
type args struct {
	Asked int64 `json:"asked"`
}

// Kind names it.
func (args) Kind() string { return "bench" }

// rival is River with callers and workers in this process.
type rival struct {
	pool   *pgxpool.Pool
	insert *river.Client[pgx.Tx] // stores only
	work   *river.Client[pgx.Tx] // nil: no worker is there
	done   atomic.Int64
	kept   int

	mu     sync.Mutex
	starts bench.Histogram
}

type worker struct {
	river.WorkerDefaults[args]
	of *rival
}

// Work is what a worker does: nothing but to note when.
func (w *worker) Work(_ context.Context, job *river.Job[args]) error {
	if job.Args.Asked > 0 {
		w.of.mu.Lock()
		w.of.starts.Record(time.Now().UnixNano() - job.Args.Asked)
		w.of.mu.Unlock()
	}
	w.of.done.Add(1)
	return nil
}

func openRiver(ctx context.Context, url string) (bench.TaskSide, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	r := &rival{pool: pool}
	if err := r.open(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return r, nil
}

func (r *rival) open(ctx context.Context) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(r.pool), nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	r.insert, err = river.NewClient(riverpgxv5.New(r.pool), &river.Config{Logger: slog.New(slog.DiscardHandler)})
	return err
}

// Name is the side's.
func (r *rival) Name() string { return "river" }

// Close gives the connections back.
func (r *rival) Close() { r.pool.Close() }

// serve starts the workers.
func (r *rival) serve(ctx context.Context) error {
	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{of: r})
	client, err := river.NewClient(riverpgxv5.New(r.pool), &river.Config{
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2000}},
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
		Workers:           workers,
		Logger:            slog.New(slog.DiscardHandler),
	})
	if err == nil {
		err = client.Start(ctx)
	}
	r.work = client
	return err
}

func (r *rival) rest(ctx context.Context) error {
	if r.work == nil {
		return nil
	}
	err := r.work.Stop(ctx)
	r.work = nil
	return err
}

// store stores n jobs by so many callers, each in a transaction of its own.
func (r *rival) store(ctx context.Context, callers, n int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for next.Add(1) <= int64(n) && ctx.Err() == nil {
				if _, err := r.insert.Insert(ctx, args{}, nil); err != nil {
					cancel(err)
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// finished returns when the workers have done up to a number, and that is stored.
func (r *rival) finished(ctx context.Context, until int64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for r.done.Load() < until {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d jobs were worked on: %w", r.done.Load(), until, ctx.Err())
		}
	}
	for live := true; live; {
		err := r.pool.QueryRow(ctx, `select exists (select from river_job where state in ('available', 'running', 'retryable', 'scheduled'))`).Scan(&live)
		if err != nil {
			return err
		}
	}
	return nil
}

// Run is [bench.TaskSide]'s.
func (r *rival) Run(ctx context.Context, callers, n int) (time.Duration, error) {
	if err := r.serve(ctx); err != nil {
		return 0, err
	}
	until, from := r.done.Load()+int64(n), time.Now()
	err := r.store(ctx, callers, n)
	if err == nil {
		err = r.finished(ctx, until)
	}
	took := time.Since(from)
	return took, errors.Join(err, r.rest(ctx))
}

// Drain is [bench.TaskSide]'s; the jobs are stored by COPY, the fastest way there
// is.
func (r *rival) Drain(ctx context.Context, n int) (time.Duration, error) {
	for left := n; left > 0; left -= chunk {
		jobs := make([]river.InsertManyParams, min(left, chunk))
		for i := range jobs {
			jobs[i].Args = args{}
		}
		if _, err := r.insert.InsertManyFast(ctx, jobs); err != nil {
			return 0, err
		}
	}
	until, from := r.done.Load()+int64(n), time.Now()
	err := r.serve(ctx)
	if err == nil {
		err = r.finished(ctx, until)
	}
	took := time.Since(from)
	return took, errors.Join(err, r.rest(ctx))
}

// Starts is [bench.TaskSide]'s.
func (r *rival) Starts(ctx context.Context, n int, perSecond float64) (*bench.Histogram, error) {
	if err := r.serve(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.starts = bench.Histogram{}
	r.mu.Unlock()
	until := r.done.Load() + int64(n)
	tick := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
	defer tick.Stop()
	for range n {
		<-tick.C
		if _, err := r.insert.Insert(ctx, args{Asked: time.Now().UnixNano()}, nil); err != nil {
			return nil, err
		}
	}
	err := errors.Join(r.finished(ctx, until), r.rest(ctx))
	r.mu.Lock()
	defer r.mu.Unlock()
	starts := r.starts
	return &starts, err
}

// Done is [bench.TaskSide]'s.
func (r *rival) Done(ctx context.Context) (int, error) {
	var completed int
	if err := r.pool.QueryRow(ctx, `select count(*) from river_job where state = 'completed'`).Scan(&completed); err != nil {
		return 0, err
	}
	n := completed - r.kept
	r.kept = completed
	return n, nil
}
