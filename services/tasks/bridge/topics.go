package bridge

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// maxTopics bounds the topics of a channel that are remembered for a gap.
	maxTopics = 10_000
	// rememberFor is how long after its last change a topic is told of a gap.
	rememberFor = 7 * 24 * time.Hour
	// recordEvery is how often it is written down that a topic is in use.
	recordEvery = time.Hour
	// tableGrace is how long the table may be missing before that is worth a word: a
	// replica makes it when it starts for the first time.
	tableGrace = 10 * time.Second
)

// topics are those that channels have published to. The table has what all
// replicas know, so that whoever takes over knows it too.
type topics map[string]map[string]use

// use is when a topic was last published to, and when that was last written down:
// ms by the clock of Postgres.
type use struct{ used, written int64 }

const (
	readTopics = `select topic, floor(extract(epoch from used) * 1000)::bigint from fairlead.bridge_topic
		where namespace = $1 and channel = $2 and used > now() - $3::int8 * interval '1 millisecond'
		order by used desc limit $4`
	writeTopics = `insert into fairlead.bridge_topic (namespace, channel, topic) select $1, $2, unnest($3::text[])
		on conflict (namespace, channel, topic) do update set used = now()`
	cleanTopics = `delete from fairlead.bridge_topic where namespace = $1 and used < now() - $2::int8 * interval '1 millisecond'`
)

// noTable are the errors of a database that was not brought up to date, or where
// this role may not use the table: the bridge goes by what it remembers itself.
var noTable = []string{"42P01", "42501", "3F000"}

// remember makes sure that a later gap is told to the topic. It writes before the
// topic is published to: whoever takes over then knows it.
func (s *session) remember(ctx context.Context, channel, topic string, patterns []string) error {
	known := s.b.topics[channel]
	if known == nil {
		known = map[string]use{}
		s.b.topics[channel] = known
	}
	u, ok := known[topic]
	if ok && (u.written == 0 || s.clock-u.written < recordEvery.Milliseconds()) {
		u.used = s.clock
		known[topic] = u
		return nil
	}
	if !ok {
		if slices.Contains(patterns, topic) { // always told
			return nil
		}
		if len(known) >= maxTopics {
			s.b.counts.unremembered.Add(1)
			return nil
		}
	}
	u.used = s.clock
	known[topic] = u
	return s.write(ctx, channel, topic)
}

// write writes topics down, which are known. What can't be written now is later.
func (s *session) write(ctx context.Context, channel string, all ...string) error {
	done := false
	err := s.withTable(ctx, func(ctx context.Context) error {
		_, err := s.conn.Exec(ctx, writeTopics, string(s.b.cfg.Namespace), channel, all)
		done = err == nil
		return err
	})
	if !done {
		s.b.unwritten = true
		return err
	}
	for _, topic := range all {
		s.b.topics[channel][topic] = use{s.clock, s.clock}
	}
	return nil
}

// writeLate writes down what could not be when it was first used.
func (s *session) writeLate(ctx context.Context) error {
	if !s.b.unwritten {
		return nil
	}
	s.b.unwritten = false
	for c := range s.held {
		var late []string
		for topic, u := range s.b.topics[c] {
			if u.written == 0 {
				late = append(late, topic)
			}
		}
		if len(late) == 0 {
			continue
		}
		if err := s.write(ctx, c, late...); err != nil {
			return err
		}
	}
	return nil
}

// recall reads what is known of a channel that the session has won.
func (s *session) recall(ctx context.Context, channel string) error {
	known := map[string]use{}
	err := s.withTable(ctx, func(ctx context.Context) error {
		if _, err := s.conn.Exec(ctx, cleanTopics, string(s.b.cfg.Namespace), rememberFor.Milliseconds()); err != nil {
			return err
		}
		rows, err := s.conn.Query(ctx, readTopics, string(s.b.cfg.Namespace), channel, rememberFor.Milliseconds(), maxTopics)
		if err != nil {
			return err
		}
		var topic string
		var used int64
		_, err = pgx.ForEachRow(rows, []any{&topic, &used}, func() error {
			known[topic] = use{used, used}
			return nil
		})
		return err
	})
	for topic, u := range s.b.topics[channel] {
		if _, ok := known[topic]; !ok && len(known) < maxTopics && s.clock-u.used < rememberFor.Milliseconds() {
			known[topic] = u
		}
	}
	s.b.topics[channel] = known
	return err
}

// withTable does something with the table, where there is one.
func (s *session) withTable(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	err := do(ctx)
	if !refusedBy(err, noTable...) {
		s.b.noTable = time.Time{}
		return err
	}
	now := time.Now()
	if s.b.noTable.IsZero() {
		s.b.noTable = now
	}
	if now.Sub(s.b.noTable) >= s.b.grace {
		if _, ok := s.b.said.now("table", now); ok {
			s.b.cfg.Log.Warn("bridge can't keep the topics it publishes to: when another replica takes over they are not told of a gap", "err", err)
		}
	}
	return nil
}
