package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The stream of an archived rule keeps ten times its size, and one more.
const archivedRules = `
topics:
  - {name: chat, match: "chat.>", subscribe: user, publish: user, replay: {size: %d, ttl: 1h, maxBytes: %s, archive: true}}
`

// plenty is a bound in bytes that no test reaches.
const plenty = "1GiB"

// dbPassword is part of the URL: nothing that is logged may hold it.
const dbPassword = "never-to-be-seen"

// archivedStack is a gateway and replicas that archive to a Postgres of the test.
type archivedStack struct {
	*stack
	pg    *pgdev.Server
	url   string // of the database, with a password
	rules string
	procs []*process // the replicas
}

func archived(t *testing.T, size int) *archivedStack {
	t.Helper()
	return archivedIn(t, size, plenty)
}

func archivedIn(t *testing.T, size int, maxBytes string) *archivedStack {
	t.Helper()
	s := &archivedStack{stack: &stack{t: t, nats: natsdev.Test(t).ClientURL()}, pg: pgdev.TestServer(t), rules: rulesFile(t, fmt.Sprintf(archivedRules, size, maxBytes))}
	s.url = strings.Replace(s.pg.URL(), "@", ":"+dbPassword+"@", 1)
	s.replica()
	s.add("FAIRLEAD_TOPICS_FILE=" + s.rules)
	eventually(t, "the archive has its tables", func() (any, bool) {
		_, err := s.look("select count(*) from fairlead.archive_log")
		return err, err == nil
	})
	return s
}

// replica starts a replica of the replay service, and waits until it answers.
func (s *archivedStack) replica(env ...string) *process {
	s.t.Helper()
	p := launchReplay(s.t, s.nats, s.rules, append([]string{"FAIRLEAD_POSTGRES_URL=" + s.url}, env...)...)
	s.procs = append(s.procs, p)
	return p
}

// killReplicas leaves nobody who copies.
func (s *archivedStack) killReplicas() {
	s.t.Helper()
	for _, p := range s.procs {
		p.kill()
	}
	s.procs = nil
}

func launchReplay(t *testing.T, natsURL, rules string, env ...string) *process {
	t.Helper()
	if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "FAIRLEAD_ADMIN_ADDR=") }) {
		env = append(env, "FAIRLEAD_ADMIN_ADDR=off")
	}
	env = append(env, "FAIRLEAD_NATS_URL="+natsURL, "FAIRLEAD_LOG_FORMAT=json", "FAIRLEAD_TOPICS_FILE="+rules)
	p := start(t, "replay", env, "run", "replay")
	t.Cleanup(func() {
		if strings.Contains(p.stderr.String()+p.stdout.String(), dbPassword) {
			t.Error("the replica has written the password of its database")
		}
	})
	nc := connect(t, natsURL)
	eventually(t, "the replay service answers", func() (any, bool) {
		reply, err := nc.Request("fl.svc.replay.head", []byte(`{"topic":"chat.a"}`), time.Second)
		if err != nil {
			return err, false
		}
		code := reply.Header.Get("Nats-Service-Error-Code")
		return code, code == ""
	})
	return p
}

// look asks the database for a number.
func (s *archivedStack) look(query string) (n int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	return n, conn.QueryRow(ctx, query).Scan(&n)
}

func (s *archivedStack) count(what string) int {
	s.t.Helper()
	n, err := s.look("select count(*) from fairlead." + what)
	must(s.t, err)
	return n
}

// copied waits until the archive has come to a sequence.
func (s *archivedStack) copied(seq int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d is archived", seq), func() (any, bool) {
		n, err := s.look("select coalesce(max(position), 0) from fairlead.archive_log")
		return fmt.Sprint(n, err), n == seq
	})
}

// tell publishes the numbers [from, to) as a worker does.
func (s *archivedStack) tell(topic string, from, to int) {
	s.t.Helper()
	js, err := jetstream.New(s.worker())
	must(s.t, err)
	for i := from; i < to; i++ {
		_, err := js.PublishAsync("fl.topic."+topic, []byte(strconv.Itoa(i)))
		must(s.t, err)
		if i%1000 == 999 { // no more at once than the client takes
			receive(s.t, js.PublishAsyncComplete())
		}
	}
	receive(s.t, js.PublishAsyncComplete())
}

// tellSlowly waits for the archive now and then, so that the stream gives up
// nothing that is not archived.
func (s *archivedStack) tellSlowly(topic string, from, to, step int) {
	s.t.Helper()
	for ; from < to; from += step {
		s.tell(topic, from, min(from+step, to))
		s.copied(min(from+step, to))
	}
}

// past is what history answers.
type past struct {
	Messages []struct {
		Data    int
		Seq, Ts int64
	}
	Truncated   bool
	MissingFrom int64
	More        bool
}

func history(t *testing.T, c *client.Client, topic string, after wire.Position) (p past, err error) {
	t.Helper()
	frame := map[string]any{"op": "history", "topic": topic, "after": after.Seq, "limit": 1000}
	if after.Ts != 0 {
		frame["ts"] = after.Ts
	}
	raw, err := c.Request(within(t), "history", frame)
	if err == nil {
		must(t, json.Unmarshal(raw, &p))
	}
	return p, err
}

// all is what a topic has had, by paging through its history.
func all(t *testing.T, c *client.Client, topic string) (numbers []int, positions []wire.Position) {
	t.Helper()
	var at wire.Position
	for {
		p, err := history(t, c, topic, at)
		must(t, err)
		if p.Truncated {
			t.Fatalf("truncated behind %v, from %d", at, p.MissingFrom)
		}
		for _, m := range p.Messages {
			at = wire.Position{Seq: m.Seq, Ts: m.Ts}
			numbers, positions = append(numbers, m.Data), append(positions, at)
		}
		if !p.More {
			return numbers, positions
		}
	}
}
