package integration

import (
	"go/ast"
	"go/parser"
	position "go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// skewSQL sets the clock of a database apart from those of the replicas: what asks
// it for the time is told another one.
const skewSQL = `
	create schema skew;
	create function skew.now() returns timestamptz language sql stable as $$ select pg_catalog.now() + interval '%' $$;
	create function skew.clock_timestamp() returns timestamptz language sql volatile as $$ select pg_catalog.clock_timestamp() + interval '%' $$;
	do $$ begin execute format('alter database %I set search_path = skew, pg_catalog, public', current_database()); end $$`

// The clocks of two replicas and a worker are a day and a half from that of
// Postgres: nothing is late, nothing is early, nobody is taken for dead who is not.
func TestTasksWithClocksThatDiffer(t *testing.T) {
	t.Parallel()
	for _, skew := range []string{"36 hours", "-36 hours"} {
		t.Run(skew, func(t *testing.T) {
			t.Parallel()
			database := pgdev.Test(t)
			runSQL(t, database, strings.ReplaceAll(skewSQL, "'%'", "'"+skew+"'"))
			s := bareTasksOn(t, natsdev.Test(t).ClientURL(), database)
			for range 2 {
				s.launch("FAIRLEAD_TASKS_OWNER_LEASE=5s")
			}
			s.answer(2)
			if n, err := s.look(`select (extract(epoch from now() - pg_catalog.now()) / 3600)::int`); err != nil || n != 36 && n != -36 {
				t.Fatalf("the clock of Postgres is %d hours ahead, %v", n, err)
			}
			name := taskName("skewed")
			askTasks[struct{}](s, "register", `{"name":"`+name+`","timeout":"20s","retry":{"backoff":"10ms"}}`)
			taken := s.attempts(name)
			next := func(id string) *nats.Msg {
				t.Helper()
				m := receive(t, taken)
				if got := m.Header.Get(wire.HeaderTaskID); got != id {
					t.Fatalf("the attempt is one of %s, want %s", got, id)
				}
				return m
			}

			// What is for later waits, and no longer.
			asked := time.Now()
			id := s.enqueue(`{"name":"` + name + `","delay":"700ms"}`)
			later := s.enqueue(`{"name":"` + name + `","delay":"1h"}`)
			m := next(id)
			if waited := time.Since(asked); waited < 700*time.Millisecond {
				t.Errorf("what was to wait 700 ms came after %s", waited)
			}
			must(t, m.Respond([]byte(`1`)))
			s.wants(id, wire.TaskCommitted)
			s.becomes(later, wire.TaskPending)

			// A worker that is silent is lost, one that is heard is not.
			id = s.enqueue(`{"name":"` + name + `"}`)
			m = next(id)
			askTasks[struct{}](s, "heartbeat", `{`+attemptOf(m)+`,"leaseMs":300}`)
			m = next(id)
			if got := m.Header.Get(wire.HeaderTaskAttempt); got != "2" {
				t.Errorf("behind the lost attempt came number %s", got)
			}
			askTasks[struct{}](s, "heartbeat", `{`+attemptOf(m)+`,"leaseMs":60000}`)

			// Its replica dies, whichever it is: the attempt goes on, under another.
			first := s.owner()
			for range 2 {
				s.replicas[0].kill()
				s.replicas = s.replicas[1:]
				s.launch("FAIRLEAD_TASKS_OWNER_LEASE=5s")
				s.answer(2)
			}
			eventually(t, "another replica has the attempt", func() (any, bool) {
				now := s.owner()
				return now, now != first && now != 0
			})
			askTasks[struct{}](s, "complete", `{`+attemptOf(m)+`,"result":"second"}`)
			if got := s.wants(id, wire.TaskCommitted); got.Attempt != 2 || got.Crashes != 1 || string(got.Result) != `"second"` {
				t.Errorf("it ended as %+v", got)
			}
			if n, err := s.look(`select count(*) from fairlead.task_done where expires between now() + interval '6 days' and now() + interval '8 days'`); err != nil || n != 2 {
				t.Errorf("%d of what ended is kept for a week, %v, want 2", n, err)
			}
		})
	}
}

// owner returns who supervises the only attempt that runs.
func (s *taskStack) owner() int {
	s.t.Helper()
	n, err := s.look(`select owner from fairlead.task where state = 1`)
	must(s.t, err)
	return n
}

// A replica can be told another time of day by nothing that a test may do. So what
// could let one matter is looked for in the source: a time of day that a store is
// given, and one that is read where there is SQL.
func TestNoTimeOfDayReachesSQL(t *testing.T) {
	t.Parallel()
	services := os.DirFS("../services/tasks")
	// Whoever enqueues says when; schedules are computed from the store's own time.
	allowed := []string{"store.New.RunAt", "cron.Schedule.LastAt", "cron.Fire.Due", "cron.Fire.Next", "cron.Fire.Ticks"}
	for _, dir := range []string{"store", "jobs", "cron", "idem"} {
		for _, found := range timesOf(t, services, dir) {
			if !slices.Contains(allowed, found) {
				t.Errorf("a time of day reaches a store: %s", found)
			}
		}
	}
	must(t, fs.WalkDir(services, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		source, err := fs.ReadFile(services, name)
		if err != nil {
			return err
		}
		if at := clockInSQL(t, name, source); at != "" && name != "bridge/session.go" { // that counts its lease from when it asked
			t.Errorf("the time of day is read beside SQL: %s", at)
		}
		return nil
	}))
	if clockInSQL(t, "a.go", []byte(`package a; func f() { at := time.Now(); tx.Exec(ctx, "…", at) }`)) == "" {
		t.Error("a function that reads the time of day beside SQL is not noticed")
	}
}

// clockInSQL returns where a function that speaks with Postgres asks for the time;
// "": nowhere.
func clockInSQL(t *testing.T, name string, source []byte) (found string) {
	t.Helper()
	files := position.NewFileSet()
	file, err := parser.ParseFile(files, name, source, 0)
	must(t, err)
	for _, declared := range file.Decls {
		at, speaks := "", false
		ast.Inspect(declared, func(n ast.Node) bool {
			if x, ok := n.(*ast.CallExpr); ok {
				if isTime(x.Fun, "Now", "Since", "Until") {
					at = files.Position(x.Pos()).String()
				}
				called, ok := x.Fun.(*ast.SelectorExpr)
				speaks = speaks || ok && slices.Contains([]string{"Exec", "Query", "QueryRow", "Queue", "SendBatch"}, called.Sel.Name)
			}
			return true
		})
		if speaks && at != "" {
			found = at
		}
	}
	return found
}

// isTime reports whether an expression is one of some names of package time.
func isTime(x ast.Expr, names ...string) bool {
	s, ok := x.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	of, ok := s.X.(*ast.Ident)
	return ok && of.Name == "time" && slices.Contains(names, s.Sel.Name)
}

// timesOf returns the times of day among what the methods of a package's Store are
// given.
func timesOf(t *testing.T, services fs.FS, dir string) (found []string) {
	t.Helper()
	names, err := fs.Glob(services, path.Join(dir, "*.go"))
	must(t, err)
	types := map[string]ast.Expr{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := fs.ReadFile(services, name)
		must(t, err)
		file, err := parser.ParseFile(position.NewFileSet(), name, source, 0)
		must(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				types[spec.Name.Name] = spec.Type
			}
			return true
		})
	}
	store, ok := types["Store"].(*ast.InterfaceType)
	if !ok {
		t.Fatalf("%s has no Store", dir)
	}
	seen := map[string]bool{}
	var look func(where string, x ast.Expr)
	look = func(where string, x ast.Expr) {
		switch x := x.(type) {
		case *ast.SelectorExpr:
			if isTime(x, "Time") {
				found = append(found, where)
			}
		case *ast.Ident:
			if types[x.Name] != nil && !seen[x.Name] {
				seen[x.Name] = true
				look(dir+"."+x.Name, types[x.Name])
			}
		case *ast.ArrayType:
			look(where, x.Elt)
		case *ast.StarExpr:
			look(where, x.X)
		case *ast.MapType:
			look(where, x.Value)
		case *ast.StructType:
			for _, field := range x.Fields.List {
				under := where
				for _, name := range field.Names {
					under = where + "." + name.Name
				}
				look(under, field.Type)
			}
		}
	}
	for _, method := range store.Methods.List {
		is, ok := method.Type.(*ast.FuncType)
		if !ok {
			continue
		}
		for _, given := range is.Params.List {
			look(dir+".Store."+method.Names[0].Name, given.Type)
		}
	}
	return found
}
