package cron

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Postgres is a [Store] in the table fairlead.cron, which migrations have made.
type Postgres struct {
	pool *pgxpool.Pool
	fire string // the statement of Fire
}

// NewPostgres returns the store of a database.
func NewPostgres(pool *pgxpool.Pool) *Postgres {
	return &Postgres{pool: pool, fire: fmt.Sprintf(fireSQL, stillThere)}
}

// lock is the key of the advisory lock under which schedules are set: their number
// is bounded.
const lock = 0x666c_6372_6f6e // "flcron"

const columns = `name, spec, tz, task, input::text, missed, paused, priority, coalesce(timeout_ms, 0), next_at, last_at, revision`

// scan reads a row of the columns.
func scan(row pgx.CollectableRow) (s Schedule, err error) {
	var timeout int64
	var last *time.Time
	err = row.Scan(&s.Name, &s.Spec, &s.TZ, &s.Task, &s.Input, &s.Missed, &s.Paused, &s.Priority, &timeout, &s.NextAt, &last, &s.Revision)
	s.Timeout, s.NextAt = time.Duration(timeout)*time.Millisecond, s.NextAt.UTC()
	if last != nil {
		s.LastAt = last.UTC()
	}
	return s, err
}

// Set is [Store.Set].
func (p *Postgres) Set(ctx context.Context, s Schedule, most int, next func(time.Time) time.Time) (set Schedule, err error) {
	err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lock)); err != nil {
			return err
		}
		var now time.Time
		var full bool
		if err := tx.QueryRow(ctx, `
			select clock_timestamp(), (select count(*) from fairlead.cron) >= $2::int
				and not exists (select from fairlead.cron where name = $1)`, s.Name, most).Scan(&now, &full); err != nil {
			return err
		}
		if full {
			return ErrFull
		}
		rows, err := tx.Query(ctx, `
			insert into fairlead.cron as c (name, spec, tz, task, input, missed, paused, priority, timeout_ms, next_at, revision)
			values ($1, $2, $3, $4, $5::text::json, $6, $7, $8, nullif($9::bigint, 0), $10, nextval('fairlead.cron_revision'))
			on conflict (name) do update set
				next_at = case when c.spec = excluded.spec and c.tz = excluded.tz and not c.paused then c.next_at else excluded.next_at end,
				spec = excluded.spec, tz = excluded.tz, task = excluded.task, input = excluded.input, missed = excluded.missed,
				paused = excluded.paused, priority = excluded.priority, timeout_ms = excluded.timeout_ms, revision = excluded.revision
			returning `+columns,
			s.Name, s.Spec, s.TZ, s.Task, string(s.Input), string(s.Missed), s.Paused, s.Priority, s.Timeout.Milliseconds(), next(now))
		if err != nil {
			return err
		}
		set, err = pgx.CollectExactlyOneRow(rows, scan)
		return err
	})
	if err != nil && !errors.Is(err, ErrFull) {
		err = fmt.Errorf("set schedule: %w", err)
	}
	return set, err
}

// List is [Store.List].
func (p *Postgres) List(ctx context.Context, after string, limit int) ([]Schedule, error) {
	rows, err := p.pool.Query(ctx, `select `+columns+` from fairlead.cron where name > $1 order by name limit $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", err)
	}
	list, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", err)
	}
	return list, nil
}

// Delete is [Store.Delete].
func (p *Postgres) Delete(ctx context.Context, name string) (bool, error) {
	tag, err := p.pool.Exec(ctx, `delete from fairlead.cron where name = $1`, name)
	if err != nil {
		return false, fmt.Errorf("delete schedule: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// Due is [Store.Due].
func (p *Postgres) Due(ctx context.Context, limit int) (f Found, err error) {
	var in *int64
	err = p.pool.QueryRow(ctx, `
		select now(), (select ceil(extract(epoch from next_at - now()) * 1000)::bigint from fairlead.cron
			where not paused and next_at > now() order by next_at limit 1)`).Scan(&f.Now, &in)
	if err != nil {
		return f, fmt.Errorf("look for due schedules: %w", err)
	}
	if f.In = -1; in != nil {
		f.In = time.Duration(*in) * time.Millisecond
	}
	// Up to the same moment: what comes due in between is due next time.
	rows, err := p.pool.Query(ctx, `select `+columns+` from fairlead.cron
		where not paused and next_at <= $1 order by next_at, name limit $2`, f.Now, limit)
	if err != nil {
		return f, fmt.Errorf("look for due schedules: %w", err)
	}
	if f.Due, err = pgx.CollectRows(rows, scan); err != nil {
		return f, fmt.Errorf("look for due schedules: %w", err)
	}
	return f, nil
}

// stillThere is what has to be so for a schedule to be moved on: it is as it was
// found, and its time has come by the clock of the database.
const stillThere = `c.next_at = u.due and c.revision = u.revision and c.next_at <= now() and not c.paused`

// fireSQL leaves rows alone that somebody else is moving just now.
const fireSQL = `
	with u as materialized (
		select * from unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[])
			with ordinality as u (name, revision, due, next, last, i)),
	mine as materialized (
		select c.name from fairlead.cron c join u using (name) where %s order by c.name for update of c skip locked),
	won as (
		update fairlead.cron c set next_at = u.next, last_at = coalesce(u.last, c.last_at)
		from u where c.name = u.name and c.name = any (array(select name from mine))
		returning u.i, c.name, c.task, c.input, c.priority, c.timeout_ms)
	select w.i - 1, case when t.at is not null then fairlead.enqueue(w.task, w.input,
		unique_key => w.name || '@' || t.at, priority => w.priority::int, timeout_ms => w.timeout_ms,
		metadata => json_build_object('cron', w.name, 'at', t.at)) end is not null
	from won w left join unnest($6::bigint[], $7::text[]) with ordinality as t (i, at, place) on t.i = w.i - 1`

// Fire is [Store.Fire].
func (p *Postgres) Fire(ctx context.Context, fires []Fire) (moved []int, err error) {
	n := len(fires)
	names, revisions, dues, nexts := make([]string, n), make([]int64, n), make([]time.Time, n), make([]time.Time, n)
	lasts := make([]*time.Time, n)
	var of []int64
	var ticks []string
	for i, f := range fires {
		names[i], revisions[i], dues[i], nexts[i] = f.Name, f.Revision, f.Due, f.Next
		for j, tick := range f.Ticks {
			of, ticks = append(of, int64(i)), append(ticks, at(tick))
			lasts[i] = &f.Ticks[j]
		}
	}
	rows, err := p.pool.Query(ctx, p.fire, names, revisions, dues, nexts, lasts, of, ticks)
	if err != nil {
		return nil, fmt.Errorf("fire schedules: %w", err)
	}
	seen := make([]bool, n)
	var i int
	var enqueued bool
	_, err = pgx.ForEachRow(rows, []any{&i, &enqueued}, func() error {
		if !seen[i] {
			seen[i] = true
			moved = append(moved, i)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("fire schedules: %w", err)
	}
	return moved, nil
}

// Count is [Store.Count].
func (p *Postgres) Count(ctx context.Context) (n int64, err error) {
	if err := p.pool.QueryRow(ctx, `select count(*) from fairlead.cron`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count schedules: %w", err)
	}
	return n, nil
}
