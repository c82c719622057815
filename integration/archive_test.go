package integration

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Everything that was published is resumed from the beginning, though the stream
// has long given up most of it, while more is published.
func TestTheArchiveContinuesTheStream(t *testing.T) {
	t.Parallel()
	s := archived(t, 20) // the stream keeps 201
	const n, size = 1200, 20
	topic := unique("chat.room")
	s.tellSlowly(topic, 0, n, 5*size)
	ann := s.as(0, "ann")
	sub := resume(t, ann, topic, wire.Position{})
	s.tell(topic, n, n+5*size)
	var position wire.Position
	if got, want := numbers(t, sub, &position, n+5*size), count(0, n+5*size); !slices.Equal(got, want) {
		t.Fatalf("from the beginning: got %v", got)
	}
	if r := sub.Position().Recovered; r == nil || !*r {
		t.Errorf("recovered: got %v, want true", r)
	}
	got, positions := all(t, ann, topic)
	if want := count(0, n+5*size); !slices.Equal(got, want) {
		t.Errorf("history: got %v", got)
	}
	for _, i := range []int{0, 1, n / 2, n - 10*size - 2, n - 10*size, n + 5*size - 2} {
		c := s.as(0, "bob")
		at := positions[i]
		if got, want := numbers(t, resume(t, c, topic, at), &at, n+5*size-i-1), count(i+1, n+5*size); !slices.Equal(got, want) {
			t.Errorf("behind message %d: got %v", i, got)
		}
		c.Close(1000)
	}
	last, err := s.as(0, "cleo").Subscribe(within(t), topic, client.SubscribeOptions{Last: 700, Control: true})
	must(t, err)
	at := wire.Position{Seq: last.Position().Seq, Ts: last.Position().Ts}
	if got, want := numbers(t, last, &at, 700), count(n+5*size-700, n+5*size); !slices.Equal(got, want) {
		t.Errorf("the newest 700: got %v", got)
	}
	s.copied(n + 5*size)
	if rows, holes := s.count("archive_message"), s.count("archive_hole"); rows != n+5*size || holes != 0 {
		t.Errorf("archived: got %d messages, %d holes, want %d, 0", rows, holes, n+5*size)
	}
}

// Of two replicas that copy one is killed in a storm: the other one copies what
// it held, and each message is there once.
func TestACopierIsKilledInAStorm(t *testing.T) {
	t.Parallel()
	s := archived(t, 2000)
	second := s.replica()
	topic := unique("chat.room")
	const n = 12000
	s.tell(topic, 0, n/4)
	eventually(t, "copying has begun", func() (any, bool) {
		rows, err := s.look("select count(*) from fairlead.archive_message")
		return err, rows > 0
	})
	s.tell(topic, n/4, n/2)
	second.kill()
	s.tell(topic, n/2, n)
	s.copied(n)
	if rows, holes, logs := s.count("archive_message"), s.count("archive_hole"), s.count("archive_log"); rows != n || holes != 0 || logs != 1 {
		t.Errorf("archived: got %d messages, %d holes, %d logs, want %d, 0, 1", rows, holes, logs, n)
	}
	if wrong := s.count(`archive_message where convert_from(payload, 'UTF8')::bigint <> seq - 1`); wrong != 0 {
		t.Errorf("%d messages are not what was published in their places", wrong)
	}
}

// While Postgres is away what only the archive has is UNAVAILABLE, and nothing
// else is different; nothing is cleared. Then it answers by itself.
func TestTheArchiveIsAway(t *testing.T) {
	t.Parallel()
	s := archived(t, 2) // the stream keeps 21
	admin := "127.0.0.1:" + freePort(t)
	s.replica("FAIRLEAD_ADMIN_ADDR=" + admin)
	health := func(want string) {
		t.Helper()
		eventually(t, "the replica says "+want, func() (any, bool) {
			status, body := get(t, "http://"+admin+"/readyz")
			return body, status == http.StatusOK && strings.Contains(body, want)
		})
	}
	topic := unique("chat.room")
	s.tellSlowly(topic, 0, 60, 10)
	ann := s.as(0, "ann")
	_, positions := all(t, ann, topic)
	live := subscribe(t, ann, topic)
	health(`{"name":"replay","ready":true}`)
	breaker, refused := watchBreakers(t, s.worker(), "postgres"), 0
	s.pg.Stop()

	began := time.Now()
	if _, err := history(t, ann, topic, positions[3]); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("history of what only the archive has: got %v, want UNAVAILABLE", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to say so", took)
	}
	eventually(t, "the breaker of Postgres breaks", func() (any, bool) {
		_, err := history(t, ann, topic, positions[3])
		return err, errors.Is(err, wire.ErrUnavailable) && slices.Contains(breaker.all(), "broken")
	})
	for began = time.Now(); time.Since(began) < time.Second; refused++ {
		_, err := history(t, ann, topic, positions[3])
		e := wire.AsErrorOrNil(err)
		if e == nil || e.Code != wire.Unavailable {
			t.Errorf("history of what only the archive has: got %v, want UNAVAILABLE", e)
		}
	}
	if refused < 10 { // one that waits for Postgres takes seconds
		t.Errorf("%d reads were refused in a second", refused)
	}
	sub := resume(t, s.as(0, "bob"), topic, positions[3])
	if r := sub.Position().Recovered; r == nil || *r {
		t.Errorf("recovered: got %v, want false", r)
	}
	p, err := history(t, ann, topic, positions[50])
	if err != nil || p.Truncated || len(p.Messages) != 9 {
		t.Errorf("history of what the stream has: %+v, %v", p, err)
	}
	publish(t, ann, topic, "60")
	expect(t, live, "", "60")
	if _, errs, code := run(t, []string{"FAIRLEAD_NATS_URL=" + s.nats}, "", "replay", "clear", topic); code != 1 || !strings.Contains(errs, "UNAVAILABLE") {
		t.Errorf("clear: exit code %d, %s", code, errs)
	}
	health(`"degraded":true`)

	must(t, s.pg.Restart())
	s.copied(61)
	eventually(t, "each replica asks Postgres again", func() (any, bool) {
		for range 20 { // whichever is asked
			if _, err := history(t, ann, topic, positions[3]); err != nil {
				return err, false
			}
		}
		return nil, true
	})
	if got, _ := all(t, ann, topic); !slices.Equal(got, count(0, 61)) {
		t.Errorf("afterwards: got %v", got)
	}
	at := positions[3]
	if got, want := numbers(t, resume(t, s.as(0, "cleo"), topic, at), &at, 57), count(4, 61); !slices.Equal(got, want) {
		t.Errorf("resumed afterwards: got %v", got)
	}
	eventually(t, "the breaker of Postgres is healthy", func() (any, bool) {
		got := breaker.all()
		return got, len(got) > 0 && got[len(got)-1] == "healthy"
	})
	health(`{"name":"replay","ready":true}`)
	eventually(t, "nothing is behind", func() (any, bool) {
		n := metric(t, admin, "fairlead_replay_archive_lag_messages")
		return n, n == 0
	})
}

// What the stream gave up while nobody copied is lost, and whoever misses it is
// told; what comes later is whole.
func TestWhatNobodyCopiedIsTruncated(t *testing.T) {
	t.Parallel()
	s := archived(t, 2) // the stream keeps 21
	topic := unique("chat.room")
	s.tellSlowly(topic, 0, 10, 10)
	ann := s.as(0, "ann")
	_, positions := all(t, ann, topic)
	s.killReplicas()
	s.tell(topic, 10, 70) // 10 to 48 are nowhere
	s.replica()
	s.copied(70)
	sub := resume(t, s.as(0, "bob"), topic, positions[4])
	if m := next(t, sub); m.Control != "truncated" || !strings.Contains(string(m.Raw), fmt.Sprintf(`"missingFrom":%d`, positions[4].Seq+1)) {
		t.Errorf("behind message 4: got %s", m.Raw)
	}
	at := wire.Position{Seq: sub.Position().Seq, Ts: sub.Position().Ts}
	if got, want := numbers(t, sub, &at, 21), count(49, 70); !slices.Equal(got, want) {
		t.Errorf("behind the loss: got %v, want %v", got, want)
	}
	s.tellSlowly(topic, 70, 130, 10) // the stream has none of those any more
	if got, _ := all(t, ann, topic); !slices.Equal(got, count(49, 130)) {
		t.Errorf("from the beginning: got %v", got)
	}
	if p, err := history(t, ann, topic, positions[4]); err != nil || !p.Truncated || p.MissingFrom != positions[4].Seq+1 || len(p.Messages) != 81 {
		t.Errorf("history behind message 4: %+v, %v", p, err)
	}
}

// What is cleared is found nowhere.
func TestAClearReachesTheArchive(t *testing.T) {
	t.Parallel()
	s := archived(t, 2) // the stream keeps 21
	topic, other := unique("chat.room"), unique("chat.other")
	s.tellSlowly(topic, 0, 60, 10)
	ann := s.as(0, "ann")
	_, positions := all(t, ann, topic)
	tool := []string{"FAIRLEAD_NATS_URL=" + s.nats}
	if _, errs, code := run(t, tool, "", "replay", "clear", topic); code != 0 {
		t.Fatalf("clear: exit code %d, %s", code, errs)
	}
	gone := func(when string, want []int) {
		t.Helper()
		if got, _ := all(t, ann, topic); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", when, got, want)
		}
		for _, i := range []int{0, 30, 59} {
			if p, err := history(t, ann, topic, positions[i]); err != nil || !p.Truncated || len(p.Messages) != len(want) {
				t.Errorf("%s, behind message %d: %+v, %v", when, i, p, err)
			}
		}
	}
	gone("cleared", nil)
	for i := range 40 { // the stream has the mark no more
		s.tell(topic, i, i+1)
		s.copied(60 + 1 + i + 1)
	}
	gone("cleared, and gone on", count(0, 40))
	s.tell(other, 0, 5)
	reply, err := s.worker().Request("fl.svc.replay.clear", []byte(`{}`), patience)
	must(t, err)
	if e := reply.Header.Get("Nats-Service-Error"); e != "" {
		t.Fatalf("clear of all: %s", e)
	}
	gone("all cleared", nil)
	if got, _ := all(t, ann, other); len(got) > 0 {
		t.Errorf("another topic: got %v", got)
	}
}

// A topic that the stream gave up as a whole, for its bound in bytes, is resumed
// from the archive; then its subscriber waits for live messages like any other.
func TestATopicThatOnlyTheArchiveHas(t *testing.T) {
	t.Parallel()
	s := archivedIn(t, 2, "64KiB")
	admin := "127.0.0.1:" + freePort(t)
	s.add("FAIRLEAD_TOPICS_FILE="+s.rules, "FAIRLEAD_ADMIN_ADDR="+admin)
	topic := unique("chat.room")
	s.tell(topic, 0, 5)
	s.copied(5)
	ann := s.as(0, "ann")
	_, positions := all(t, ann, topic)
	js, err := jetstream.New(s.worker())
	must(t, err)
	for i := range 100 {
		_, err := js.Publish(within(t), fmt.Sprintf("fl.topic.chat.other.%d", i), []byte(`"`+strings.Repeat("x", 1000)+`"`))
		must(t, err)
		if i%20 == 19 {
			s.copied(5 + i + 1)
		}
	}
	at := positions[1]
	sub := resume(t, s.as(1, "bob"), topic, at)
	if got, want := numbers(t, sub, &at, 3), count(2, 5); !slices.Equal(got, want) {
		t.Errorf("resumed: got %v, want %v", got, want)
	}
	const requests = "fairlead_gateway_history_requests_total"
	asked := metric(t, admin, requests)
	for range 200 { // takes a moment, on the other gateway
		_, err := history(t, ann, topic, positions[1])
		must(t, err)
	}
	if more := metric(t, admin, requests) - asked; more > 10 {
		t.Errorf("the gateway of a subscriber who has all asked for history %d times more", more)
	}
	s.tell(topic, 5, 10)
	if got, want := numbers(t, sub, &at, 5), count(5, 10); !slices.Equal(got, want) {
		t.Errorf("live: got %v, want %v", got, want)
	}
}

// An archive is switched on, off and on again while the replica runs.
func TestTheArchiveIsSwitched(t *testing.T) {
	t.Parallel()
	s := &archivedStack{stack: &stack{t: t, nats: natsdev.Test(t).ClientURL()}, pg: pgdev.TestServer(t)}
	s.url = s.pg.URL()
	on := fmt.Sprintf(archivedRules, 2, plenty)
	off := strings.Replace(on, "archive: true", "archive: false", 1)
	s.rules = rulesFile(t, off)
	s.replica()
	apply := func(rules string) {
		t.Helper()
		if _, errs, code := run(t, []string{"FAIRLEAD_NATS_URL=" + s.nats}, "", "rules", "apply", rulesFile(t, rules)); code != 0 {
			t.Fatalf("rules apply: exit code %d, %s", code, errs)
		}
	}
	js, err := jetstream.New(s.worker())
	must(t, err)
	kept := func(want int64) {
		t.Helper()
		eventually(t, fmt.Sprintf("the stream keeps %d", want), func() (any, bool) {
			stream, err := js.Stream(within(t), "FL_CHAT")
			if err != nil {
				return err, false
			}
			got := stream.CachedInfo().Config.MaxMsgsPerSubject
			return got, got == want
		})
	}
	topic := unique("chat.room")
	s.tell(topic, 0, 10)
	if n, err := s.look("select count(*) from pg_namespace where nspname = 'fairlead'"); err != nil || n != 0 {
		t.Errorf("schemas though no rule asks for an archive: got %d, %v, want 0", n, err)
	}
	apply(on)
	s.copied(10) // 8 to 10 were left
	kept(21)
	s.tell(topic, 10, 20)
	s.copied(20)
	if rows := s.count("archive_message"); rows != 13 {
		t.Errorf("archived: got %d messages, want 13", rows)
	}
	apply(off)
	kept(3)
	eventually(t, "nobody copies any more", func() (any, bool) {
		consumer, err := js.Consumer(within(t), "FL_CHAT", "fairlead_archive")
		if err != nil {
			return err, false
		}
		n := consumer.CachedInfo().NumWaiting
		return n, n == 0
	})
	s.tell(topic, 20, 30)
	apply(on)
	s.copied(30)
	if rows, holes := s.count("archive_message"), s.count("archive_hole"); rows != 16 || holes != 2 {
		t.Errorf("archived: got %d messages, %d holes, want 16, 2", rows, holes)
	}
}

// A rule that asks for an archive where there is no database is served from its
// stream alone, and that is said once and in the health.
func TestNoDatabaseForTheArchive(t *testing.T) {
	t.Parallel()
	server, admin := natsdev.Test(t), "127.0.0.1:"+freePort(t)
	p := launchReplay(t, server.ClientURL(), rulesFile(t, fmt.Sprintf(archivedRules, 2, plenty)), "FAIRLEAD_ADMIN_ADDR="+admin)
	eventually(t, "the replica is ready, and degraded", func() (any, bool) {
		status, body := get(t, "http://"+admin+"/readyz")
		return body, status == http.StatusOK && strings.Contains(body, `"degraded":true`) && strings.Contains(body, "FAIRLEAD_POSTGRES_URL")
	})
	if n := strings.Count(p.stderr.String(), "no archive is kept"); n != 1 {
		t.Errorf("said %d times, want 1", n)
	}
	env := []string{"FAIRLEAD_NATS_URL=" + server.ClientURL(), "FAIRLEAD_POSTGRES_URL=postgres://u:" + dbPassword + "@host:port/db"}
	_, errs, code := run(t, env, "", "run", "replay")
	if code != 2 || !strings.Contains(errs, "FAIRLEAD_POSTGRES_URL") || strings.Contains(errs, dbPassword) || strings.Count(errs, "\n") != 1 {
		t.Errorf("with a URL that can't be used: exit code %d, %s", code, errs)
	}
}
