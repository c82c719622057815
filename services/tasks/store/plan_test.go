package store

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/services/tasks/indexed"
)

// moments are what tables may hold when statistics are taken, and what plans are
// made from until they are taken again.
var moments = map[string]string{
	"Empty":    `select`,
	"Few":      fill(0, 3) + `;` + fill(1, 3),
	"Backlog":  fill(0, 6_000),
	"Running":  fill(1, 6_000),
	"AllOfThe": fill(0, 3_000) + `;` + fill(1, 3_000),
}

func fill(state, n int) string {
	return fmt.Sprintf(`
		insert into fairlead.task (id, name, state, fence, owner, started_at, deadline, idem_key)
		select gen_random_uuid(), 'n' || i %% 5, %d, 1, %[1]d * (1 + i %% 3), now(), now() + interval '1 minute', 'k%[1]d' || i
			from generate_series(1, %d) i;
		insert into fairlead.task_key (kind, name, key, task) select 1, t.name, t.idem_key, t.id from fairlead.task t on conflict do nothing;
		insert into fairlead.task_done (id, expires, fence, created_at, run_at, timeout, attempt, failures, crashes, state, priority, steps, name)
		select gen_random_uuid(), now() + interval '1 day', 1, now(), now(), 0, 1, 0, 0, 2, 0, false, 'n' || i %% 5 from generate_series(1, %[2]d) i;
		insert into fairlead.task_step (task, step, fence, result) select t.id, 's', 1, '1' from fairlead.task t on conflict do nothing`, state, n)
}

// statements are those that run again and again, and the indexes that each is to
// go by.
var statements = map[string]struct {
	sql     string
	indexes []string
}{
	"claim":   {claimSQL, []string{"task_ready", "task_pkey"}},
	"wary":    {strings.Replace(endSQL, "/*wary*/", warySQL, 1), []string{"task_pkey", "task_key_pkey"}},
	"end":     {endSQL, []string{"task_pkey", "task_key_pkey", "task_step_pkey"}},
	"back":    {backSQL, []string{"task_pkey", "task_key_pkey"}},
	"beats":   {beatsSQL, []string{"task_pkey"}},
	"adopt":   {adoptSQL, []string{"task_pkey", "task_owner_pkey"}},
	"attempt": {attemptSQL, []string{"task_pkey"}},
	"orphans": {orphansSQL, []string{"task_running", "task_pkey"}},
	"owned":   {ownedSQL, []string{"task_running"}},
	"count":   {countSQL, []string{"task_running"}},
	"kill":    {killSQL, []string{"task_kill", "task_pkey"}},
	"due":     {dueSQL, []string{"task_ready"}},
	"depth":   {depthSQL, []string{"task_ready"}},
	"get":     {getSQL, []string{"task_pkey", "id_idx"}},
	"list":    {listSQL(Query{Name: "n1"}), []string{"name_id_idx"}},
}

// matching are the statements that match attempts by what a worker says of them:
// none of them may go through all that runs instead.
var matching = []string{"end", "wary", "back", "beats", "adopt", "attempt"}

// TestPlans looks at how Postgres goes about each statement, planned at one moment
// and used at any other.
func TestPlans(t *testing.T) {
	for moment, sql := range moments {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			p := openPostgres(t)
			run(t, p, `select fairlead.task_done_make(now() + interval '1 day')`)
			run(t, p, sql)
			run(t, p, `analyze`)
			conn := planner(t, p)
			for name, s := range statements {
				prepare(t, conn, name, s.sql)
			}
			// They are planned now; then there is more, and nobody has looked at it.
			for name := range statements {
				explain(t, conn, name)
			}
			run(t, p, moments["Few"])
			for name, s := range statements {
				plan := explain(t, conn, name)
				if strings.Contains(plan, "Seq Scan on task") {
					t.Errorf("%s reads a whole table:\n%s", name, plan)
				}
				for _, index := range s.indexes {
					if !strings.Contains(plan, index) {
						t.Errorf("%s does not go by %s:\n%s", name, index, plan)
					}
				}
			}
			for _, name := range matching {
				if plan := explain(t, conn, name); strings.Contains(plan, "task_running") {
					t.Errorf("%s goes through what runs:\n%s", name, plan)
				}
			}
		})
	}
}

// TestPlansOfOtherStatements shows that the moments above are those at which a
// statement that is written or planned another way goes wrong.
func TestPlansOfOtherStatements(t *testing.T) {
	p := openPostgres(t)
	run(t, p, `select fairlead.task_done_make(now() + interval '1 day')`)
	run(t, p, moments["Backlog"])
	run(t, p, `analyze`)
	conn := planner(t, p)
	prepare(t, conn, "ends", strings.Replace(endSQL, "t.state + 0 = 1", "t.state = 1", 1))
	if plan := explain(t, conn, "ends"); !strings.Contains(plan, "task_running") {
		t.Errorf("it was said that nothing runs, and yet it is not gone through:\n%s", plan)
	}
	if _, err := conn.Exec(t.Context(), "reset all; set plan_cache_mode = force_generic_plan"); err != nil {
		t.Fatal(err)
	}
	prepare(t, conn, "joined", `
		update fairlead.task t set state = 1 from (
			select c.id from fairlead.task c where c.state = 0 and c.name = $1 and c.run_at <= now()
			order by c.priority desc, c.run_at, c.id limit $2::bigint for update skip locked) c
		where t.id = c.id`)
	if plan := explain(t, conn, "joined"); !strings.Contains(plan, "Seq Scan on task") {
		t.Errorf("a claim that joins does not read the whole table:\n%s", plan)
	}
	run(t, p, `truncate fairlead.task`)
	run(t, p, `vacuum analyze fairlead.task`)
	prepare(t, conn, "claims", claimSQL)
	explain(t, conn, "claims")
	run(t, p, fill(0, 100))
	if plan := explain(t, conn, "claims"); !strings.Contains(plan, "Seq Scan on task") {
		t.Errorf("a claim that was planned when there was nothing does not read the whole table:\n%s", plan)
	}
}

// planner returns a connection as the store uses them.
func planner(t *testing.T, p *Postgres) *pgx.Conn {
	t.Helper()
	conn, err := indexed.Acquire(t.Context(), p.pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Release)
	return conn.Conn()
}

func prepare(t *testing.T, conn *pgx.Conn, name, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "prepare s_"+name+" as "+sql); err != nil {
		t.Fatalf("prepare %s: %v", name, err)
	}
}

// explain returns the plan of a prepared statement.
func explain(t *testing.T, conn *pgx.Conn, name string) string {
	t.Helper()
	var n int
	if err := conn.QueryRow(t.Context(), `select cardinality(parameter_types) from pg_prepared_statements where name = 's_' || $1`, name).Scan(&n); err != nil {
		t.Fatal(err)
	}
	var plan strings.Builder
	err := rows(t.Context(), conn, func(r pgx.Rows) error {
		var line string
		err := r.Scan(&line)
		fmt.Fprintln(&plan, line)
		return err
	}, "explain (costs off) execute s_"+name+"("+strings.TrimSuffix(strings.Repeat("null,", n), ",")+")", pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatalf("explain %s: %v", name, err)
	}
	return plan.String()
}
