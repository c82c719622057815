package tasks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// state is an answer of Postgres that is an error.
func state(code string) error {
	return fmt.Errorf("claim: %w", &pgconn.PgError{Code: code})
}

func TestWhatPostgresAnswers(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{store.ErrNotFound, true},
		{fmt.Errorf("cancel: %w", store.ErrState), true},
		{store.ErrOwner, true},
		{wire.Errorf(wire.AlreadyExists, "the key"), true},
		{wire.Errorf(wire.Unavailable, "away"), false},
		{state("22P05"), true}, // what somebody sent: no reason to refuse the others
		{state("23505"), true},
		{state("54001"), true},
		{state("57P01"), false},
		{state("53300"), false},
		{state("25006"), false},
		{io.ErrUnexpectedEOF, false},
		{context.DeadlineExceeded, false},
	} {
		if got := answered(tt.err); got != tt.want {
			t.Errorf("%v: answered %v, want %v", tt.err, got, tt.want)
		}
	}
}

func TestPostgresIsNotAskedBeforeItsTablesAreThere(t *testing.T) {
	p := newPostgres(nil)
	refused := func() {
		t.Helper()
		err := p.do(t.Context(), time.Second, func(context.Context) error { t.Error("it was asked"); return nil })
		if e := wire.AsError(err); e.Code != wire.Unavailable || e.Details["what"] != "postgres" || e.Details["outcome"] != "none" {
			t.Errorf("got %v %v, want UNAVAILABLE, what: postgres, outcome: none", e, e.Details)
		}
	}
	refused()
	p.there.Store(true)
	if err := p.ask(t.Context(), time.Second, func(context.Context) error { return state("42P01") }); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("a table of another release: %v, want UNAVAILABLE", err)
	}
	if !p.there.Load() {
		t.Error("a part that lacks its table says nothing of the others")
	}
	if err := p.do(t.Context(), time.Second, func(context.Context) error { return state("42P01") }); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("tables that are gone: %v, want UNAVAILABLE", err)
	}
	refused()
}

func TestTablesAreLookedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		p := newPostgres(nil)
		var asked atomic.Int32
		var found atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.keepTables(ctx, slog.New(slog.DiscardHandler), func(context.Context) error {
				asked.Add(1)
				if !found.Load() {
					return io.EOF
				}
				return nil
			})
		}()
		time.Sleep(time.Second) // of the bubble
		if synctest.Wait(); p.there.Load() || asked.Load() < 3 {
			t.Errorf("asked %d times, there %v, want again and again", asked.Load(), p.there.Load())
		}
		found.Store(true)
		time.Sleep(time.Second)
		if synctest.Wait(); !p.there.Load() {
			t.Error("the tables were not found")
		}
		was := asked.Load()
		time.Sleep(time.Hour)
		if synctest.Wait(); asked.Load() != was {
			t.Error("what is there is not looked for")
		}
		_ = p.do(ctx, time.Second, func(context.Context) error { return state("3F000") }) // its error is another test's
		if synctest.Wait(); asked.Load() == was || !p.there.Load() {
			t.Error("a schema that is gone was not made again")
		}
		stop()
		<-done
	})
}

func TestPostgresThatIsAwayIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPostgres(nil)
		p.there.Store(true)
		fails := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		for range breaker.Failures {
			began := time.Now()
			err := p.do(t.Context(), time.Second, fails)
			if e := wire.AsError(err); e.Code != wire.Unavailable || e.Details["outcome"] != "unknown" || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
				t.Errorf("got %v after %s, want UNAVAILABLE after 1s", err, time.Since(began))
			}
		}
		called := false
		if err := p.do(t.Context(), time.Second, func(context.Context) error { called = true; return nil }); wire.CodeOf(err) != wire.Unavailable || called {
			t.Errorf("a broken one: %v, asked %v", err, called)
		}
		// Who keeps a lease asks all the same, and what it hears counts for everybody.
		if err := p.try(t.Context(), time.Second, func(context.Context) error { return store.ErrOwner }); !errors.Is(err, store.ErrOwner) {
			t.Errorf("a renewal: %v, want the store's answer", err)
		}
		if err := p.do(t.Context(), time.Second, func(context.Context) error { return nil }); err != nil {
			t.Errorf("after an answer: %v", err)
		}
		// Callers who give up say nothing of Postgres.
		for range 2 * breaker.Failures {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_ = p.do(ctx, time.Second, fails) // how it fails is of no interest here
			cancel()
		}
		if got := p.breaker.State(); got != breaker.Healthy {
			t.Errorf("after callers that gave up it is %s", got)
		}
	})
}
