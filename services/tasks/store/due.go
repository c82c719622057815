package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// headsSQL is the first pending task of each name and priority, from a name ($1)
// on: each is looked up, however many there are of it.
const headsSQL = `h (name, priority, run_at) as (
		(select t.name, t.priority, t.run_at from fairlead.task t where t.state = 0 and t.name >= $1
			order by t.name, t.priority desc, t.run_at limit 1)
		union all
		select x.* from h cross join lateral (
			(select t.name, t.priority, t.run_at from fairlead.task t where t.state = 0 and t.name = h.name and t.priority < h.priority
				order by t.priority desc, t.run_at limit 1)
			union all
			(select t.name, t.priority, t.run_at from fairlead.task t where t.state = 0 and t.name > h.name
				order by t.name, t.priority desc, t.run_at limit 1)
			limit 1
		) x
	)`

// dueSQL counts to no time that is further away than it looks: one task whose time
// can't be counted to is not to hide all others.
const dueSQL = `
	with recursive ` + headsSQL + `
	select h.name, (extract(epoch from least(greatest(h.run_at, now()), now() + $2 * interval '1 microsecond') - now()) * 1000000)::bigint,
		h.run_at <= now() + $2 * interval '1 microsecond'
	from h limit $3::bigint`

const depthSQL = `
	with recursive ` + headsSQL + `
	select (select count(*) from (
			select from h cross join lateral (
				select from fairlead.task t where t.state = 0 and t.name = h.name and t.priority = h.priority and t.run_at <= now()
			) t limit $2::bigint
		) t),
		coalesce((select (extract(epoch from max(now() - greatest(h.run_at, now() - interval '100 years'))) * 1000000)::bigint from (select h.run_at from h limit $3::bigint) h
			where h.run_at <= now()), 0)`

// headsRead bounds how many names and priorities are looked at at a time: it is
// more than a name has priorities, so that a look always comes to the next one.
const headsRead = 4096

// Due implements [Store]. Where there are more names than it may list, the next
// look goes on behind them: each name's turn comes.
func (p *Postgres) Due(ctx context.Context, within time.Duration, most int) ([]Due, error) {
	p.mu.Lock()
	from := p.after
	p.mu.Unlock()
	due, next, err := p.due(ctx, from, within, most)
	if err == nil && next == "" && from != "" && len(due) < most {
		// The names before it are looked at in the same go.
		var first []Due
		if first, next, err = p.due(ctx, "", within, most-len(due)); err == nil {
			for _, d := range first {
				if d.Name >= from {
					next = ""
					break
				}
				due = append(due, d)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.after = next
	p.mu.Unlock()
	sortDue(due)
	return due, nil
}

// due lists names from one on; next is where to go on, "" where nothing is left.
func (p *Postgres) due(ctx context.Context, from string, within time.Duration, most int) (due []Due, next string, err error) {
	if most <= 0 {
		return nil, from, nil
	}
	err = p.do(ctx, "look for due tasks", nil, func(ctx context.Context, conn *pgx.Conn) error {
		due, next = nil, ""
		read, last := 0, ""
		err := rows(ctx, conn, func(r pgx.Rows) error {
			var name string
			var in int64
			var soon bool
			if err := r.Scan(&name, &in, &soon); err != nil {
				return err
			}
			read++
			last = name
			switch n := len(due); {
			case !soon || next != "":
			case n > 0 && due[n-1].Name == name:
				due[n-1].In = min(due[n-1].In, duration(in))
			case n == most:
				next = name
			default:
				due = append(due, Due{Name: name, In: duration(in)})
			}
			return nil
		}, dueSQL, from, micros(within), headsRead)
		if next == "" && read == headsRead {
			next = last
		}
		return err
	})
	return due, next, err
}

// Depth implements [Store].
func (p *Postgres) Depth(ctx context.Context) (due int64, oldest time.Duration, err error) {
	var us int64
	err = p.do(ctx, "count due tasks", nil, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, depthSQL, "", wire.TaskCountCap, headsRead).Scan(&due, &us)
	})
	return due, duration(us), err
}
