package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/nats-io/nats.go"
	"github.com/pressly/goose/v3"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// away expects a request to be refused since Postgres is away, and returns how
// long that took.
func (s *taskStack) away(endpoint, body string) time.Duration {
	s.t.Helper()
	began := time.Now()
	var e *wire.Error
	if err := s.raw(endpoint, body, nil); !errors.As(err, &e) || e.Code != wire.Unavailable || e.Details["what"] != "postgres" {
		s.t.Fatalf("%s: %v, want UNAVAILABLE, what: postgres", endpoint, err)
	}
	return time.Since(began)
}

// A Postgres that is away, at the start of a replica and later: what is asked for
// is refused fast, what was taken is not lost, and nobody has to do anything.
func TestTasksWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	pg := pgdev.TestServer(t)
	pg.Stop()
	s := bareTasksOn(t, natsdev.Test(t).ClientURL(), pg.URL())
	admin := "127.0.0.1:" + freePort(t)
	s.launch("FAIRLEAD_ADMIN_ADDR=" + admin)
	eventually(t, "the replica is on the server", func() (any, bool) { return nil, s.ping() == 1 })
	for _, endpoint := range []string{"enqueue", "run", "counts", "register"} {
		s.away(endpoint, `{"name":"x"}`)
	}
	if status, body := get(t, "http://"+admin+"/readyz"); status != 503 || !strings.Contains(body, "not migrated") {
		t.Errorf("before there is a Postgres it is %d, %s", status, body)
	}
	must(t, pg.Restart())
	s.answer(1)
	eventually(t, "it is ready", func() (any, bool) {
		status, body := get(t, "http://"+admin+"/readyz")
		return body, status == 200 && !strings.Contains(body, "degraded")
	})

	taken := s.attempts("slow")
	s.serves("quick", func(*nats.Msg) string { return `1` })
	running, waiting := s.enqueue(`{"name":"slow"}`), s.enqueue(`{"name":"quick","delay":"1h"}`)
	due := s.enqueue(`{"name":"quick","delay":"300ms"}`)
	m := receive(t, taken)
	events := listen(t, s.nc, "fl.event.breaker.*")
	pg.Stop()
	s.away("enqueue", `{"name":"quick"}`)
	must(t, m.Respond([]byte(`"done meanwhile"`))) // and nobody asks again
	for broken := false; !broken; {
		s.away("get", `{"id":"`+running+`"}`)
		m := hear(t, events)
		broken = m.Subject == "fl.event.breaker.broken" && strings.Contains(string(m.Data), `"what":"postgres"`)
	}
	// Whoever asks now waits for nothing.
	var took []time.Duration
	for range 20 {
		took = append(took, s.away("enqueue", `{"name":"quick"}`))
	}
	if slices.Sort(took); took[10] > 500*time.Millisecond {
		t.Errorf("a refusal takes %s", took[10])
	}
	if status, body := get(t, "http://"+admin+"/readyz"); status != 200 || !strings.Contains(body, "degraded") {
		t.Errorf("without Postgres it is %d, %s, want degraded", status, body)
	}
	must(t, pg.Restart())
	s.answer(1)
	if got := s.wants(running, wire.TaskCommitted); string(got.Result) != `"done meanwhile"` || got.Attempt != 1 {
		t.Errorf("what was done meanwhile ended as %+v, want the result of the first attempt", got)
	}
	s.wants(due, wire.TaskCommitted)
	s.becomes(waiting, wire.TaskPending)
	s.wants(s.enqueue(`{"name":"quick"}`), wire.TaskCommitted)
}

// Two replicas of two releases: one works on the tables of a migration earlier,
// while the other one migrates, and after that.
func TestTasksWhileTheTablesAreMigrated(t *testing.T) {
	t.Parallel()
	s := bareTasksOn(t, natsdev.Test(t).ClientURL(), pgdev.Test(t))
	old := s.launch("FAIRLEAD_TASKS_MIGRATE=false")
	old.line(old.stderr, "not there yet") // nobody has made them
	last := migrateButLast(t, s.db)
	s.answer(1)
	s.serves("load", func(m *nats.Msg) string { return string(m.Data) })

	stop := make(chan struct{})
	var loading sync.WaitGroup
	var mu sync.Mutex
	var ids []string
	for range 4 {
		loading.Go(func() {
			for {
				var done wire.TaskEnqueued
				if err := s.raw("enqueue", `{"name":"load","input":1}`, &done); err != nil {
					t.Errorf("enqueue: %v", err)
					return
				}
				mu.Lock()
				ids = append(ids, done.ID)
				mu.Unlock()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	enough := func(n int) {
		eventually(t, fmt.Sprintf("%d tasks were enqueued", n), func() (any, bool) {
			mu.Lock()
			defer mu.Unlock()
			return len(ids), len(ids) >= n
		})
	}
	enough(50)
	s.launch()
	eventually(t, "the last migration has run", func() (any, bool) {
		n, err := s.look("select max(version_id) from fairlead.tasks_version")
		return err, int64(n) == last
	})
	s.answer(2)
	mu.Lock()
	n := len(ids)
	mu.Unlock()
	enough(n + 50)
	close(stop)
	loading.Wait()
	for _, id := range ids {
		s.wants(id, wire.TaskCommitted)
	}
	if strings.Contains(old.stderr.String(), `"level":"ERROR"`) {
		t.Error("the older replica has logged errors")
	}
}

// migrateButLast runs all migrations but the last, and returns its number.
func migrateButLast(t *testing.T, url string) (last int64) {
	t.Helper()
	dir := filepath.Join("..", "services", "tasks", "schema", "migrations")
	files, err := fs.Glob(os.DirFS(dir), "*.sql")
	must(t, err)
	config, err := pgx.ParseConfig(url)
	must(t, err)
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() { _ = db.Close() }) // nothing of it is needed any more
	_, err = db.Exec("create schema if not exists fairlead")
	must(t, err)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS(dir), goose.WithTableName("fairlead.tasks_version"), goose.WithDisableGlobalRegistry(true))
	must(t, err)
	sources := provider.ListSources()
	if len(sources) < 2 || len(sources) != len(files) {
		t.Fatalf("%d migrations of %d files", len(sources), len(files))
	}
	_, err = provider.UpTo(within(t), sources[len(sources)-2].Version)
	must(t, err)
	return sources[len(sources)-1].Version
}

// Where there is no Postgres tasks are off: that is said, and how to get them.
func TestTasksAreOff(t *testing.T) {
	t.Parallel()
	dev, natsURL := startDev(t)
	if line := dev.line(dev.stdout, "  tasks "); !strings.Contains(line, "off: ") || !strings.Contains(line, "FAIRLEAD_PGBIN") {
		t.Errorf("without a Postgres dev says: %s", line)
	}
	if _, err := connect(t, natsURL).Request("fl.svc.tasks.counts", nil, patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("tasks that are off: %v, want nobody", err)
	}
	env := []string{"FAIRLEAD_NATS_URL=" + natsURL, "FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_HTTP_ADDR=127.0.0.1:0", "FAIRLEAD_AUTH_JWT_SECRET=" + testSecret}
	_, stderr, code := run(t, env, "", "run", "tasks")
	if code != 2 || strings.Count(strings.TrimSpace(stderr), "\n") != 0 || !strings.Contains(stderr, "FAIRLEAD_POSTGRES_URL") {
		t.Errorf("run tasks: %d, %q, want one line that names the variable", code, stderr)
	}
	all := start(t, "all", env, "run", "all")
	all.line(all.stderr, "tasks are off: FAIRLEAD_POSTGRES_URL")
}
