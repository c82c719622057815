package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Each reports tasks/s; the cluster does not wait for its disk.

func batches(b *testing.B, run func(b *testing.B, p *Postgres, n int)) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := openPostgres(b)
			if _, err := p.Clean(b.Context(), 1); err != nil { // it makes the days
				b.Fatal(err)
			}
			b.ReportAllocs()
			run(b, p, n)
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
		})
	}
}

func newTasks(n int, like New) []New {
	tasks := make([]New, n)
	for i := range tasks {
		tasks[i] = like
		tasks[i].ID, tasks[i].Name, tasks[i].Input = wire.NewTaskID(time.Now()), "work", []byte(`{"to":"somebody@example.org","subject":"hello"}`)
		if like.IdempotencyKey != "" {
			tasks[i].IdempotencyKey = tasks[i].ID.String()
		}
	}
	return tasks
}

func insertAll(b *testing.B, p *Postgres, tasks []New) {
	b.Helper()
	if _, err := p.Insert(b.Context(), 1, tasks); err != nil {
		b.Fatal(err)
	}
}

func endAll(b *testing.B, p *Postgres, attempts []Attempt) {
	b.Helper()
	ends := make([]End, len(attempts))
	for i, a := range attempts {
		ends[i] = End{Ref: Ref{ID: a.ID, Fence: a.Fence}, State: wire.TaskCommitted, Result: []byte(`{"ok":true}`), Retention: kept}
	}
	if _, err := p.End(b.Context(), ends); err != nil {
		b.Fatal(err)
	}
}

func claimAll(b *testing.B, p *Postgres, n int) []Attempt {
	b.Helper()
	attempts, err := p.Claim(b.Context(), 1, "work", n, 0, time.Minute)
	if err != nil || len(attempts) != n {
		b.Fatalf("claimed %d of %d: %v", len(attempts), n, err)
	}
	return attempts
}

func BenchmarkInsert(b *testing.B) {
	batches(b, func(b *testing.B, p *Postgres, n int) {
		for b.Loop() {
			insertAll(b, p, newTasks(n, New{}))
		}
	})
}

func BenchmarkInsertKeyed(b *testing.B) {
	batches(b, func(b *testing.B, p *Postgres, n int) {
		for b.Loop() {
			insertAll(b, p, newTasks(n, New{IdempotencyKey: "k"}))
		}
	})
}

// BenchmarkClaim claims out of a backlog that stays as large as it is.
func BenchmarkClaim(b *testing.B) {
	batches(b, func(b *testing.B, p *Postgres, n int) {
		insertAll(b, p, newTasks(20_000, New{}))
		for b.Loop() {
			attempts := claimAll(b, p, n)
			b.StopTimer()
			endAll(b, p, attempts)
			insertAll(b, p, newTasks(n, New{}))
			b.StartTimer()
		}
	})
}

func BenchmarkEnd(b *testing.B) {
	batches(b, func(b *testing.B, p *Postgres, n int) {
		for b.Loop() {
			b.StopTimer()
			insertAll(b, p, newTasks(n, New{}))
			attempts := claimAll(b, p, n)
			b.StartTimer()
			endAll(b, p, attempts)
		}
	})
}

// BenchmarkThrough has tasks stored running and ended: all that one that works
// costs the store.
func BenchmarkThrough(b *testing.B) {
	batches(b, func(b *testing.B, p *Postgres, n int) {
		for b.Loop() {
			tasks := newTasks(n, New{Claim: true, Deadline: time.Minute})
			insertAll(b, p, tasks)
			attempts := make([]Attempt, n)
			for i := range tasks {
				attempts[i] = Attempt{ID: tasks[i].ID, Fence: 1}
			}
			endAll(b, p, attempts)
		}
	})
}
