package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/services/tasks/indexed"
)

const (
	// statementTimeout bounds what is asked of Postgres at a time, with the wait for
	// a connection, unless who asks does: he knows how much it is.
	statementTimeout = 10 * time.Second
	// tries is how often something is tried that lost against another transaction.
	tries = 6
	// retryPause is the longest wait before the second try.
	retryPause = 5 * time.Millisecond
)

// Postgres is a [Store] in the tables of package schema, which are there before
// it is used. While Postgres is away its methods return a *wire.Error UNAVAILABLE
// that wraps the cause.
type Postgres struct {
	pool      *pgxpool.Pool
	retention time.Duration

	mu    sync.Mutex
	kept  map[time.Duration]struct{} // retentions that were asked for; at most maxKept
	after string                     // [Postgres.Due] goes on behind this name
	wary  time.Time                  // until then what others have locked is passed over
}

var _ Store = (*Postgres)(nil)

// NewPostgres returns the store of a database. What ends is kept for retention
// where it ends in SQL and its name says nothing else.
func NewPostgres(pool *pgxpool.Pool, retention time.Duration) *Postgres {
	return &Postgres{pool: pool, retention: retention, kept: map[time.Duration]struct{}{}}
}

// querier is a connection, or a transaction on one.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// do calls fn on a connection, again where it lost against another transaction:
// fn does all it does in one statement or one transaction. retentions are those
// of what it may end: the days for them are made where they are missing.
func (p *Postgres) do(ctx context.Context, operation string, retentions []time.Duration, fn func(context.Context, *pgx.Conn) error) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, statementTimeout)
		defer cancel()
	}
	p.keeps(retentions)
	for try := 1; ; try++ {
		err := p.once(ctx, fn)
		var state *pgconn.PgError
		if err == nil || try == tries || !errors.As(err, &state) {
			return away(operation, err)
		}
		switch state.Code {
		case "40001", "40P01": // serialization failure, deadlock
			pause := retryPause << (try - 1)
			err = clock.Sleep(ctx, pause/2+rand.N(pause/2))
		case "23514": // no partition for a row
			if len(retentions) == 0 {
				return away(operation, err)
			}
			err = p.makeDays(ctx, retentions)
		default:
			return away(operation, err)
		}
		if err != nil {
			return away(operation, fmt.Errorf("%w, after: %w", err, state))
		}
	}
}

func (p *Postgres) once(ctx context.Context, fn func(context.Context, *pgx.Conn) error) error {
	conn, err := indexed.Acquire(ctx, p.pool)
	if err != nil {
		return err
	}
	defer conn.Release()
	return fn(ctx, conn.Conn())
}

// tx is do in a transaction.
func (p *Postgres) tx(ctx context.Context, operation string, retentions []time.Duration, fn func(context.Context, pgx.Tx) error) error {
	return p.do(ctx, operation, retentions, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return fn(ctx, tx) })
	})
}

// rows calls scan for each row of an answer.
func rows(ctx context.Context, q querier, scan func(pgx.Rows) error, sql string, args ...any) error {
	answer, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer answer.Close()
	for answer.Next() {
		if err := scan(answer); err != nil {
			return err
		}
	}
	return answer.Err()
}
