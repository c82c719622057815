package integration

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver of database/sql

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// What a transaction enqueues is there if it commits; what it completes is done
// with its effect.
func sdkTransaction(t *testing.T, s *taskStack, f *fairlead.Fairlead) {
	ownProcesses(t) // and their database
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	name := taskName("pay")
	db, err := pgx.Connect(ctx, s.db)
	must(t, err)
	defer db.Close(ctx)
	_, err = db.Exec(ctx, `create table paid (task text not null)`)
	must(t, err)
	var lost atomic.Bool
	returned := make(chan bool, 10)
	works(t, f, name, fairlead.WorkOptions{Lease: 1500 * time.Millisecond}, func(ctx context.Context, a *fairlead.Attempt, in string) (string, error) {
		conn, err := pgx.Connect(ctx, s.db)
		if err != nil {
			return "", err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		tx, err := conn.Begin(ctx)
		if err != nil {
			return "", err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // behind a commit it does nothing
		if _, err := tx.Exec(ctx, `insert into paid values ($1)`, a.ID()); err != nil {
			return "", err
		}
		if in == "taken" && a.Number() == 1 {
			if _, err := f.Tasks().Takeover(context.WithoutCancel(ctx), a.ID()); err != nil {
				return "", err
			}
			err := fairlead.CompleteTx(context.WithoutCancel(ctx), tx, a, "paid")
			lost.Store(errors.Is(err, fairlead.ErrFenceLost))
			return "", err
		}
		if err := fairlead.CompleteTx(ctx, tx, a, "paid"); err != nil {
			return "", err
		}
		if err := tx.Commit(ctx); err != nil {
			return "", err
		}
		select { // beats are answered behind the commit too
		case <-ctx.Done():
			t.Errorf("behind the commit the context ended with %v", context.Cause(ctx))
		case <-time.After(time.Second):
		}
		returned <- true
		return "paid", nil
	})
	tx, err := db.Begin(ctx)
	must(t, err)
	id, err := fairlead.EnqueueTx(ctx, tx, name, "rolled back", fairlead.EnqueueOptions{})
	must(t, err)
	must(t, tx.Rollback(ctx))
	if _, err := f.Tasks().Get(ctx, id); !errors.Is(err, wire.ErrNotFound) {
		t.Errorf("what was rolled back: %v", err)
	}
	for _, in := range []string{"paid", "taken"} {
		if tx, err = db.Begin(ctx); err != nil {
			t.Fatal(err)
		}
		id, err = fairlead.EnqueueTx(ctx, tx, name, in, fairlead.EnqueueOptions{IdempotencyKey: in, Priority: 3, Timeout: 20 * time.Second, Delay: time.Millisecond, Metadata: sum{1, 2}})
		must(t, err)
		must(t, tx.Commit(ctx))
		if got, err := fairlead.Await[string](ctx, f, id); err != nil || got != "paid" {
			t.Errorf("%s: got %q, %v", in, got, err)
		}
		receive(t, returned)
		if n, err := s.look(`select count(*) from paid where task = $1`, id); err != nil || n != 1 {
			t.Errorf("%s: paid %d times, %v", in, n, err)
		}
		if task := s.task(id); task.Priority != 3 || task.IdempotencyKey != in || strings.ReplaceAll(string(task.Metadata), " ", "") != `{"A":1,"B":2}` {
			t.Errorf("%s: the task is %+v", in, task)
		}
	}
	if !lost.Load() {
		t.Error("a transaction completed an attempt that was taken over")
	}
	if _, err := fairlead.EnqueueTx(ctx, db, "a b", nil, fairlead.EnqueueOptions{}); !errors.Is(err, wire.ErrInvalidArgument) {
		t.Errorf("a name that is none: %v", err)
	}
}

func sdkSQL(t *testing.T, s *taskStack, f *fairlead.Fairlead) {
	ownProcesses(t) // and their database
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	name := taskName("sql")
	db, err := sql.Open("pgx", s.db)
	must(t, err)
	defer db.Close()
	works(t, f, name, fairlead.WorkOptions{}, func(ctx context.Context, a *fairlead.Attempt, in sum) (int, error) {
		return in.A, fairlead.CompleteSQLTx(ctx, db, a, in.A)
	})
	tx, err := db.BeginTx(ctx, nil)
	must(t, err)
	id, err := fairlead.EnqueueSQLTx(ctx, tx, name, sum{A: 5}, fairlead.EnqueueOptions{RunAt: time.Now().Add(-time.Minute)})
	must(t, err)
	must(t, tx.Commit())
	if got, err := fairlead.Await[int](ctx, f, id); err != nil || got != 5 {
		t.Errorf("got %d, %v", got, err)
	}
}
