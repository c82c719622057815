// Package indexed hands out connections to Postgres on which statements are
// planned to go by indexes, and on which nobody waits long for a lock. All who
// share a pool take their connections here: what one is told is told once, whoever
// was the first to have it.
//
// A statement is planned once, whatever is in the tables then, and statistics come
// late: the plan that is right for an empty table reads all of a full one, for each
// call, until somebody analyzes it. Queues are empty whenever all is well.
//
// What SQL of the application stores and commits is locked as long as its
// transaction takes, and all others are not to wait for that: after a second they
// are refused, which [Busy] tells.
package indexed

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// session is what a connection is told once.
const session = `set lock_timeout = 1000; set plan_cache_mode = force_generic_plan; set jit = off;
	set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; set enable_mergejoin = off`

// key marks connections that were told.
const key = "fairlead.tasks"

// Acquire takes a connection from the pool, whose caller releases it.
func Acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	data := conn.Conn().PgConn().CustomData()
	if _, told := data[key]; told {
		return conn, nil
	}
	if _, err := conn.Exec(ctx, session); err != nil {
		conn.Release()
		return nil, err
	}
	data[key] = struct{}{}
	return conn, nil
}

// Busy reports whether an error is that of a wait for a lock that took too long:
// another transaction has it, and all is well with Postgres.
func Busy(err error) bool {
	var state *pgconn.PgError
	return errors.As(err, &state) && state.Code == "55P03"
}
