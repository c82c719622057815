package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// List implements [Store]. The tasks come without what they work on and have led
// to.
func (p *Postgres) List(ctx context.Context, q Query) (page []wire.Task, err error) {
	if q.Limit <= 0 {
		return nil, nil
	}
	before := pgtype.UUID{Bytes: q.Before, Valid: q.Before != wire.TaskID{}}
	err = p.do(ctx, "list tasks", nil, func(ctx context.Context, conn *pgx.Conn) error {
		page = nil
		return rows(ctx, conn, func(r pgx.Rows) error {
			page = append(page, wire.Task{})
			return scanTask(r, &page[len(page)-1])
		}, listSQL(q), text(q.Name), before, q.Limit)
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// listSQL asks for a page. What is not asked for is not in the statement: an
// index serves what is left.
func listSQL(q Query) string {
	live := q.State == "" || !q.State.Ended()
	done := q.State == "" || q.State.Ended()
	var b strings.Builder
	// Parameters have a type, whether or not they are used.
	b.WriteString(`with q as (select $1::text, $2::uuid) `)
	branch := func(columns, from, table, only string) {
		fmt.Fprintf(&b, `(select %s from %s %s where true%s`, columns, from, table, only)
		if q.Name != "" {
			fmt.Fprintf(&b, ` and %s.name = $1`, table)
		}
		if q.State != "" {
			fmt.Fprintf(&b, ` and %s.state = %d`, table, stateNumbers[q.State])
		}
		if q.Before != (wire.TaskID{}) {
			fmt.Fprintf(&b, ` and %s.id < $2`, table)
		}
		fmt.Fprintf(&b, ` order by %s.id desc limit $3)`, table)
	}
	if live {
		branch(liveColumns, "fairlead.task", "t", "")
	}
	if live && done {
		b.WriteString(` union all `)
	}
	if done {
		branch(doneColumns, "fairlead.task_done", "d", " and d.expires > now()")
	}
	if live && done {
		b.WriteString(` order by 1 desc limit $3`)
	}
	return b.String()
}

// countedSQL counts tasks of a state, up to the cap ($2).
func countedSQL(table, where string, named bool) string {
	if named {
		where += " and name = $1"
	}
	return fmt.Sprintf(`(select count(*) from (select from fairlead.%s where %s limit $2::bigint) c)`, table, where)
}

// countsSQL asks for the counts of a name, or of all.
func countsSQL(named bool) string {
	const kept = "expires > now() and state = "
	return `with q as (select $1::text) select ` + strings.Join([]string{
		countedSQL("task", "state = 0", named), countedSQL("task", "state = 1", named),
		countedSQL("task_done", kept+"2", named), countedSQL("task_done", kept+"3", named),
		countedSQL("task_done", kept+"4", named), countedSQL("task_done", kept+"5", named),
	}, ", ")
}

// Counts implements [Store].
func (p *Postgres) Counts(ctx context.Context, name string) (wire.TaskCounts, error) {
	var n [6]int64
	err := p.do(ctx, "count tasks", nil, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, countsSQL(name != ""), text(name), wire.TaskCountCap).Scan(&n[0], &n[1], &n[2], &n[3], &n[4], &n[5])
	})
	counts := make(map[wire.TaskState]int64, len(n))
	for i, state := range stateNames {
		counts[state] = n[i]
	}
	return countsOf(counts), err
}
