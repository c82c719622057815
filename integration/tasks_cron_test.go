package integration

import (
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Each tick of a schedule is one task, with three replicas of which one is killed:
// none is left out, none comes twice.
func TestCronFiresEachTickOnce(t *testing.T) {
	t.Parallel()
	s := bareTasks(t, 3)
	var mu sync.Mutex
	var ticks []time.Time
	tasks := map[string]bool{} // an attempt of one that is known is no tick more
	s.serves("tick", func(m *nats.Msg) string {
		var of wire.CronMetadata
		if err := json.Unmarshal([]byte(m.Header.Get(wire.HeaderTaskMetadata)), &of); err != nil || of.Cron != "each-second" {
			t.Errorf("metadata %q, %v, want that of each-second", m.Header.Get(wire.HeaderTaskMetadata), err)
		}
		at, err := time.Parse(time.RFC3339Nano, of.At)
		if err != nil || string(m.Data) != `{"n": 1}` {
			t.Errorf("tick %q with input %s", of.At, m.Data)
		}
		mu.Lock()
		defer mu.Unlock()
		if id := m.Header.Get(wire.HeaderTaskID); !tasks[id] {
			tasks[id] = true
			ticks = append(ticks, at)
		}
		return "1"
	})
	seen := func(n int) {
		t.Helper()
		eventually(t, "the schedule has ticked", func() (any, bool) {
			mu.Lock()
			defer mu.Unlock()
			return len(ticks), len(ticks) >= n
		})
	}
	set := askTasks[wire.TaskCronState](s, "cron.set", `{"name":"each-second","spec":"@every 1s","task":"tick","input":{"n": 1},"missed":"all","timeout":"5s"}`)
	seen(2)
	s.replicas[0].kill()
	seen(5)
	// It goes on as it was, since its ticks are the same.
	again := askTasks[wire.TaskCronState](s, "cron.set", `{"name":"each-second","spec":"@every 1s","task":"tick","input":{"n": 1},"missed":"all","timeout":"5s","priority":1}`)
	if again.NextAt.Sub(set.NextAt)%time.Second != 0 || again.Priority != 1 {
		t.Errorf("set again: %+v after %+v", again, set)
	}
	seen(6)
	if got := askTasks[wire.TaskCronDeleted](s, "cron.delete", `{"name":"each-second"}`); !got.Deleted {
		t.Error("it was not there any more")
	}
	page := askTasks[wire.TaskPage](s, "list", `{"name":"tick","limit":1000}`)
	seen(len(page.Tasks))
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(ticks, time.Time.Compare)
	for i, at := range ticks {
		if want := set.NextAt.Add(time.Duration(i) * time.Second); !at.Equal(want) {
			t.Fatalf("tick %d of %v: %s, want %s", i, ticks, at, want)
		}
	}
	if len(page.Tasks) != len(ticks) {
		t.Errorf("%d tasks, %d ticks, want as many", len(page.Tasks), len(ticks))
	}
}

// Ticks that nobody fired are skipped, made up for by one task, or by all.
func TestCronMissedTicks(t *testing.T) {
	t.Parallel()
	s := bareTasks(t, 2)
	const monthly = `"spec":"0 0 1 * *","tz":"UTC"`
	for _, missed := range []string{"skip", "once", "all"} {
		askTasks[wire.TaskCronState](s, "cron.set", `{"name":"`+missed+`",`+monthly+`,"task":"late-`+missed+`","missed":"`+missed+`"}`)
	}
	askTasks[wire.TaskCronState](s, "cron.set", `{"name":"paused",`+monthly+`,"task":"late-all","missed":"all","paused":true}`)
	// As if nobody had been there for three months, and it is not just the first day.
	const since = `date_trunc('month', now() at time zone 'UTC' - interval '3 days') at time zone 'UTC' - interval '3 months'`
	moved, err := s.look(`with moved as (update fairlead.cron set next_at = ` + since + ` returning 1) select count(*) from moved`)
	if err != nil || moved != 4 {
		t.Fatalf("moved %d schedules back: %v", moved, err)
	}
	months, err := s.look(`select count(*) from generate_series(` + since + `, now(), interval '1 month')`)
	must(t, err)
	eventually(t, "all have moved on", func() (any, bool) {
		n, err := s.look(`select count(*) from fairlead.cron where next_at > now()`)
		return n, err == nil && n == 3
	})
	for missed, want := range map[string]int64{"skip": 0, "once": 1, "all": int64(months)} {
		if got := askTasks[wire.TaskCounts](s, "counts", `{"name":"late-`+missed+`"}`); got.Total != want {
			t.Errorf("%s: %d tasks, want %d", missed, got.Total, want)
		}
	}
	page := askTasks[wire.TaskCronPage](s, "cron.list", `{}`)
	if len(page.Schedules) != 4 || page.Cursor != "" {
		t.Fatalf("schedules: %+v, want four", page)
	}
	for _, c := range page.Schedules {
		fired := c.Name == "once" || c.Name == "all"
		if c.LastAt.IsZero() == fired {
			t.Errorf("%s was last fired at %s", c.Name, c.LastAt)
		}
	}
	for _, body := range []string{
		`{"name":"x","spec":"0 0 30 2 *","task":"x"}`, `{"name":"x","spec":"TZ=0","task":"x"}`, `{"name":"x","spec":"CRON_TZ=UTC 0 0 * * *","task":"x"}`,
		`{"name":"x","spec":"@every 1ms","task":"x"}`,
	} {
		var e *wire.Error
		if err := s.raw("cron.set", body, nil); !errors.As(err, &e) || e.Code != wire.InvalidArgument || e.Details["field"] != "spec" {
			t.Errorf("%s: %v, want INVALID_ARGUMENT of spec", body, err)
		}
	}
}
