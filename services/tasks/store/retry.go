package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const retrySQL = `
	with d as (
		delete from fairlead.task_done d where d.id = $1 and d.expires > now() and d.state in (3, 4, 5) returning d.*
	), again as (
		insert into fairlead.task (id, fence, created_at, run_at, timeout, attempt, priority, steps, name, idem_key, unique_key,
			trace, metadata, input, error)
		select d.id, d.fence, d.created_at, now(), d.timeout, d.attempt, d.priority, d.steps, d.name, d.idem_key, d.unique_key,
			d.trace, d.metadata, d.input, d.error
		from d
	), stepped as (
		update fairlead.task_step s set expires = null from d where d.steps and s.task = d.id
	)
	select d.name, coalesce(d.idem_key, ''), coalesce(d.unique_key, '') from d`

// Retry implements [Store].
func (p *Postgres) Retry(ctx context.Context, id wire.TaskID) (task *wire.Task, err error) {
	refused := false
	err = p.tx(ctx, "retry a task", nil, func(ctx context.Context, tx pgx.Tx) error {
		var name, idempotency, unique string
		err := tx.QueryRow(ctx, retrySQL, uuid(id)).Scan(&name, &idempotency, &unique)
		if refused = errors.Is(err, pgx.ErrNoRows); err != nil && !refused {
			return err
		}
		if keys := keysOf(name, idempotency, unique); !refused && len(keys) > 0 {
			if err := retake(ctx, tx, id, keys); err != nil {
				return err
			}
		}
		task, err = one(ctx, tx, id)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case task == nil:
		return nil, ErrNotFound
	case refused:
		return task, ErrState
	}
	return task, nil
}

// retake takes the keys of a task that begins again. An idempotency key that is
// another's by now stays that one's.
func retake(ctx context.Context, tx pgx.Tx, id wire.TaskID, keys []taskKey) error {
	b := &batch{wants: map[taskKey]wire.TaskID{}}
	for _, k := range keys {
		b.wants[k] = id
	}
	_, held, err := b.lock(ctx, tx)
	if err != nil {
		return err
	}
	for k, by := range held {
		if k.kind == uniqueKey {
			return errTaken(by)
		}
	}
	return nil
}
