package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Join implements [Store]. It makes the days ahead, too: who ends a task in SQL
// would make a missing one in a transaction that may take its time.
func (p *Postgres) Join(ctx context.Context, host string, lease time.Duration) (o Owner, err error) {
	if err := p.makeAhead(ctx); err != nil {
		return 0, err
	}
	err = p.do(ctx, "join", nil, func(ctx context.Context, conn *pgx.Conn) error {
		if p.retention > 0 {
			if _, err := conn.Exec(ctx, `
				insert into fairlead.task_service as s (retention) values ($1)
				on conflict (one) do update set retention = excluded.retention where s.retention <> excluded.retention`,
				micros(p.retention)); err != nil {
				return err
			}
		}
		return conn.QueryRow(ctx, `
			insert into fairlead.task_owner (host, lease_until) values ($1, now() + $2 * interval '1 microsecond') returning owner`,
			text(host), micros(lease)).Scan(&o)
	})
	return o, err
}

// Renew implements [Store].
func (p *Postgres) Renew(ctx context.Context, o Owner, lease time.Duration) error {
	return p.do(ctx, "renew a lease", nil, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, `
			update fairlead.task_owner set lease_until = now() + $2 * interval '1 microsecond' where owner = $1 and lease_until > now()`,
			int64(o), micros(lease))
		if err == nil && tag.RowsAffected() == 0 {
			return ErrOwner
		}
		return err
	})
}

// Leave implements [Store].
func (p *Postgres) Leave(ctx context.Context, o Owner) (n int, err error) {
	err = p.do(ctx, "leave", nil, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			with gone as (
				delete from fairlead.task_owner where owner = $1
			), given as (
				update fairlead.task set owner = 0 where id = any (array(
					select id from fairlead.task where owner = $1 and state = 1 for update skip locked
				)) returning id
			)
			select count(*) from given`, int64(o)).Scan(&n)
	})
	return n, err
}
