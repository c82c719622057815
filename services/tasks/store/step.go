package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// Step implements [Store].
func (p *Postgres) Step(ctx context.Context, ref Ref, step string, result []byte) (stored []byte, err error) {
	attempt := `select from fairlead.task t where t.id = $1 and t.fence = $2 and t.state + 0 = 1 and ($3 = 0 or t.owner = $3)`
	if len(result) > 0 {
		attempt = `update fairlead.task t set steps = true where t.id = $1 and t.fence = $2 and t.state + 0 = 1 and ($3 = 0 or t.owner = $3)`
	}
	err = p.tx(ctx, "store a step", nil, func(ctx context.Context, tx pgx.Tx) error {
		// Where it is to be stored, the attempt is not given up before it is.
		tag, err := tx.Exec(ctx, attempt, uuid(ref.ID), ref.Fence, int64(ref.Owner))
		if err == nil && tag.RowsAffected() == 0 {
			return ErrState
		}
		if err == nil && len(result) > 0 {
			_, err = tx.Exec(ctx, `
				insert into fairlead.task_step (task, step, fence, result) values ($1, $2, $3, $4) on conflict do nothing`,
				uuid(ref.ID), text(step), ref.Fence, document(result))
		}
		if err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `select result from fairlead.task_step where task = $1 and step = $2`, uuid(ref.ID), text(step)).Scan(&stored)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return stored, err
}
