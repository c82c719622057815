package store

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// enqueue calls the SQL function with arguments as they stand in SQL.
func enqueue(ctx context.Context, q querier, args string) (id wire.TaskID, err error) {
	err = q.QueryRow(ctx, "select fairlead.enqueue("+args+")").Scan((*[16]byte)(&id))
	return id, err
}

// TestEnqueueInSQL stores tasks in transactions of their callers.
func TestEnqueueInSQL(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	r := &rig{Store: p, t: t}
	o := r.join()
	add := func(args string) wire.TaskID {
		t.Helper()
		return must[wire.TaskID](r)(enqueue(t.Context(), p.pool, args))
	}
	id := add(`'mail.send', '{"to": 1}', idempotency_key => 'k', unique_key => 'u', priority => 7, timeout_ms => 1500, metadata => '{"m":1}'`)
	if id[6]>>4 != 7 || id[8]>>6 != 2 {
		t.Errorf("the id is %x, want a UUID of version 7", id)
	}
	task := r.is(id, wire.TaskPending, 0)
	same(t, "task", words(task.Name, string(task.Input), task.IdempotencyKey, task.UniqueKey, task.Priority, string(task.Metadata)), `mail.send {"to": 1} k u 7 {"m":1}`)
	if made := time.UnixMilli(int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 | int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5])); made.Sub(task.CreatedAt).Abs() > time.Minute {
		t.Errorf("the id is of %v, the task of %v", made, task.CreatedAt)
	}
	same(t, "timeout", r.claim(o, "mail.send", 1)[0].Timeout, 1500*time.Millisecond)
	same(t, "by its key", add(`'mail.send', idempotency_key => 'k'`), id)
	same(t, "by the other", add(`'mail.send', unique_key => 'u', idempotency_key => 'l'`), id)
	same(t, "as the service says", r.insert(o, New{Name: "mail.send", IdempotencyKey: "k"})[0], Inserted{ID: id, Existing: true})
	if other := add(`'mail.send', idempotency_key => 'l'`); other == id {
		t.Error("a key is another's after all")
	}
	plain := add(`'plain'`)
	same(t, "no input", string(r.get(plain).Input), "null")
	later := add(`'plain', run_at => now() + interval '1 hour'`)
	equal(t, "due", idsOf(r.claim(o, "plain", 9)), []wire.TaskID{plain})
	r.is(later, wire.TaskPending, 0)

	// With the transaction all of it is taken back.
	var gone wire.TaskID
	undo := errors.New("undo")
	if err := pgx.BeginFunc(t.Context(), p.pool, func(tx pgx.Tx) (err error) {
		if gone, err = enqueue(t.Context(), tx, `'undone', unique_key => 'u'`); err != nil {
			return err
		}
		return undo
	}); !errors.Is(err, undo) {
		t.Fatal(err)
	}
	if r.get(gone) != nil {
		t.Error("the transaction was taken back, and the task is there")
	}
	if in := r.insert(o, New{Name: "undone", UniqueKey: "u"})[0]; in.Existing {
		t.Error("the transaction was taken back, and the key is taken")
	}
	for _, args := range []string{
		`''`, `null`, `'a b'`, `'.a'`, `'a..b'`, `'1a'`, `repeat('a', 129)`, `'a', idempotency_key => ''`, `'a', unique_key => repeat('x', 257)`,
		`'a', priority => 101`, `'a', timeout_ms => 9`, `'a', timeout_ms => 604800001`, `'a', idempotency_key => E'a\nb'`, `'a', idempotency_key => ' a'`,
		`'a', idempotency_key => 'a '`, `'a', unique_key => E'\x7f'`, `'a', run_at => 'infinity'`, `'a', run_at => '-infinity'`,
		`'a', run_at => '0044-03-15 BC'`, `'a', run_at => now() + interval '367 days'`, `'a', metadata => '[]'`, `'a', ('"' || repeat('x', 600000) || '"')::json`,
	} {
		var state *pgconn.PgError
		if _, err := enqueue(t.Context(), p.pool, args); !errors.As(err, &state) || state.Code != "22023" {
			t.Errorf("enqueue(%.40s): %v, want 22023", args, err)
		}
	}
}

// TestATimeThatCannotBeCountedTo has a task whose time is never, which is refused,
// and hides no other where it is there all the same.
func TestATimeThatCannotBeCountedTo(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	r := &rig{Store: p, t: t}
	r.put(0, New{Name: "innocent"})
	const add = `insert into fairlead.task (id, name, run_at) select gen_random_uuid(), n, r::timestamptz
		from (values ('never', 'infinity'), ('ever', '-infinity')) v (n, r)`
	var state *pgconn.PgError
	if _, err := p.pool.Exec(t.Context(), add); !errors.As(err, &state) || state.Code != "23514" {
		t.Errorf("a task of no time is stored: %v", err)
	}
	run(t, p, `alter table fairlead.task drop constraint task_run_at_check`)
	run(t, p, add)
	due := must[[]Due](r)(p.Due(t.Context(), time.Second, 9))
	slices.SortFunc(due, func(a, b Due) int { return strings.Compare(a.Name, b.Name) })
	equal(t, "due", due, []Due{{Name: "ever"}, {Name: "innocent"}})
	n, oldest, err := p.Depth(t.Context())
	if err != nil || n != 2 || oldest < time.Hour {
		t.Errorf("Depth = %d, %s, %v, want 2, and one that waits for long", n, oldest, err)
	}
}

// TestEnqueueWaitsForKey has SQL and the service want one key at once: who comes
// second learns what became of the first.
func TestEnqueueWaitsForKey(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	r := &rig{Store: p, t: t}
	o := r.join()
	for _, commits := range []bool{true, false} {
		tx, err := p.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.Background()) }() // it may be over
		first := must[wire.TaskID](r)(enqueue(t.Context(), tx, `'work', unique_key => 'u'`))
		second := make(chan Inserted, 1)
		go func() {
			in, err := p.Insert(t.Context(), o, []New{{ID: ids(), Name: "work", UniqueKey: "u"}})
			if err != nil {
				t.Error(err)
				in = make([]Inserted, 1)
			}
			second <- in[0]
		}()
		waitBlocked(t, p)
		if commits {
			err = tx.Commit(t.Context())
		} else {
			err = tx.Rollback(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		in := <-second
		same(t, "it exists", in.Existing, commits)
		same(t, "it is the first", in.ID == first, commits)
		must[*wire.Task](r)(p.Cancel(t.Context(), in.ID, 0, kept))
	}
}

// waitBlocked waits until a statement waits for a lock.
func waitBlocked(t *testing.T, p *Postgres) {
	t.Helper()
	eventually(t, func() bool {
		var blocked bool
		err := p.pool.QueryRow(t.Context(), `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`).Scan(&blocked)
		return err == nil && blocked
	})
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass")
		}
	}
}

// TestCompleteInSQL commits results in transactions of workers.
func TestCompleteInSQL(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	r := &rig{Store: p, t: t}
	o := r.join()
	complete := func(q querier, ref Ref, result string) error {
		_, err := q.Exec(t.Context(), `select fairlead.complete($1, $2, $3)`, uuid(ref.ID), ref.Fence, result)
		return err
	}
	ref := r.start(o, New{IdempotencyKey: "k", UniqueKey: "u", Input: []byte("1")})
	must[[]byte](r)(p.Step(t.Context(), ref, "s", []byte("1")))
	refused := func(when, code string, ref Ref) {
		t.Helper()
		var state *pgconn.PgError
		if err := complete(p.pool, ref, "1"); !errors.As(err, &state) || state.Code != code {
			t.Errorf("%s: %v, want %s", when, err, code)
		}
	}
	refused("a greater fence", "FL001", Ref{ID: ref.ID, Fence: 2})
	refused("unknown", "FL001", Ref{ID: ids(), Fence: 1})
	refused("pending", "FL001", Ref{ID: r.put(o, New{})[0], Fence: 0})
	undo := errors.New("undo")
	if err := pgx.BeginFunc(t.Context(), p.pool, func(tx pgx.Tx) error { return errors.Join(complete(tx, ref, "1"), undo) }); !errors.Is(err, undo) {
		t.Fatal(err)
	}
	r.is(ref.ID, wire.TaskRunning, 1)
	if err := complete(p.pool, ref, `{"r": 1}`); err != nil {
		t.Fatal(err)
	}
	task := r.is(ref.ID, wire.TaskCommitted, 1)
	same(t, "committed", words(string(task.Result), task.Input == nil, task.FinishedAt.IsZero()), `{"r": 1} true false`)
	refused("once more", "FL002", ref)
	same(t, "by its key", r.insert(o, New{IdempotencyKey: "k"})[0], Inserted{ID: ref.ID, Existing: true})
	if in := r.insert(o, New{UniqueKey: "u"})[0]; in.Existing {
		t.Error("it has ended, and its unique key is taken")
	}
	same(t, "steps", count(t, p, "task_step"), 0)

	// It is kept as long as its name says, else as long as the service does.
	if err := p.Register(t.Context(), Policy{Name: "long", Retention: 50 * 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	long := r.start(o, New{Name: "long"})
	if err := complete(p.pool, long, "1"); err != nil {
		t.Fatal(err)
	}
	have := days(t, p)
	for _, want := range []string{day(t, p, kept), day(t, p, 50*24*time.Hour)} {
		if !slices.Contains(have, want) {
			t.Errorf("the days are %v, and not %s", have, want)
		}
	}

	// The attempt that was given up takes what its worker wrote with it.
	stale := r.start(o, New{})
	r.back(Back{Ref: stale})
	run(t, p, `create table effect (n int)`)
	if err := pgx.BeginFunc(t.Context(), p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `insert into effect values (1)`); err != nil {
			return err
		}
		return complete(tx, stale, "1")
	}); err == nil {
		t.Error("an attempt that was given up was committed")
	}
	var effects int
	if err := p.pool.QueryRow(t.Context(), `select count(*) from effect`).Scan(&effects); err != nil || effects != 0 {
		t.Errorf("%d effects (%v), want none", effects, err)
	}
}

func count(t *testing.T, p *Postgres, table string) (n int) {
	t.Helper()
	if err := p.pool.QueryRow(t.Context(), "select count(*) from fairlead."+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestWhatPostgresRefuses stores texts and documents that Postgres does not take:
// they must not take with them what they came with.
func TestWhatPostgresRefuses(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	r := &rig{Store: p, t: t}
	o := r.join()
	in := r.insert(o, New{Name: "w\x00ork", Input: []byte("\"\xff\""), IdempotencyKey: "\xff\x00", Trace: "\xff", Metadata: []byte("{\"\xff\":1}")},
		New{IdempotencyKey: "k\xff"}, New{})
	same(t, "work", len(r.claim(o, "work", 9)), 3)
	ends := make([]End, len(in))
	for i := range in {
		ends[i] = End{Ref: Ref{ID: in[i].ID, Fence: 1}, State: wire.TaskFailed, Result: []byte("\"\xfe\\u0000\\ud800\""),
			Error: &wire.TaskError{Code: "\xff", Message: "\x00", Details: json.RawMessage("{no")}}
	}
	for i, out := range r.end(ends...) {
		same(t, words("outcome", i), out.Done, true)
	}
	same(t, "details", r.get(in[0].ID).Error.Details == nil, true)
}
