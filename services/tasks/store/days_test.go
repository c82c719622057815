package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// days are the partitions there are.
func days(t *testing.T, p *Postgres) (names []string) {
	t.Helper()
	err := p.do(t.Context(), "days", nil, func(ctx context.Context, conn *pgx.Conn) error {
		return rows(ctx, conn, func(r pgx.Rows) error {
			var name string
			err := r.Scan(&name)
			names = append(names, strings.TrimPrefix(name, "task_done_"))
			return err
		}, `select relname::text from pg_class where relnamespace = 'fairlead'::regnamespace and relkind = 'r' and relname ~ '^task_done_' order by 1`)
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// day is what the partition of a time from now is called, by the database's clock.
func day(t *testing.T, p *Postgres, in time.Duration) (name string) {
	t.Helper()
	if err := p.pool.QueryRow(t.Context(), `select to_char((now() + $1 * interval '1 microsecond') at time zone 'UTC', 'YYYYMMDD')`,
		in.Microseconds()).Scan(&name); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestDaysOnDemand keeps what ends for any time, at once and without a partition
// that was made ahead, also in zones whose days are others.
func TestDaysOnDemand(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	r := &rig{Store: p, t: t}
	run(t, p, fmt.Sprintf(`alter database %q set timezone = 'Pacific/Kiritimati'`, p.pool.Config().ConnConfig.Database))
	p.pool.Reset()
	o := r.join()
	retentions := []time.Duration{0, time.Hour, kept, 7 * kept, 400 * kept}
	together(4, func(i int) {
		var ends []End
		for _, retention := range retentions {
			in, err := p.Insert(t.Context(), o, []New{{ID: ids(), Name: "work", Claim: true, Deadline: time.Minute}})
			if err != nil {
				t.Error(err)
				return
			}
			ends = append(ends, End{Ref: Ref{ID: in[0].ID, Fence: 1}, State: wire.TaskCommitted, Retention: retention + time.Duration(i)*24*time.Hour})
		}
		out, err := p.End(t.Context(), ends)
		if err != nil || slices.ContainsFunc(out, func(o Outcome) bool { return !o.Done }) {
			t.Errorf("End: %v, %v", out, err)
		}
	})
	have := days(t, p)
	for _, retention := range retentions {
		if want := day(t, p, retention); !slices.Contains(have, want) {
			t.Errorf("there are %v, and not %s", have, want)
		}
	}
}

// TestDaysAhead makes the days that will be needed, for every time that something
// is kept.
func TestDaysAhead(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	if err := p.Register(t.Context(), Policy{Name: "long", Retention: 100 * 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	together(3, func(int) {
		if _, err := p.Clean(t.Context(), 10); err != nil {
			t.Error(err)
		}
	})
	have := days(t, p)
	for n := range 8 {
		for _, retention := range []time.Duration{kept, 100 * 24 * time.Hour} {
			if want := day(t, p, retention+time.Duration(n)*24*time.Hour); !slices.Contains(have, want) {
				t.Errorf("there are %v, and not %s", have, want)
			}
		}
	}
	if n := len(have); n > 16 {
		t.Errorf("there are %d days, want 16", n)
	}
}

// TestDaysAreDropped drops days while others write, and while somebody reads them,
// and one whose detaching was cut short.
func TestDaysAreDropped(t *testing.T) {
	t.Parallel()
	p := openPostgres(t)
	r := &rig{Store: p, t: t}
	o := r.join()
	past := []string{day(t, p, -3*24*time.Hour), day(t, p, -2*24*time.Hour), day(t, p, -24*time.Hour)}
	run(t, p, `select fairlead.task_done_make(now() - i * interval '1 day') from generate_series(1, 3) i`)
	run(t, p, `
		insert into fairlead.task_done (id, expires, fence, created_at, run_at, timeout, attempt, failures, crashes, state, priority, steps, name)
		select gen_random_uuid(), now() - i % 3 * interval '1 day' - interval '1 day', 1, now(), now(), 0, 1, 0, 0, 2, 0, false, 'work'
		from generate_series(1, 300) i`)
	// Somebody looks at the history for long: the first is cut short.
	reader, err := p.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Rollback(context.Background()) }() // it may be over
	if _, err := reader.Exec(t.Context(), `select count(*) from fairlead.task_done`); err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool
	var ended atomic.Int64
	together(4, func(i int) {
		if i > 0 {
			for !over.Load() {
				in, err := p.Insert(t.Context(), o, []New{{ID: ids(), Name: "work", Claim: true, Deadline: time.Minute}})
				if err == nil {
					_, err = p.End(t.Context(), []End{{Ref: Ref{ID: in[0].ID, Fence: 1}, State: wire.TaskCommitted, Retention: kept}})
				}
				if err != nil {
					t.Errorf("while days are dropped: %v", err)
					return
				}
				ended.Add(1)
			}
			return
		}
		defer over.Store(true)
		if _, err := p.Clean(t.Context(), 10); err != nil {
			t.Errorf("Clean beside a reader: %v", err)
		}
		if have := days(t, p); !slices.Contains(have, past[0]) {
			t.Errorf("%s is gone, and somebody looks at it", past[0])
		}
		if err := reader.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			if _, err := p.Clean(t.Context(), 10); err != nil {
				t.Errorf("Clean: %v", err)
			}
			if len(slices.DeleteFunc(days(t, p), func(d string) bool { return !slices.Contains(past, d) })) == 0 {
				return
			}
		}
		t.Errorf("days are there: %v", days(t, p))
	})
	if counts := must[wire.TaskCounts](r)(p.Counts(t.Context(), "")); counts.Committed != ended.Load() || ended.Load() == 0 {
		t.Errorf("%d are kept of %d that ended", counts.Committed, ended.Load())
	}
}
