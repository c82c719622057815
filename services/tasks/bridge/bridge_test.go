package bridge

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// holders are who has a lock in this database: others of the cluster are other
// tests'.
const holders = `from pg_locks where locktype = 'advisory' and classid = $1
	and database = (select oid from pg_database where datname = current_database())`

// Of three replicas one listens, and every change is published once, in order,
// as it was notified.
func TestEachChangeOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, plainRules)
	all := []*replica{r.start(), r.start(), r.start()}
	r.listener(all...)
	const n = 200
	r.rows("db.orders", 0, n)
	r.notify(`{"topic":"db.users","data":{"a": [1,2]}}`)
	r.notify(`{"topic":"db.users"}`)
	r.eventually("all came", func() (any, bool) {
		got := r.heard.on("db.orders")
		return len(got), slices.Contains(got, n-1) && len(r.heard.on("db.users")) == 2
	})
	got := r.heard.on("db.orders")
	if err := check(got); err != nil {
		t.Errorf("%v: got %v", err, got)
	}
	if got[0] != -1 || len(got) != n+1 {
		t.Errorf("got %d messages, want a gap and %d changes", len(got), n)
	}
	var bodies []string
	for _, m := range r.heard.all() {
		switch m.Subject {
		case "fl.topic.db.orders":
			if event := m.Header.Get("Fl-Event"); event != "changed" && event != "bridge.gap" {
				t.Fatalf("event %q, want changed", event)
			}
		case "fl.topic.db.users":
			bodies = append(bodies, m.Header.Get("Fl-Event")+string(m.Data))
		}
	}
	if want := []string{`{"a": [1,2]}`, "null"}; !slices.Equal(bodies, want) {
		t.Errorf("got %q, want %q", bodies, want)
	}
	listening := 0
	for _, x := range all {
		listening += int(x.counts.listening.Load())
	}
	if locks := r.number("select count(*) "+holders, uint32(lockClass)); listening != 1 || locks != 1 {
		t.Errorf("%d replicas listen, with %d locks; want 1 and 1", listening, locks)
	}
}

// Negative control: two replicas that do not agree on the lock publish every
// change twice, and the checker sees it.
func TestTheCheckerSeesTwoListeners(t *testing.T) {
	t.Parallel()
	r := newRig(t, plainRules)
	a, b := r.start(), r.start(func(b *Bridge) { b.class++ })
	r.listener(a)
	r.listener(b)
	r.rows("db.orders", 0, 3)
	r.eventually("all came twice", func() (any, bool) {
		got := r.heard.on("db.orders")
		return got, len(got) == 8
	})
	if err := check(r.heard.on("db.orders")); err == nil {
		t.Error("the checker did not notice")
	}
	for _, wrong := range [][]int{{0, 0}, {0, 2}, {1}, {0, 1, -1, 1}, {0, -1, 2, 1}} {
		if check(wrong) == nil {
			t.Errorf("the checker takes %v", wrong)
		}
	}
}

// A listener that is gone, or of which nothing is heard any more, is followed by
// another one, which announces what may be missing on every topic that the first
// one has published to.
func TestTakeover(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		end  func(r *rig, x *replica, h *hole)
	}{
		{"its backend is terminated", func(r *rig, _ *replica, _ *hole) {
			r.exec("select pg_terminate_backend(pid) "+holders, uint32(lockClass))
		}},
		{"the network is a hole", func(_ *rig, _ *replica, h *hole) { h.vanish() }},
		{"it is stopped", func(_ *rig, x *replica, _ *hole) { x.stop() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, plainRules)
			h, url := through(t, r.url)
			first := r.startAt(url)
			r.listener(first)
			second := r.start()
			r.eventually("the second has seen that somebody listens", func() (any, bool) {
				return nil, r.number("select count(*) from pg_stat_activity where datname = current_database() and application_name = $1 and query = $2", sessionName, evict) == 1
			})
			n := 0
			for _, topic := range []string{"db.orders", "db.users"} {
				r.row(topic, 0)
				r.eventually("the first publishes", func() (any, bool) {
					got := r.heard.on(topic)
					return got, slices.Contains(got, 0)
				})
			}
			tt.end(r, first, h)
			cut := time.Now()
			r.eventually("changes come again", func() (any, bool) {
				n++
				r.row("db.orders", n)
				got := r.heard.on("db.orders")
				i := slices.Index(got[1:], -1) + 1 // of the gap after that at the start
				return got, i > 0 && i < len(got)-1
			})
			t.Logf("%s: changes came again after %s", tt.name, time.Since(cut).Round(time.Millisecond))
			r.eventually("the last one came", func() (any, bool) {
				got := r.heard.on("db.orders")
				return got, slices.Contains(got, n)
			})
			if got := r.heard.on("db.orders"); check(got) != nil {
				t.Errorf("%v: %v", check(got), got)
			}
			if got := r.heard.on("db.users"); !slices.Equal(got, []int{0, -1}) {
				t.Errorf("a topic that the second has not published to: got %v, want the change and a gap", got)
			}
			gaps := r.heard.gaps("fl.event.bridge.gap." + channel)
			if len(gaps) != 2 || gaps[0].Reason != "start" || gaps[0].SinceMs != 0 {
				t.Fatalf("gaps %+v, want one of the start and another", gaps)
			}
			g := gaps[1]
			if away := g.At - g.SinceMs; g.Channel != channel || g.SinceMs == 0 || away < slack.Milliseconds() || away > 60_000 {
				t.Errorf("gap %+v: it does not say since when", g)
			}
			if tt.name != "its backend is terminated" { // it may be the first itself that comes back
				if g.Reason != "takeover" || r.listener(first, second) != second {
					t.Errorf("gap %+v, want a takeover", g)
				}
			}
		})
	}
}

// What the parties go by lets nobody publish beside another, and lets a channel
// be listened to again within 5 s.
func TestTimesAgree(t *testing.T) {
	if statementTimeout >= trustFor || trustFor >= staleAfter || staleAfter >= idleTimeout {
		t.Error("a session may publish when others end it")
	}
	if worst := staleAfter + watchEvery + beatEvery + beatEvery/10; worst >= 5*time.Second {
		t.Errorf("a hung listener may keep others out for %s", worst)
	}
}

// A listener that is alone ends its own session when that hangs.
func TestAloneAfterAHole(t *testing.T) {
	t.Parallel()
	r := newRig(t, plainRules)
	h, url := through(t, r.url)
	x := r.startAt(url)
	r.listener(x)
	pid := r.number("select pid "+holders, uint32(lockClass))
	h.vanish()
	r.eventually("Postgres has freed the lock", func() (any, bool) {
		return nil, r.number("select count(*) from pg_stat_activity where pid = $1", pid) == 0
	})
}

// What may not be published is counted, by why, and the log does not repeat it.
func TestBadPayloads(t *testing.T) {
	t.Parallel()
	r := newRig(t, plainRules)
	x := r.start()
	r.listener(x)
	task := wire.TaskTopic(wire.NewTaskID(time.Now()))
	want := map[reason]int64{}
	for payload, why := range map[string]reason{
		"": badJSON, "secret": badJSON, `["db.orders"]`: badJSON, "null": badJSON, `{"topic":"db.orders"`: badJSON,
		`{"data":"secret"}`: badTopic, `{"topic":"db..x"}`: badTopic, `{"topic":"$SYS.x"}`: badTopic, `{"topic":"__x"}`: badTopic, `{"topic":"db.>"}`: badTopic,
		`{"topic":"db.orders","event":""}`: badEvent, `{"topic":"db.orders","event":"a secret"}`: badEvent,
		`{"topic":"chat.lobby","data":"secret"}`: outside, `{"topic":"db"}`: outside,
		`{"topic":"system.x"}`: ownTopic, `{"topic":"` + task + `"}`: ownTopic,
	} {
		r.notify(payload)
		want[why]++
	}
	r.notify(`{"topic":"db.orders","data":"` + strings.Repeat("x", largePayload) + `"}`)
	r.row("db.orders", 0)
	r.eventually("the good one came", func() (any, bool) {
		got := r.heard.on("db.orders")
		return got, slices.Contains(got, 0)
	})
	for why := badJSON; why < reasons; why++ {
		if got := x.counts.dropped[why].Load(); got != want[why] {
			t.Errorf("dropped for %s: got %d, want %d", why, got, want[why])
		}
		if lines := r.log.count("reason=" + why.String()); lines > 1 || (lines == 1) != (want[why] > 0) {
			t.Errorf("%d lines about %s, want one", lines, why)
		}
	}
	if r.log.count("secret") != 0 {
		t.Error("the log repeats a payload")
	}
	if r.log.count("near the 8000 bytes") != 1 {
		t.Error("no warning of a large payload")
	}
	if got := r.heard.on("db.orders"); !slices.Equal(got, []int{-1, -2, 0}) {
		t.Errorf("got %v on the topic, want a gap, the large one and the good one", got)
	}
}

// Rules change while it runs: a channel comes, its topics change, it goes. The
// lock was taken once, however long it was held: it is free when it is let go.
func TestRulesChange(t *testing.T) {
	t.Parallel()
	r := newRig(t, "{}")
	x := r.start()
	r.rules.change(t, plainRules)
	r.listener(x)
	r.row("db.orders", 0)
	r.rules.change(t, `bridges: [{channel: table_changes, topics: ["news.>"]}, {channel: Other_1, topics: ["db.>"]}]`)
	r.eventually("it listens to both", func() (any, bool) { n := x.counts.listening.Load(); return n, n == 2 })
	r.row("db.orders", 1)
	r.row("news.today", 0)
	r.exec("select pg_notify('Other_1', $1)", `{"topic":"db.orders","event":"changed","data":2}`)
	r.eventually("the changes came", func() (any, bool) {
		return r.heard.all(), slices.Contains(r.heard.on("news.today"), 0) && slices.Contains(r.heard.on("db.orders"), 2)
	})
	if got := r.heard.on("db.orders"); slices.Contains(got, 1) || x.counts.dropped[outside].Load() != 1 {
		t.Errorf("got %v on a topic that the channel may not publish to any more", got)
	}
	r.rules.change(t, `bridges: [{channel: Other_1, topics: ["db.>"]}]`)
	r.eventually("the lock is free", func() (any, bool) {
		return nil, r.number("select case when pg_try_advisory_lock($1, $2) then 1 else 0 end", lockClass, lockKey("fl", channel)) == 1
	})
	r.rules.change(t, "{}")
	r.eventually("no session is left", func() (any, bool) {
		return nil, r.number("select count(*) from pg_stat_activity where datname = current_database() and application_name = $1", sessionName) == 0
	})
}

// Who stops lets the others know, when the lock is free.
func TestStopTellsTheOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, plainRules)
	x := r.start()
	r.listener(x)
	r.exec("listen " + freedChannel)
	r.row("db.orders", 0) // it may have to be published yet
	x.stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if n, err := r.pg.WaitForNotification(ctx); err != nil || n.Channel != freedChannel || n.Payload != "fl" {
		t.Fatalf("got %v, %v", n, err)
	}
	if r.number("select case when pg_try_advisory_lock($1, $2) then 1 else 0 end", lockClass, lockKey("fl", channel)) != 1 {
		t.Error("the lock is not free when the others are told that it is")
	}
	if got := r.heard.on("db.orders"); !slices.Contains(got, 0) {
		t.Errorf("got %v: what was heard before the stop was not published", got)
	}
}

// What was heard under a lease that ended is not published.
func TestSupersededIsNotPublished(t *testing.T) {
	t.Parallel()
	var l lease
	now := time.Now()
	if l.holds(now) {
		t.Error("a lease holds that was never had")
	}
	l.renew(now)
	if !l.holds(now.Add(trustFor-time.Millisecond)) || l.holds(now.Add(trustFor)) {
		t.Error("the lease does not last as long as it is trusted")
	}
	l.end()
	if l.renew(now); l.holds(now) || l.await(t.Context()) {
		t.Error("a lease that was ended holds again")
	}
}

func TestNewRefusesAURL(t *testing.T) {
	_, err := New(Config{PostgresURL: "postgres://u:secret@h:x/"})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// Channels and namespaces have locks of their own.
func TestKeysOfChannels(t *testing.T) {
	if lockKey("fl", "a") == lockKey("fl", "b") || lockKey("fl", "a") == lockKey("gl", "a") {
		t.Error("keys that should differ are equal")
	}
}
