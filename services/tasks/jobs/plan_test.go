package jobs

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/services/tasks/indexed"
)

// Statements that were planned when the table was empty, or full of one queue,
// find what they look for by an index.
func TestPlans(t *testing.T) {
	pool := database(t)
	conn, err := indexed.Acquire(soon(t), pool)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(soon(t), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, types, args, sql string }{
		{"claim", "text, int, int, bigint", "'q', 100, 1000000, 30000", claimSQL},
		{"complete", "bigint[], bigint[]", "'{1,2,3}', '{1,1,1}'", completeSQL},
		{"extend", "bigint[], bigint[], bigint", "'{1,2,3}', '{1,1,1}', 1000", extendSQL},
		{"fail", "bigint[], bigint[], bigint", "'{1,2,3}', '{1,1,1}', 1000", failSQL},
	} {
		for _, state := range []string{
			`truncate fairlead.job; analyze fairlead.job`,
			`insert into fairlead.job (queue, vis, max_attempts, bytes, payload) select 'q', now(), 0, 1, '1' from generate_series(1, 5000); analyze fairlead.job`,
		} {
			exec(state)
			exec("prepare " + c.name + " (" + c.types + ") as " + c.sql)
			rows, err := conn.Query(soon(t), "explain execute "+c.name+"("+c.args+")", pgx.QueryExecModeSimpleProtocol)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			plan := strings.Join(lines, "\n")
			if strings.Contains(plan, "Seq Scan on job") || !strings.Contains(plan, "job_pkey") ||
				strings.Count(plan, "Sort Key: job.vis") > 0 {
				t.Errorf("%s after %s:\n%s", c.name, state, plan)
			}
			exec("deallocate " + c.name)
		}
	}
}
