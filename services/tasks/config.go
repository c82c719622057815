package tasks

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/idem"
)

// Config is how a replica is set up. The tags name the environment variables,
// without their prefix FAIRLEAD_, and say what docs/configuration.md says.
type Config struct {
	// Retention is how long what has ended is kept where its name says nothing else.
	Retention time.Duration `env:"TASKS_RETENTION, default=168h" help:"how long tasks that have ended are kept, unless their name is registered with another retention"`
	// OwnerLease is how long a replica that says nothing any more keeps its attempts.
	OwnerLease time.Duration `env:"TASKS_OWNER_LEASE, default=15s" help:"how long the attempts of a tasks replica that says nothing any more wait for another to take them over"`
	// CancelGrace is the time that a worker has to end a task that is cancelled.
	CancelGrace time.Duration `env:"TASKS_CANCEL_GRACE, default=10s" help:"time that a worker has to end a running task that is cancelled"`
	// Migrate is whether the replica brings the tables to what it needs. Otherwise
	// it waits until somebody else has.
	Migrate bool `env:"TASKS_MIGRATE, default=true" help:"bring the tables in Postgres to what this version needs; false: somebody else does, and the replica waits for it"`
	// Pool bounds the connections to Postgres; 0: as the URL says.
	Pool int `env:"TASKS_POOL, default=0" help:"connections to Postgres that a tasks replica opens at most; 0 = pool_max_conns of the URL, else 16"`

	// Idem is where the slots of idempotency keys are.
	Idem idem.Config

	// Namespace, Replicas and PostgresURL are shared by all services of a process, so
	// cmd sets them. Replicas counts for the buckets of locks and keys.
	Namespace   wire.Namespace
	Replicas    int
	PostgresURL string // postgres://…; the service needs it
	// Late is set where Postgres is started with the process: the replica is ready,
	// and degraded, before it is there.
	Late bool
}

// Bounds of the settings.
const (
	minRetention, maxRetention     = time.Minute, 90 * 24 * time.Hour
	minOwnerLease, maxOwnerLease   = 5 * time.Second, 5 * time.Minute
	minCancelGrace, maxCancelGrace = time.Second, 10 * time.Minute
	minPool, maxPool               = 4, 1000

	// defaultPool is how many connections a replica opens at most where neither the
	// configuration nor the URL says.
	defaultPool = 16
)

func (c *Config) validate() error {
	var errs []error
	between := func(name string, d, least, most time.Duration) {
		if d < least || d > most {
			errs = append(errs, fmt.Errorf("FAIRLEAD_TASKS_%s=%s: from %s to %s", name, d, plain(least), plain(most)))
		}
	}
	between("RETENTION", c.Retention, minRetention, maxRetention)
	between("OWNER_LEASE", c.OwnerLease, minOwnerLease, maxOwnerLease)
	between("CANCEL_GRACE", c.CancelGrace, minCancelGrace, maxCancelGrace)
	if c.Pool != 0 && (c.Pool < minPool || c.Pool > maxPool) {
		errs = append(errs, fmt.Errorf("FAIRLEAD_TASKS_POOL=%d: 0, or from %d to %d", c.Pool, minPool, maxPool))
	}
	if err := c.Idem.Validate(); err != nil {
		errs = append(errs, err)
	}
	if err := wire.CheckNamespace(string(c.Namespace)); err != nil {
		errs = append(errs, fmt.Errorf("FAIRLEAD_NAMESPACE=%s: %w", c.Namespace, err))
	}
	if c.PostgresURL == "" {
		errs = append(errs, errors.New("FAIRLEAD_POSTGRES_URL: the tasks service keeps tasks in Postgres, such as postgres://user:password@host/database"))
	} else if _, err := pgxpool.ParseConfig(c.PostgresURL); err != nil {
		errs = append(errs, errors.New("FAIRLEAD_POSTGRES_URL: not a postgres:// URL that can be used")) // a secret: its value is not repeated
	}
	return errors.Join(errs...)
}
