package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Clean implements [Store]. It makes the days ahead, too.
func (p *Postgres) Clean(ctx context.Context, n int) (more bool, err error) {
	if n <= 0 {
		return false, nil
	}
	if err := p.makeAhead(ctx); err != nil {
		return false, err
	}
	if err := p.dropDays(ctx); err != nil {
		return false, err
	}
	err = p.do(ctx, "clean up", nil, func(ctx context.Context, conn *pgx.Conn) error {
		more = false
		for _, table := range []string{"task_key", "task_step"} {
			tag, err := conn.Exec(ctx, `
				delete from fairlead.`+table+` where ctid = any (array(
					select ctid from fairlead.`+table+` where expires <= now() order by expires limit $1::bigint for update skip locked
				))`, n)
			if err != nil {
				return err
			}
			more = more || tag.RowsAffected() == int64(n)
		}
		_, err := conn.Exec(ctx, `delete from fairlead.task_owner where lease_until < now() - $1 * interval '1 microsecond'`, micros(ownerKept))
		return err
	})
	return more, err
}
