package store

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// wariness is how long what others have locked is passed over, after it was waited
// for in vain.
const wariness = 5 * time.Second

// warySQL leaves of attempts u those that nobody else writes to.
const warySQL = `cross join lateral (
			select from fairlead.task l where l.id = u.id and l.fence = u.fence and l.state + 0 = 1 for update skip locked
		) l`

// busySQL finds the attempts that are there.
const busySQL = `
	select u.n from unnest($1::uuid[], $2::bigint[], $3::bigint[]) with ordinality as u (id, fence, owner, n)
	join fairlead.task t on t.id = u.id
	where t.fence = u.fence and t.state + 0 = 1 and (u.owner = 0 or u.owner = t.owner)`

// isWary reports whether somebody was waited for in vain a moment ago.
func (p *Postgres) isWary() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.wary)
}

// waited reports whether an error is a wait for a lock in vain; then it is better to
// pass over what is locked, for a while.
func (p *Postgres) waited(err error) bool {
	var state *pgconn.PgError
	if !errors.As(err, &state) || state.Code != lockNotHad {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wary = time.Now().Add(wariness)
	return true
}

// written is an attempt, counted from 1, and what its task is now.
type written struct {
	n     int
	state wire.TaskState
	kept  *Kept
}

// keptColumns are those of a [Kept], of d, tasks that have ended, and noneKept stands
// for them where there is none.
const (
	keptColumns = `d.created_at, d.run_at, d.started_at, now(), d.fence, d.attempt, coalesce(d.unique_key, ''), d.error`
	noneKept    = `null::timestamptz, null::timestamptz, null::timestamptz, null::timestamptz, 0::bigint, 0, '', null::json`
)

// scan reads what was written, and whether a task was cancelled by it.
func (w *written) scan(r pgx.Rows) (cancelled bool, err error) {
	var created, runAt, started, finished pgtype.Timestamptz
	var problem []byte
	var k Kept
	if err = r.Scan(&w.n, &cancelled, &created, &runAt, &started, &finished, &k.Fence, &k.Attempt, &k.UniqueKey, &problem); err != nil || !created.Valid {
		return cancelled, err
	}
	k.Created, k.RunAt, k.Started, k.Finished = timeOf(created), timeOf(runAt), timeOf(started), timeOf(finished)
	k.Error, err = problemOf(problem)
	w.kept = &k
	return cancelled, err
}

// write runs a statement that acts on attempts c, whose other columns are more, and
// says in out what became of them; read reads a row of its answer. Where others
// would have to be waited for too long it passes over what they have.
func (p *Postgres) write(ctx context.Context, operation string, retentions []time.Duration, sql string,
	read func(pgx.Rows) (written, error), out func(n int) *Outcome, c *refColumns, more ...any,
) error {
	args := append([]any{c.id, c.fence, c.owner}, more...)
	var all []written
	run := func(sql string) error {
		return p.do(ctx, operation, retentions, func(ctx context.Context, conn *pgx.Conn) error {
			all = all[:0] // what was read before the statement failed is not so
			return rows(ctx, conn, func(r pgx.Rows) error {
				w, err := read(r)
				all = append(all, w)
				return err
			}, sql, args...)
		})
	}
	wary := p.isWary()
	if !wary {
		err := run(sql)
		if wary = p.waited(err); err != nil && !wary {
			return err
		}
	}
	if wary {
		if err := run(strings.Replace(sql, "/*wary*/", warySQL, 1)); err != nil {
			return err
		}
	}
	for _, w := range all {
		*out(w.n) = Outcome{Done: true, State: w.state, Kept: w.kept}
	}
	if !wary || len(all) == len(c.of) {
		return nil
	}
	return p.do(ctx, operation, nil, func(ctx context.Context, conn *pgx.Conn) error {
		return rows(ctx, conn, func(r pgx.Rows) error {
			var n int
			if err := r.Scan(&n); err != nil {
				return err
			}
			o := out(n)
			o.Busy = !o.Done
			return nil
		}, busySQL, c.id, c.fence, c.owner)
	})
}

// busyKeys finds the tasks of a batch of which a key is wanted in a transaction that
// has not ended.
func (p *Postgres) busyKeys(ctx context.Context, b *batch) (tasks []int, err error) {
	keys := b.sorted()
	c := keyColumnsOf(keys)
	found := map[taskKey]bool{}
	undo := errors.New("nothing is to be taken")
	err = p.tx(ctx, "look for keys", nil, func(ctx context.Context, tx pgx.Tx) error {
		clear(found)
		if err := rows(ctx, tx, func(r pgx.Rows) error {
			var n int
			err := r.Scan(&n)
			if err == nil {
				found[keys[n-1]] = true
			}
			return err
		}, `select fairlead.task_keys_busy($1, $2, $3)`, c.kind, c.name, c.key); err != nil {
			return err
		}
		return undo
	})
	if !errors.Is(err, undo) {
		return nil, err
	}
	for i := range b.tasks {
		for _, k := range storedKeys(&b.tasks[i]) {
			if found[k] {
				tasks = append(tasks, i)
				break
			}
		}
	}
	return tasks, nil
}
