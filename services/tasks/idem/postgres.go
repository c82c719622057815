package idem

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/indexed"
)

// Postgres is a [Store] in the table fairlead.idem, which migrations have made.
type Postgres struct{ pool *pgxpool.Pool }

// NewPostgres returns the store of a database.
func NewPostgres(pool *pgxpool.Pool) *Postgres { return &Postgres{pool: pool} }

// on has fn use a connection.
func (p *Postgres) on(ctx context.Context, operation string, fn func(*pgxpool.Conn) error) error {
	conn, err := indexed.Acquire(ctx, p.pool)
	if err == nil {
		defer conn.Release()
		err = fn(conn)
	}
	if err != nil && !errors.Is(err, ErrLost) {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return err
}

// vanished is how long one waits who found neither room nor a slot, twice: others
// come and go there.
const vanished = 100 * time.Millisecond

// Acquire is [Store.Acquire].
func (p *Postgres) Acquire(ctx context.Context, key string, want Want) (f Found, err error) {
	err = p.on(ctx, "acquire", func(conn *pgxpool.Conn) error {
		for range 2 {
			tag, err := conn.Exec(ctx, `
				insert into fairlead.idem as i (key, token, hash, ttl_ms, expires)
				values ($1, $2, $3, $4, now() + $5 * interval '1 ms')
				on conflict (key) do update set token = excluded.token, hash = excluded.hash, ttl_ms = excluded.ttl_ms,
					done = false, result = null, expires = excluded.expires
				where i.expires <= now()`,
				key, want.Token, want.Hash, want.TTL.Milliseconds(), want.AcquireTTL.Milliseconds())
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 1 {
				f = Found{State: wire.SlotAcquired}
				return nil
			}
			// In a statement of its own: the one before does not see who was first.
			var s slot
			var left int64
			err = conn.QueryRow(ctx, `
				select token, hash, done, result::text, ceil(extract(epoch from expires - now()) * 1000)::bigint
				from fairlead.idem where key = $1 and expires > now()`, key).Scan(&s.Token, &s.Hash, &s.Done, &s.Result, &left)
			if err == nil {
				now := time.Time{}
				s.Expires = now.Add(time.Duration(left) * time.Millisecond)
				f = s.found(want.Token, now)
				return nil
			}
			if !errors.Is(err, pgx.ErrNoRows) {
				return err
			}
		}
		f = Found{State: wire.SlotPending, Left: vanished}
		return nil
	})
	return f, err
}

// Commit is [Store.Commit].
func (p *Postgres) Commit(ctx context.Context, key, token string, result []byte) error {
	return p.on(ctx, "commit", func(conn *pgxpool.Conn) error {
		var done bool
		err := conn.QueryRow(ctx, `
			with stored as (
				update fairlead.idem set done = true, result = $3::text::json, expires = now() + ttl_ms * interval '1 ms'
				where key = $1 and token = $2 and not done and expires > now() returning 1)
			select exists (select from stored) or exists (
				select from fairlead.idem where key = $1 and token = $2 and done and expires > now() and result::text = $3::text)`,
			key, token, string(result)).Scan(&done)
		if err == nil && !done {
			return ErrLost
		}
		return err
	})
}

// Abort is [Store.Abort].
func (p *Postgres) Abort(ctx context.Context, key, token string) error {
	return p.on(ctx, "abort", func(conn *pgxpool.Conn) error {
		tag, err := conn.Exec(ctx, `delete from fairlead.idem where key = $1 and token = $2 and not done and expires > now()`, key, token)
		if err == nil && tag.RowsAffected() == 0 {
			return ErrLost
		}
		return err
	})
}

// Purge is [Store.Purge].
func (p *Postgres) Purge(ctx context.Context, key string) (int64, error) {
	return p.removed(ctx, "purge", `
		with gone as (delete from fairlead.idem where key = $1 returning expires)
		select count(*) from gone where expires > now()`, key)
}

// clearAtOnce is how many rows one statement of Clear deletes.
const clearAtOnce = 10_000

// Clear is [Store.Clear]. Slots that are acquired meanwhile may stay.
func (p *Postgres) Clear(ctx context.Context) (total int64, err error) {
	err = p.on(ctx, "clear", func(conn *pgxpool.Conn) error {
		for {
			var rows, live int64
			err := conn.QueryRow(ctx, `
				with gone as (
					delete from fairlead.idem where key = any (array(
						select key from fairlead.idem order by key limit $1 for update)) returning expires)
				select count(*), count(*) filter (where expires > now()) from gone`, clearAtOnce).Scan(&rows, &live)
			if total += live; err != nil || rows < clearAtOnce {
				return err
			}
		}
	})
	return total, err
}

// Clean is [Store.Clean]. Rows that somebody is about to acquire are left alone.
func (p *Postgres) Clean(ctx context.Context, n int) (int64, error) {
	return p.removed(ctx, "clean", `
		with gone as (
			delete from fairlead.idem where expires <= now() and key = any (array(
				select key from fairlead.idem where expires <= now() order by expires limit $1 for update skip locked)) returning 1)
		select count(*) from gone`, n)
}

func (p *Postgres) removed(ctx context.Context, operation, sql string, arg any) (n int64, err error) {
	err = p.on(ctx, operation, func(conn *pgxpool.Conn) error { return conn.QueryRow(ctx, sql, arg).Scan(&n) })
	return n, err
}
