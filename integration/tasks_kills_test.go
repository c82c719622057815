package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// sinkSQL is where effects happen: one sink has each key once, one takes no effect
// with a fence that is not above the last, and one counts whatever comes.
const sinkSQL = `
	create table effect (key text primary key, task text not null, fence bigint not null);
	create table latest (task text primary key, fence bigint not null);
	create table accepted (n bigserial, task text not null, fence bigint not null);
	create table tried (task text not null, fence bigint not null);
	create function have(of text, its text, with_fence bigint) returns boolean language plpgsql as $$
	begin
		insert into tried values (of, with_fence);
		insert into effect values (its, of, with_fence) on conflict do nothing;
		insert into latest as l values (of, with_fence) on conflict (task) do update set fence = excluded.fence where l.fence < excluded.fence;
		if found then
			insert into accepted (task, fence) values (of, with_fence);
		end if;
		return found;
	end $$`

// unfencedSQL takes every effect.
var unfencedSQL = strings.Replace(sinkSQL, "where l.fence < excluded.fence", "", 1)

// zombies is one in how many tasks whose first attempt is given up and goes on.
const zombies = 20

// sinking returns what an actor does with tasks whose input is their number.
func sinking(f *fairlead.Fairlead, url string) (func(context.Context, *fairlead.Attempt, string) (json.RawMessage, error), error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, a *fairlead.Attempt, kind string) (json.RawMessage, error) {
		if kind == "zombie" && a.Number() == 1 {
			// It works on for as long as that takes, whatever becomes of its attempt.
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), patience/2)
			defer cancel()
			if _, err := f.Tasks().Takeover(ctx, a.ID()); err != nil {
				return nil, err
			}
			if err := overtaken(ctx, pool, a); err != nil {
				return nil, err
			}
		}
		if _, err := pool.Exec(ctx, `select have($1, $2, $3)`, a.ID(), a.IdempotencyKey(), a.Fence()); err != nil {
			return nil, err
		}
		return json.RawMessage(result(a.Fence())), nil
	}, nil
}

// overtaken waits until a later attempt has had its effect.
func overtaken(ctx context.Context, pool *pgxpool.Pool, a *fairlead.Attempt) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var later bool
		if err := pool.QueryRow(ctx, `select exists (select from latest where task = $1 and fence > $2)`, a.ID(), a.Fence()).Scan(&later); err != nil || later {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Workers and replicas are killed again and again while they work, NATS and
// Postgres once each. Every task ends, with the result of its last attempt, and its
// effects are as the documentation promises.
func TestTasksWhileEverybodyIsKilled(t *testing.T) {
	t.Parallel()
	tasks := 10_000
	if raceEnabled {
		tasks = 2_000
	}
	k := startKills(t, sinkSQL, 3, 3)
	k.enqueueAll(tasks)
	worker, replica := func() {
		i := rand.N(len(k.workers))
		k.workers[i].kill()
		k.workers[i] = k.employ()
	}, func() {
		i := rand.N(len(k.replicas))
		k.replicas[i].kill()
		k.replicas = append(k.replicas[:i], k.replicas[i+1:]...)
		k.launch("FAIRLEAD_TASKS_OWNER_LEASE=5s")
	}
	faults := []func(){worker, replica, worker, k.restartNATS, worker, replica, worker, k.restartPostgres, replica, worker, replica}
	for i, fault := range faults {
		k.progress(tasks * (i + 1) / (len(faults) + 2))
		fault()
	}
	k.enqueuing.Wait()
	k.progress(tasks)
	r := k.ends(tasks)
	wrong := r.check()
	for _, w := range wrong[:min(len(wrong), 20)] {
		t.Error(w)
	}
	tried := number(t, k.sink, `select count(*) from tried`)
	stale := tried - len(r.accepted)
	t.Logf("%d tasks, %d effects were tried, %d refused, %d events", tasks, tried, stale, len(r.events))
	if stale == 0 || tried <= tasks {
		t.Errorf("%d tasks, %d effects were tried, %d refused: nobody was in the way of another", tasks, tried, stale)
	}
}

// A sink that takes what comes has effects of attempts that were given up, and the
// checker sees them.
func TestTheCheckerOfTasksSeesASinkWithoutFences(t *testing.T) {
	t.Parallel()
	const tasks = 2 * zombies
	k := startKills(t, unfencedSQL, 1, 2)
	k.enqueueAll(tasks)
	k.enqueuing.Wait()
	k.progress(tasks)
	eventually(t, "those that were given up have had their effects", func() (any, bool) {
		n := number(t, k.sink, `select count(*) from tried`)
		return n, n >= tasks+2
	})
	seen := 0
	for _, wrong := range k.ends(tasks).check() {
		if strings.Contains(wrong, "came behind that of") {
			seen++
		}
	}
	if seen != 2 {
		t.Errorf("%d effects were seen that came too late, want 2", seen)
	}
}

// kills is a stack, its workers and the sink of their effects.
type kills struct {
	*taskStack
	server  *natsdev.Server
	pg      *pgdev.Server
	sinkURL string
	sink    *pgxpool.Pool
	name    string
	workers []*process

	enqueuing sync.WaitGroup
	mu        sync.Mutex // guards what follows
	enqueued  map[string]string
	events    []endedTask
}

func startKills(t *testing.T, sink string, replicas, workers int) *kills {
	t.Helper()
	k := &kills{server: natsdev.Test(t), pg: pgdev.TestServer(t), sinkURL: pgdev.Test(t), name: taskName("crowd"), enqueued: map[string]string{}}
	// What it has acknowledged outlives a kill, if not a power cut.
	runSQL(t, k.pg.URL(), `alter database postgres set synchronous_commit = on`)
	runSQL(t, k.sinkURL, sink)
	var err error
	k.sink, err = pgxpool.New(t.Context(), k.sinkURL)
	must(t, err)
	t.Cleanup(k.sink.Close)
	k.taskStack = bareTasksOn(t, k.server.ClientURL(), k.pg.URL())
	for range replicas {
		k.launch("FAIRLEAD_TASKS_OWNER_LEASE=5s")
	}
	k.answer(replicas)
	askTasks[struct{}](k.taskStack, "register", `{"name":"`+k.name+`","timeout":"10s","maxCrashes":50,"retry":{"maxAttempts":50,"backoff":"50ms","maxBackoff":"500ms"}}`)
	_, err = k.nc.Subscribe("fl.event.task.>", k.heardEvent)
	must(t, err)
	flush(t, k.nc)
	for range workers {
		k.workers = append(k.workers, k.employ())
	}
	return k
}

func (k *kills) heardEvent(m *nats.Msg) {
	var e struct {
		ID      string
		Attempt int
	}
	state, _, _ := strings.Cut(strings.TrimPrefix(m.Subject, "fl.event.task."), ".")
	if err := json.Unmarshal(m.Data, &e); err != nil {
		k.t.Errorf("%s: %v", m.Subject, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events = append(k.events, endedTask{id: e.ID, state: wire.TaskState(state), attempt: e.Attempt})
}

func (k *kills) employ() *process {
	k.t.Helper()
	return k.startActor(k.name, time.Second, "SINK="+k.sinkURL, "SLOTS=32")
}

// enqueueAll begins to ask for tasks, each until it is there.
func (k *kills) enqueueAll(tasks int) {
	f := fairlead.New(k.worker(), fairlead.Options{})
	k.t.Cleanup(f.Close)
	numbers := make(chan int)
	for range 16 {
		k.enqueuing.Go(func() {
			for i := range numbers {
				k.enqueueOne(f, i)
			}
		})
	}
	k.enqueuing.Go(func() {
		defer close(numbers)
		for i := range tasks {
			numbers <- i
		}
	})
}

func (k *kills) enqueueOne(f *fairlead.Fairlead, i int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	key, kind := fmt.Sprint("key", i), "plain"
	if i%zombies == 1 {
		kind = "zombie"
	}
	for {
		done, err := f.Tasks().Enqueue(ctx, k.name, kind, fairlead.EnqueueOptions{IdempotencyKey: key})
		if err == nil {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.enqueued[key] = done.ID
			return
		}
		if ctx.Err() != nil {
			k.t.Errorf("enqueue %d: %v", i, err)
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// progress waits until so many tasks have had an effect.
func (k *kills) progress(tasks int) {
	k.t.Helper()
	k.advances(fmt.Sprint(tasks, " tasks have had an effect"), tasks, func() (int, error) {
		return number(k.t, k.sink, `select count(*) from latest`), nil
	})
}

// advances waits until a number is reached, for as long as it grows.
func (k *kills) advances(what string, want int, now func() (int, error)) {
	k.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	last, since := -1, time.Now()
	for {
		n, err := now()
		switch {
		case err == nil && n >= want:
			return
		case err == nil && n > last:
			last, since = n, time.Now()
		case time.Since(since) > patience:
			k.t.Fatalf("never: %s; it stays at %d, %v", what, last, err)
		}
		<-tick.C
	}
}

func (k *kills) restartNATS() {
	k.t.Helper()
	k.server.Shutdown()
	must(k.t, k.server.Restart())
}

func (k *kills) restartPostgres() {
	k.t.Helper()
	killPostgres(k.t, k.pg)
	eventually(k.t, "Postgres is back", func() (any, bool) {
		err := k.pg.Restart()
		return err, err == nil
	})
}

// ends waits for the end of all tasks and returns what is known of the run.
func (k *kills) ends(tasks int) *taskRecord {
	k.t.Helper()
	k.advances("all tasks have ended", tasks, func() (int, error) { return k.look(`select count(*) from fairlead.task_done`) })
	flush(k.t, k.nc)
	k.mu.Lock()
	defer k.mu.Unlock()
	r := &taskRecord{enqueued: k.enqueued, events: k.events}
	ctx := within(k.t)
	conn, err := pgx.Connect(ctx, k.db)
	must(k.t, err)
	defer conn.Close(ctx)
	states := map[int16]wire.TaskState{2: wire.TaskCommitted, 3: wire.TaskFailed, 4: wire.TaskCancelled, 5: wire.TaskDead}
	r.ended = rowsOf(k.t, conn, `select id, state, attempt, fence, coalesce(result::text, '') from fairlead.task_done`, func(row pgx.CollectableRow) (e endedTask, err error) {
		var id [16]byte
		var state int16
		err = row.Scan(&id, &state, &e.attempt, &e.fence, &e.result)
		e.id, e.state = wire.TaskID(id).String(), states[state]
		return e, err
	})
	r.live = rowsOf(k.t, conn, `select id from fairlead.task`, func(row pgx.CollectableRow) (string, error) {
		var id [16]byte
		err := row.Scan(&id)
		return wire.TaskID(id).String(), err
	})
	byTask := func(row pgx.CollectableRow) (e effect, err error) {
		err = row.Scan(&e.task, &e.key, &e.fence)
		return e, err
	}
	r.effects = rowsOf(k.t, k.sink, `select task, key, fence from effect`, byTask)
	r.accepted = rowsOf(k.t, k.sink, `select task, '', fence from accepted order by n`, byTask)
	return r
}

// rowsOf reads all rows of a query.
func rowsOf[T any](t *testing.T, from interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
}, query string, read pgx.RowToFunc[T]) []T {
	t.Helper()
	rows, err := from.Query(within(t), query)
	must(t, err)
	got, err := pgx.CollectRows(rows, read)
	must(t, err)
	return got
}

func number(t *testing.T, from *pgxpool.Pool, query string) int {
	t.Helper()
	return rowsOf(t, from, query, pgx.RowTo[int])[0]
}
