package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/schema"
)

// TestMigrateAtOnce has several processes make the tables at once.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := pgdev.Test(t)
	together(5, func(int) {
		pool, err := pgxpool.New(t.Context(), url)
		if err != nil {
			t.Error(err)
			return
		}
		defer pool.Close()
		for range 2 {
			if err := schema.Migrate(t.Context(), pool); err != nil {
				t.Error(err)
			}
		}
		if _, err := NewPostgres(pool, kept).Join(t.Context(), "host", time.Minute); err != nil {
			t.Error(err)
		}
	})
}

// TestSchemaOfBefore works with tables that the last migration has not reached.
func TestSchemaOfBefore(t *testing.T) {
	t.Parallel()
	pool := openPool(t, pgdev.Test(t))
	if _, err := pool.Exec(t.Context(), "create schema fairlead"); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir("../schema/migrations")
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { _ = db.Close() })
	provider, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS("../schema/migrations"), goose.WithTableName("fairlead.tasks_version"),
		goose.WithDisableGlobalRegistry(true), goose.WithExcludeNames([]string{files[len(files)-1].Name()}))
	if err == nil {
		_, err = provider.Up(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	p := NewPostgres(pool, kept)
	for _, name := range []string{"InsertAndClaim", "KeysInOneBatch", "Back", "Kill", "Retry", "Orphans", "Steps", "Retention", "List", "Counts", "Policies", "Secret"} {
		t.Run(name, func(t *testing.T) { contract[name](t, postgresRig(t, p)) })
	}
	if err := schema.Migrate(t.Context(), pool); err != nil {
		t.Errorf("then comes the last one: %v", err)
	}
}

// TestConcurrencyNeedsItsLock shows that the test of the bound sees a claim that
// counts without the lock.
func TestConcurrencyNeedsItsLock(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	r := &rig{Store: p, t: t}
	const tasks = 60
	r.put(r.join(), make([]New, tasks)...)
	var first sync.WaitGroup // two have counted before one of them claims
	first.Add(2)
	var calls atomic.Int64
	most, _ := crowd(t, r, func(o Owner, n int) (attempts []Attempt, err error) {
		err = p.do(t.Context(), "claim", nil, func(ctx context.Context, conn *pgx.Conn) error {
			running := 0
			if err := conn.QueryRow(ctx, countSQL, "work").Scan(&running); err != nil {
				return err
			}
			if calls.Add(1) <= 2 {
				first.Done()
			}
			first.Wait()
			var err error
			if n = min(n, 3-running); n > 0 {
				attempts, err = claim(ctx, conn, o, "work", n, time.Minute)
			}
			return err
		})
		return attempts, err
	}, tasks)
	if most <= 3 {
		t.Errorf("%d ran at a time at most: without the lock it should be more", most)
	}
}

// collide stores batches with the same keys at once, each in an order of its own,
// and ends what has them, until insert says that it met a deadlock, or for a while.
func collide(t *testing.T, p *Postgres, insert func([]New) error) (deadlocks int64) {
	t.Helper()
	var found atomic.Int64
	together(4, func(w int) {
		random := rand.New(rand.NewPCG(uint64(w), 7))
		for range 25 {
			if found.Load() > 0 {
				return
			}
			var tasks []New
			for _, k := range random.Perm(40) {
				tasks = append(tasks, New{ID: ids(), Name: "work", UniqueKey: strconv.Itoa(k), IdempotencyKey: strconv.Itoa(100 - k)})
			}
			var state *pgconn.PgError
			if err := insert(tasks); errors.As(err, &state) && state.Code == "40P01" {
				found.Add(1)
			} else if err != nil {
				t.Error(err)
			}
			attempts, err := p.Claim(t.Context(), 1, "work", 30, 0, time.Minute)
			var ends []End
			for _, i := range random.Perm(len(attempts)) {
				ends = append(ends, End{Ref: Ref{ID: attempts[i].ID, Fence: attempts[i].Fence}, State: wire.TaskFailed, Retention: kept})
			}
			if err == nil {
				_, err = p.End(t.Context(), ends)
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	return found.Load()
}

// TestKeysDoNotDeadlock has batches with the same keys meet, and those end that
// have them: nobody loses, whoever tries again.
func TestKeysDoNotDeadlock(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	run(t, p, fmt.Sprintf(`alter database %q set deadlock_timeout = '20ms'`, p.pool.Config().ConnConfig.Database))
	p.pool.Reset()
	// once tries a batch once: [Postgres.Insert] would hide what it lost.
	once := func(tasks []New, size int) error {
		return pgx.BeginFunc(t.Context(), p.pool, func(tx pgx.Tx) error {
			for some := range slices.Chunk(tasks, size) {
				b := newBatch(some)
				if err := b.take(t.Context(), tx); err != nil {
					return err
				}
				if err := b.insert(t.Context(), tx, 1); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if n := collide(t, p, func(tasks []New) error { return once(tasks, len(tasks)) }); n > 0 {
		t.Errorf("%d deadlocks", n)
	}
	var counted int
	if err := p.pool.QueryRow(t.Context(), `select deadlocks from pg_stat_database where datname = current_database()`).Scan(&counted); err != nil || counted != 0 {
		t.Errorf("Postgres counts %d deadlocks (%v)", counted, err)
	}
	// Whoever takes keys as they come meets deadlocks, and the test sees them.
	if n := collide(t, p, func(tasks []New) error { return once(tasks, 1) }); n == 0 {
		t.Error("no deadlock where keys are taken as they come")
	}
}

// TestDeadlockIsTriedAgain tries what lost, and gives up in the end.
func TestDeadlockIsTriedAgain(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	for _, c := range []struct {
		code        string
		fails, want int
		code2       wire.Code
	}{
		{"40P01", 2, 3, ""}, {"40001", 1, 2, ""}, {"40P01", 100, tries, wire.Unavailable}, {"23505", 100, 1, wire.Internal}, {"23514", 100, 1, wire.Internal},
	} {
		calls := 0
		err := p.do(t.Context(), "try", nil, func(ctx context.Context, conn *pgx.Conn) error {
			if calls++; calls > c.fails {
				return nil
			}
			_, err := conn.Exec(ctx, fmt.Sprintf(`do $$ begin raise exception 'no' using errcode = '%s'; end $$`, c.code))
			return err
		})
		if calls != c.want || err == nil != (c.code2 == "") || err != nil && wire.CodeOf(err) != c.code2 {
			t.Errorf("%s: %d calls, %v", c.code, calls, err)
		}
	}
}

// TestDueGoesOn looks at more names than one look reads.
func TestDueGoesOn(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	run(t, p, `insert into fairlead.task (id, name, run_at) select gen_random_uuid(), 'n' || i, now() + interval '1 day' from generate_series(1, $1) i`, headsRead+100)
	run(t, p, `insert into fairlead.task (id, name) values (gen_random_uuid(), 'z')`)
	r := &rig{Store: p, t: t}
	for range 3 {
		if due := must[[]Due](r)(p.Due(t.Context(), 0, 10)); len(due) == 1 && due[0].Name == "z" {
			return
		}
	}
	t.Error("the last name never came")
}

// TestAway says that Postgres is away, however that shows.
func TestAway(t *testing.T) {
	t.Parallel()
	refused, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=2")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(refused.Close)
	// It takes connections and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	hangs := openPool(t, "postgres://nobody@"+silent.Addr().String()+"/none?sslmode=disable")
	noTables := openPool(t, pgdev.Test(t))
	for name, pool := range map[string]*pgxpool.Pool{"refused": refused, "silent": hangs, "no tables": noTables} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if name == "no tables" {
			ctx, cancel = context.WithCancel(t.Context())
		}
		_, err := NewPostgres(pool, kept).Get(ctx, []wire.TaskID{ids()})
		cancel()
		var coded *wire.Error
		if !errors.As(err, &coded) || coded.Code != wire.Unavailable || coded.Details["what"] != "postgres" {
			t.Errorf("%s: %v, want UNAVAILABLE of postgres", name, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewPostgres(noTables, kept).Get(gone, []wire.TaskID{ids()}); wire.CodeOf(err) != wire.Cancelled {
		t.Errorf("cancelled: %v", err)
	}
}

// TestComesBack goes on after the server stopped and is there again.
func TestComesBack(t *testing.T) {
	t.Parallel()
	server := pgdev.TestServer(t)
	pool := openPool(t, server.URL())
	if err := schema.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	p := NewPostgres(pool, kept)
	ctx, cancel := context.WithCancel(t.Context())
	names := make(chan string, 100)
	done := make(chan error, 1)
	go func() { done <- p.Wakes(ctx, func(name string) { names <- name }) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Wakes: %v", err)
		}
	}()
	heard := func(want string) {
		t.Helper()
		select {
		case name := <-names:
			same(t, "heard", name, want)
		case <-time.After(20 * time.Second):
			t.Fatalf("%q was not heard", want)
		}
	}
	heard("")
	r := &rig{Store: p, t: t}
	must[wire.TaskID](r)(enqueue(t.Context(), pool, `'work'`))
	heard("work")
	same(t, "claimed", len(r.claim(1, "work", 9)), 1)
	server.Stop()
	if _, err := p.Claim(t.Context(), 1, "work", 9, 0, time.Minute); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("stopped: %v, want UNAVAILABLE", err)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	heard("")
	// In one transaction a name is heard once.
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		for _, args := range []string{`'other'`, `'other'`, `'more'`} {
			if _, err := enqueue(t.Context(), tx, args); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	heard("other")
	heard("more")
	same(t, "claimed", len(r.claim(1, "other", 9)), 2)
}

// TestWhoAsksBoundsTheWait has the caller say how long a statement may take, who
// knows how much it carries.
func TestWhoAsksBoundsTheWait(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	left := func(ctx context.Context) (left time.Duration) {
		t.Helper()
		if err := p.do(ctx, "test", nil, func(ctx context.Context, _ *pgx.Conn) error {
			if until, ok := ctx.Deadline(); ok {
				left = time.Until(until)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return left
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if got := left(ctx); got < time.Hour/2 {
		t.Errorf("%s is left of an hour", got)
	}
	if got := left(t.Context()); got <= 0 || got > statementTimeout {
		t.Errorf("%s is left where nobody said anything, want at most %s", got, statementTimeout)
	}
}
