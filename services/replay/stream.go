package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// stream is the log of a rule in JetStream. What it reads by is an index that
// [feed] keeps; what it answers is proven by the stream itself.
type stream struct {
	name      string
	ns        wire.Namespace
	retention Retention
	kept      int // messages of each topic that the stream holds
	publish   *nats.Conn
	reads     *reader
	now       func() time.Time
	fill      *filler // nil where the stream itself remembers ids long enough

	index   *current // replaced when the stream was made anew
	scans   chan struct{}
	batches chan struct{} // bounds open atomic batches
	reading merger
	ends    folded[state]
}

const (
	// indexWait is how long a read waits for the index to have what the stream
	// has; after that it scans.
	indexWait = time.Second
	// readAtOnce bounds how many messages one read asks for at a time.
	readAtOnce = 128
	// readTries bounds how often a read begins again because what it reads is
	// evicted meanwhile.
	readTries = 5
	// openBatches keeps clear of the server's 50 open atomic batches per stream:
	// gateways open some too.
	openBatches = 8
)

func newStream(name string, ns wire.Namespace, r *rules.Replay, publish *nats.Conn, reads *reader, indexBytes int64, now func() time.Time) *stream {
	kept := streams.Kept(r)
	return &stream{
		name: name, ns: ns, kept: kept, publish: publish, reads: reads, now: now,
		retention: Retention{Size: kept - 1, TTL: r.TTL, Dedupe: r.Dedupe, Bytes: r.MaxBytes},
		index:     newCurrent(func() *index { return newIndex(kept, indexBytes) }),
		scans:     make(chan struct{}, 1),
		batches:   make(chan struct{}, openBatches),
	}
}

// wait returns when nothing is read any more.
func (s *stream) wait() {
	s.reading.work.Wait()
	s.ends.work.Wait()
}

// Since implements [Log].
func (s *stream) Since(ctx context.Context, q Query) (*wire.ReplayPage, error) {
	return s.reading.since(ctx, s, q)
}

// Head implements [Log].
func (s *stream) Head(ctx context.Context, topic string) (head, at wire.Position, err error) {
	f, at, err := s.head(ctx, topic)
	if err != nil || f == nil {
		return wire.Position{}, at, err
	}
	return f.at, at, nil
}

// head returns the newest message of a topic, nil where there is none, and the
// position of who begins now. Only the leader is asked: a follower may lag.
func (s *stream) head(ctx context.Context, topic string) (*found, wire.Position, error) {
	subject, err := s.ns.Topic(topic)
	if err != nil {
		return nil, wire.Position{}, err
	}
	f, err := s.reads.leader(ctx, s.name, 0, subject)
	if err == nil {
		return f, f.at, nil
	}
	if !errors.Is(err, errGone) {
		return nil, wire.Position{}, err
	}
	// The end of the stream first, then again that the topic is empty: so
	// nothing of it is at or before that end.
	end, err := s.ends.get(ctx, s.state)
	if err != nil {
		return nil, wire.Position{}, err
	}
	f, err = s.reads.leader(ctx, s.name, 0, subject)
	switch {
	case err == nil:
		return f, f.at, nil
	case !errors.Is(err, errGone):
		return nil, wire.Position{}, err
	}
	return nil, wire.Position{Seq: end.last.Seq, Ts: -s.now().UnixMilli()}, nil
}

func (s *stream) state(ctx context.Context) (state, error) { return s.reads.state(ctx, s.name) }

// Heads implements [Log]. The index is asked once it has what the stream had at
// the time of the call.
func (s *stream) Heads(ctx context.Context, topics []string) ([]wire.Position, int64, error) {
	end, err := s.ends.get(ctx, s.state)
	if err != nil {
		return nil, 0, err
	}
	x := s.index.get()
	if s.await(ctx, x, end.last.Seq) {
		heads, upTo := x.heads(topics)
		return heads, upTo, nil
	}
	heads := make([]wire.Position, len(topics))
	for i, topic := range topics {
		if heads[i], _, err = s.Head(ctx, topic); err != nil {
			return nil, 0, err
		}
	}
	return heads, end.last.Seq, nil
}

// await reports whether the index has come to seq, in time.
func (s *stream) await(ctx context.Context, x *index, seq int64) bool {
	reached := x.await(seq)
	select {
	case <-reached:
		return true
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, indexWait)
	defer cancel()
	select {
	case <-reached:
		return true
	case <-ctx.Done():
		x.giveUp(reached)
		return false
	}
}

// ClearTopic implements [Log]. A marker comes first and everything before it
// goes: it keeps the chain, it proves what was cleared, and it tells gateways.
func (s *stream) ClearTopic(ctx context.Context, topic string) error {
	marker, err := s.mark(ctx, topic)
	if err != nil {
		return err
	}
	return s.purge(ctx, topic, marker)
}

// mark stores a marker in a topic, and returns its sequence.
func (s *stream) mark(ctx context.Context, topic string) (int64, error) {
	subject, err := s.ns.Topic(topic)
	if err != nil {
		return 0, err
	}
	id := nuid.Next()
	marker := &nats.Msg{Subject: subject, Header: nats.Header{
		wire.HeaderEvent: {"cleared"}, wire.HeaderClear: {"1"}, wire.HeaderMsgID: {"clear:" + id},
	}}
	at, err := s.store(ctx, marker, true)
	return at.Seq, err
}

// purge removes a topic's messages before a sequence.
func (s *stream) purge(ctx context.Context, topic string, before int64) error {
	subject, err := s.ns.Topic(topic)
	if err != nil {
		return err
	}
	if err := s.reads.purge(ctx, s.name, subject, before); err != nil {
		return fmt.Errorf("clear %s: %w", topic, err)
	}
	return nil
}

// Clear implements [Log].
func (s *stream) Clear(ctx context.Context) error { return s.reads.clear(ctx, s.name) }

// Topics implements [Log].
func (s *stream) Topics(ctx context.Context, match, cursor string, limit int) ([]wire.ReplaySummary, error) {
	end, err := s.ends.get(ctx, s.state)
	if err != nil {
		return nil, err
	}
	x := s.index.get()
	x.raise(end.first.Seq)
	if !s.await(ctx, x, end.last.Seq) {
		return nil, wire.Errorf(wire.Unavailable, "the index of the stream is being built")
	}
	return x.list(match, cursor, limit), nil
}
