package fairleadtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/fairleadtest"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Postgres goes away while an attempt runs: the attempt goes on, its result is
// stored when Postgres is back, and meanwhile nothing is promised.
func TestTasksWithoutTheirPostgres(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Tasks: true})
	f := s.Fairlead()
	began, finish := make(chan bool, 10), make(chan bool)
	_, err := fairlead.Work(f, "order", func(ctx context.Context, a *fairlead.Attempt, in int) (int, error) {
		began <- true
		<-finish
		return in + 1, ctx.Err()
	}, fairlead.WorkOptions{Lease: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	done, err := f.Tasks().Enqueue(t.Context(), "order", 1, fairlead.EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-began
	s.CutPostgres()
	fairleadtest.Eventually(t, "nothing can be enqueued", func() bool {
		_, err := f.Tasks().Enqueue(t.Context(), "order", 1, fairlead.EnqueueOptions{Unkeyed: true, Delay: time.Hour})
		return errors.Is(err, wire.ErrUnavailable)
	})
	close(finish)
	s.RestorePostgres()
	if got, err := fairlead.Await[int](t.Context(), f, done.ID); err != nil || got != 2 {
		t.Errorf("got %d, %v, want 2", got, err)
	}
	if len(began) > 0 {
		t.Errorf("%d more attempts began", len(began))
	}
}
