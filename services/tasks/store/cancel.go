package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// goneColumns are what [keepSQL] needs of a deleted task t that is cancelled, but
// for its fence and how long it is kept.
const goneColumns = `t.id, t.created_at, t.run_at, t.started_at, t.timeout, t.attempt, t.failures, t.crashes, 4::smallint as ended,
			t.priority, t.steps, t.name, t.idem_key, t.unique_key, t.trace, t.metadata, t.input, null::json as result, t.error`

// keptForSQL is for how long a task t is kept, as fairlead.complete does it: for the
// retention of its name, for $2 where that has none.
const keptForSQL = `coalesce(nullif((select n.retention from fairlead.task_name n where n.name = t.name), 0), $2::bigint) * interval '1 microsecond'`

const cancelSQL = `
	with d as (
		delete from fairlead.task t where t.id = $1
		returning t.fence, now() + ` + keptForSQL + ` as expires, ` + goneColumns + `
	)` + keepSQL + `
	select count(*) from d`

const killSQL = `
	with d as (
		delete from fairlead.task t where t.id = any (array(
			select k.id from fairlead.task k where k.kill_at <= now() order by k.kill_at limit $1::bigint for update skip locked
		))
		returning t.owner, t.fence + 1 as fence, now() + ` + keptForSQL + ` as expires, ` + goneColumns + `
	)` + keepSQL + `
	select d.id, d.fence - 1, d.owner from d`

// Cancel implements [Store].
func (p *Postgres) Cancel(ctx context.Context, id wire.TaskID, grace, retention time.Duration) (*wire.Task, error) {
	return p.change(ctx, "cancel a task", id, []time.Duration{retention}, func(ctx context.Context, tx pgx.Tx, state int16, _ bool) error {
		if state == 0 {
			_, err := tx.Exec(ctx, cancelSQL, uuid(id), micros(retention))
			return err
		}
		_, err := tx.Exec(ctx, `update fairlead.task set kill_at = coalesce(kill_at, now() + $2 * interval '1 microsecond') where id = $1`,
			uuid(id), micros(grace))
		return err
	}, wire.TaskCancelled)
}

// Takeover implements [Store].
func (p *Postgres) Takeover(ctx context.Context, id wire.TaskID) (*wire.Task, error) {
	return p.change(ctx, "take a task over", id, nil, func(ctx context.Context, tx pgx.Tx, state int16, flagged bool) error {
		if state != 1 || flagged {
			return ErrState
		}
		_, err := tx.Exec(ctx, `
			update fairlead.task set state = 0, owner = 0, fence = fence + 1, run_at = now(), started_at = null, deadline = null, beat_by = null
			where id = $1`, uuid(id))
		return err
	})
}

// change locks a task that lives, has how change it, and returns it as it is then.
// Where it has ended, only in one of the states that are fine it is no [ErrState].
func (p *Postgres) change(ctx context.Context, operation string, id wire.TaskID, retentions []time.Duration,
	how func(_ context.Context, _ pgx.Tx, state int16, flagged bool) error, fine ...wire.TaskState,
) (task *wire.Task, err error) {
	refused := false
	err = p.tx(ctx, operation, retentions, func(ctx context.Context, tx pgx.Tx) error {
		var state int16
		var flagged bool
		err := tx.QueryRow(ctx, `select state, kill_at is not null from fairlead.task where id = $1 for update`, uuid(id)).Scan(&state, &flagged)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			refused = true
		case err != nil:
			return err
		default:
			err = how(ctx, tx, state, flagged)
			if refused = errors.Is(err, ErrState); err != nil && !refused {
				return err
			}
		}
		task, err = one(ctx, tx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	if task == nil {
		return nil, ErrNotFound
	}
	for _, state := range fine {
		refused = refused && task.State != state
	}
	if refused {
		return task, ErrState
	}
	return task, nil
}

// Kill implements [Store].
func (p *Postgres) Kill(ctx context.Context, n int, retention time.Duration) (refs []Ref, err error) {
	if n <= 0 {
		return nil, nil
	}
	err = p.do(ctx, "kill tasks", []time.Duration{retention}, func(ctx context.Context, conn *pgx.Conn) error {
		refs = nil
		return rows(ctx, conn, func(r pgx.Rows) error {
			var ref Ref
			err := r.Scan((*[16]byte)(&ref.ID), &ref.Fence, (*int64)(&ref.Owner))
			refs = append(refs, ref)
			return err
		}, killSQL, n, micros(retention))
	})
	return refs, err
}
