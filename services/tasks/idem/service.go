package idem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Where slots are kept.
const (
	InPostgres = "postgres"
	InKV       = "kv"
)

// Config is how slots are kept. The tag names the environment variable, without
// its prefix FAIRLEAD_.
type Config struct {
	// Where is [InPostgres] or [InKV].
	Where string `env:"TASKS_IDEM, default=postgres" help:"where the results of idempotency keys (tasks.idem.*) are kept: postgres, or kv for a bucket of JetStream"`
}

// Validate returns an error that names the variable where it can't be used.
func (c Config) Validate() error {
	if c.Where != InPostgres && c.Where != InKV {
		return fmt.Errorf("FAIRLEAD_TASKS_IDEM=%s: %s or %s", c.Where, InPostgres, InKV)
	}
	return nil
}

// Ask calls fn, which asks a backend: for at most so long, or not at all while the
// backend is known to be away. It gives the errors the code that callers are told.
type Ask func(ctx context.Context, wait time.Duration, fn func(context.Context) error) error

// Deps are what the slots of a replica need.
type Deps struct {
	Pool      *pgxpool.Pool // for [InPostgres]
	Ask       Ask           // what asks the pool goes through it
	NATS      *nats.Conn    // for [InKV]
	Namespace wire.Namespace
	Replicas  int // of the bucket
	Log       *slog.Logger
}

// Service answers for the slots of one replica. Its methods may be called
// concurrently.
type Service struct {
	store   Store
	ask     Ask
	prepare func(context.Context) error // nil: there is nothing to prepare
	log     *slog.Logger
	metrics metrics
}

const (
	askWait   = 3 * time.Second
	clearWait = time.Minute

	// cleanEvery is how often it is looked for what has expired, cleanAtOnce how much
	// of it goes in one write.
	cleanEvery  = time.Minute
	cleanAtOnce = 1000
	retryPause  = time.Second
)

// New returns the slots of a replica, where the configuration says. It does
// nothing yet.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Where == InPostgres {
		return newService(NewPostgres(deps.Pool), deps.Ask, nil, deps.Log), nil
	}
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	prepare := func(ctx context.Context) error {
		return kv.Ensure(ctx, js, deps.Namespace, Slots(deps.Replicas))
	}
	return newService(NewBucket(deps.NATS, deps.Namespace), askBucket, prepare, deps.Log), nil
}

func newService(store Store, ask Ask, prepare func(context.Context) error, log *slog.Logger) *Service {
	if ask == nil {
		ask = func(ctx context.Context, wait time.Duration, fn func(context.Context) error) error {
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			return fn(ctx)
		}
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Service{store: store, ask: ask, prepare: prepare, log: log}
}

// askBucket gives the errors of a bucket their code.
func askBucket(ctx context.Context, wait time.Duration, fn func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := fn(bounded)
	var large *kv.TooLargeError
	switch {
	case err == nil, errors.Is(err, ErrLost), ctx.Err() != nil:
		return err
	case errors.As(err, &large):
		return wire.InvalidField("result", large.Error())
	case errors.Is(err, kv.ErrConflict):
		return fmt.Errorf("%w: %w", wire.Errorf(wire.Aborted, "others change the same key"), err)
	case errors.Is(err, errNoSlot):
		return err
	}
	return fmt.Errorf("%w: %w", wire.Errorf(wire.Unavailable, "JetStream does not answer").With("what", "jetstream").With("outcome", "unknown"), err)
}

// Run makes the bucket, where one is used, and forgets what has expired, until ctx
// is done.
func (s *Service) Run(ctx context.Context) error {
	for said := ""; s.prepare != nil; {
		err := s.prepare(ctx)
		if err == nil || ctx.Err() != nil {
			break
		}
		if err.Error() != said {
			said = err.Error()
			s.log.Warn("the bucket of idempotency keys is not there yet", "err", err)
		}
		_ = clock.Sleep(ctx, retryPause) // it ends with ctx, as the loop does
	}
	for clock.Sleep(ctx, cleanEvery) == nil {
		if err := s.clean(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("expired idempotency keys stay", "err", err)
		}
	}
	return nil
}

// clean forgets all that has expired by now.
func (s *Service) clean(ctx context.Context) error {
	for {
		var n int64
		err := s.ask(ctx, askWait, func(ctx context.Context) (err error) {
			n, err = s.store.Clean(ctx, cleanAtOnce)
			return err
		})
		s.metrics.expired.Add(n)
		if err != nil || n < cleanAtOnce {
			return err
		}
	}
}
