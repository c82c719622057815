package replay

import (
	"context"
	"fmt"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	// pageBytes bounds the payloads of one answer, unless it is one message.
	pageBytes = 256 << 10
	// maxHeads is the most topics of one `heads` request.
	maxHeads = 1024
	// readers is how many reads one replica works on at a time: most of them
	// wait for a read that they share.
	readers = 4096
)

// endpoints are what the service answers, on fl.svc.replay.<name>.
func (s *Service) endpoints() []bus.Endpoint {
	read := func(e bus.Endpoint) bus.Endpoint { e.Workers = readers; return e }
	at := func(name string) string { return s.cfg.Namespace.Svc("replay", name) }
	return []bus.Endpoint{
		read(bus.Handle("head", at("head"), s.Head)),
		read(bus.Handle("heads", at("heads"), s.Heads)),
		read(bus.Handle("since", at("since"), s.Since)),
		read(bus.Handle("gap", at("gap"), s.Gap)),
		read(bus.Handle("publish", at("publish"), s.Publish)),
		bus.Handle("batch", at("batch"), s.Batch),
		bus.Handle("clear", at("clear"), s.Clear),
		bus.Handle("clear-topic", at("clear-topic"), s.ClearTopic),
		bus.Handle("topics", at("topics"), s.Topics),
		bus.Handle("ping", at("ping"), s.Ping),
	}
}

// Ping answers that somebody is there, whether JetStream and Postgres are or not.
func (s *Service) Ping(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }

// Head answers the newest message of a topic, and where who listens from now on
// begins.
func (s *Service) Head(ctx context.Context, req wire.ReplayTopic) (wire.ReplayHead, error) {
	log, err := s.log(req.Topic)
	if err != nil {
		return wire.ReplayHead{}, err
	}
	head, at, err := log.Head(ctx, req.Topic)
	return wire.ReplayHead{Seq: head.Seq, Ts: head.Ts, At: at}, err
}

// Heads answers the newest message of each of several topics of one rule.
func (s *Service) Heads(ctx context.Context, req wire.ReplayHeadsRequest) (wire.ReplayHeads, error) {
	if len(req.Topics) == 0 || len(req.Topics) > maxHeads {
		return wire.ReplayHeads{}, wire.InvalidField("topics", fmt.Sprintf("from 1 to %d", maxHeads))
	}
	var log Log
	topics := make([]string, len(req.Topics))
	for i, t := range req.Topics {
		one, err := s.log(t.Topic)
		if err != nil {
			return wire.ReplayHeads{}, err
		}
		if i > 0 && one != log {
			return wire.ReplayHeads{}, wire.InvalidField("topics", "topics of one rule")
		}
		log, topics[i] = one, t.Topic
	}
	heads, upTo, err := log.Heads(ctx, topics)
	return wire.ReplayHeads{Heads: heads, UpTo: upTo}, err
}

// Since answers the messages of a topic after a position, or its newest ones.
func (s *Service) Since(ctx context.Context, req wire.ReplaySinceRequest) (*wire.ReplayPage, error) {
	page, err := s.since(ctx, req)
	if err != nil {
		return nil, err
	}
	return fit(page, s.requests.MaxPayload())
}

func (s *Service) since(ctx context.Context, req wire.ReplaySinceRequest) (*wire.ReplayPage, error) {
	log, err := s.log(req.Topic)
	if err != nil {
		return nil, err
	}
	if err := checkLimit("limit", req.Limit); err != nil {
		return nil, err
	}
	if err := checkLimit("last", req.Last); err != nil {
		return nil, err
	}
	if req.Last > 0 && (req.After != 0 || req.Ts != 0) {
		return nil, wire.InvalidField("last", "not together with `after`")
	}
	q := Query{Topic: req.Topic, Last: req.Last, Limit: req.Limit, Bytes: pageBytes}
	if q.Limit == 0 {
		q.Limit = defaultLimit
		if q.Last > 0 {
			q.Limit = q.Last
		}
	}
	if q.After, err = position(req.After, req.Ts); err != nil {
		return nil, err
	}
	page, err := log.Since(ctx, q)
	if err != nil {
		return nil, err
	}
	s.metrics.reads.Add(1)
	s.metrics.messages.Add(int64(len(page.Messages)))
	if page.Truncated {
		s.metrics.truncations.Add(1)
	}
	return page, nil
}

// Gap answers whether a message after a position is gone.
func (s *Service) Gap(ctx context.Context, req wire.ReplayAfter) (wire.ReplayGap, error) {
	page, err := s.since(ctx, wire.ReplaySinceRequest{Topic: req.Topic, After: req.After, Ts: req.Ts, Limit: 1})
	if err != nil {
		return wire.ReplayGap{}, err
	}
	return wire.ReplayGap{Truncated: page.Truncated, MissingFrom: page.MissingFrom, Seq: page.Head.Seq}, nil
}

// Publish stores a message and answers where. With producer and key it is
// stored once, however often it is sent within the rule's dedupe window.
func (s *Service) Publish(ctx context.Context, req wire.ReplayPublish) (wire.ReplayStored, error) {
	log, e, err := s.entry(req)
	if err != nil {
		return wire.ReplayStored{}, err
	}
	stored, err := log.Append(ctx, e)
	s.published(stored, err)
	return stored, err
}

func (s *Service) published(stored wire.ReplayStored, err error) {
	switch {
	case err != nil:
		s.metrics.publishErrors.Add(1)
	case stored.Duplicate:
		s.metrics.duplicates.Add(1)
	default:
		s.metrics.publishes.Add(1)
	}
}

// Batch stores several messages; atomic: all of them, one behind the other, or
// none.
func (s *Service) Batch(ctx context.Context, req wire.ReplayBatch) (wire.ReplayResults, error) {
	if len(req.Messages) == 0 || len(req.Messages) > streams.MaxBatch {
		return wire.ReplayResults{}, wire.InvalidField("messages", fmt.Sprintf("from 1 to %d", streams.MaxBatch))
	}
	results := make([]wire.ReplayResult, len(req.Messages))
	if !req.Atomic {
		for i, m := range req.Messages {
			stored, err := s.Publish(ctx, m)
			if err != nil {
				results[i].Error = wire.AppendError(nil, wire.AsError(err))
				continue
			}
			results[i] = wire.ReplayResult{Seq: stored.Seq, Duplicate: stored.Duplicate}
		}
		return wire.ReplayResults{Results: results}, nil
	}
	var log Log
	entries := make([]Entry, len(req.Messages))
	for i, m := range req.Messages {
		one, e, err := s.entry(m)
		if err != nil {
			return wire.ReplayResults{}, wire.AsError(err).With("message", i)
		}
		if i > 0 && one != log {
			return wire.ReplayResults{}, wire.Errorf(wire.FailedPrecondition, "atomic: the topics of a batch are of one rule").With("message", i)
		}
		log, entries[i] = one, e
	}
	stored, err := log.AppendAll(ctx, entries)
	if err != nil {
		s.metrics.publishErrors.Add(1)
		return wire.ReplayResults{}, err
	}
	for i, at := range stored {
		s.published(at, nil)
		results[i] = wire.ReplayResult{Seq: at.Seq, Duplicate: at.Duplicate}
	}
	return wire.ReplayResults{Results: results}, nil
}

// entry checks a message before anything is stored.
func (s *Service) entry(m wire.ReplayPublish) (Log, Entry, error) {
	log, rule, err := s.governing(m.Topic)
	if err != nil {
		return nil, Entry{}, err
	}
	if m.Event != "" {
		if err := wire.CheckEvent(m.Event); err != nil {
			return nil, Entry{}, err
		}
	}
	if m.Producer != "" {
		if err := wire.CheckUser(m.Producer); err != nil {
			return nil, Entry{}, wire.InvalidField("producer", "1-128 bytes without control characters")
		}
	}
	data := []byte(m.Data)
	if len(data) == 0 {
		data = []byte("null")
	}
	if !wire.ValidJSON(data) {
		return nil, Entry{}, wire.InvalidField("data", "JSON in UTF-8")
	}
	if most := rule.Replay.MaxMessageBytes; most > 0 && int64(len(data)) > most {
		return nil, Entry{}, (&wire.Error{Code: wire.ResourceExhausted, Message: "data: larger than the topic's rule takes", RetryAfter: wire.Never}).
			With("observed", len(data)).With("limit", most).With("outcome", "none")
	}
	e := Entry{Topic: m.Topic, Event: m.Event, Payload: data}
	if m.Key != "" {
		if err := wire.CheckKey(m.Key); err != nil {
			return nil, Entry{}, err
		}
		e.ID = streams.ProducerID(m.Topic, m.Producer, m.Key)
	}
	return log, e, nil
}

// Clear removes the messages of all topics.
func (s *Service) Clear(ctx context.Context, _ struct{}) (struct{}, error) {
	all := s.all()
	for _, log := range all { // rather nothing than a part
		if l, ok := log.(*archived); ok {
			if err := l.reachable(ctx); err != nil {
				return struct{}{}, err
			}
		}
	}
	for name, log := range all {
		if err := log.Clear(ctx); err != nil {
			return struct{}{}, err
		}
		s.tellCleared(name)
	}
	return struct{}{}, nil
}

// ClearTopic removes the messages of a topic.
func (s *Service) ClearTopic(ctx context.Context, req wire.ReplayTopic) (struct{}, error) {
	log, err := s.log(req.Topic)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, log.ClearTopic(ctx, req.Topic)
}

// Topics lists the topics that have messages.
func (s *Service) Topics(ctx context.Context, req wire.ReplayTopicsRequest) (wire.ReplayTopics, error) {
	if req.Match != "" {
		if err := wire.CheckPattern(req.Match); err != nil {
			return wire.ReplayTopics{}, wire.InvalidField("match", "a topic or pattern")
		}
	}
	if err := checkLimit("limit", req.Limit); err != nil {
		return wire.ReplayTopics{}, err
	}
	limit := req.Limit
	if limit == 0 {
		limit = defaultLimit
	}
	page := wire.ReplayTopics{Topics: []wire.ReplaySummary{}}
	for _, log := range s.all() {
		some, err := log.Topics(ctx, req.Match, req.Cursor, limit+1)
		if err != nil {
			return wire.ReplayTopics{}, err
		}
		page.Topics = append(page.Topics, some...)
	}
	sortSummaries(page.Topics)
	if len(page.Topics) > limit {
		page.Topics = page.Topics[:limit]
		page.Cursor = page.Topics[limit-1].Topic
	}
	return page, nil
}

// position checks a position that came from outside.
func position(seq, ts int64) (wire.Position, error) {
	if seq < 0 || seq > wire.MaxID {
		return wire.Position{}, wire.InvalidField("after", "an integer from 0 to 9007199254740991")
	}
	if ts < -wire.MaxID || ts > wire.MaxID {
		return wire.Position{}, wire.InvalidField("ts", "an integer from -9007199254740991 to 9007199254740991")
	}
	return wire.Position{Seq: seq, Ts: ts}, nil
}

func checkLimit(field string, n int) error {
	if n < 0 || n > maxLimit {
		return wire.InvalidField(field, fmt.Sprintf("an integer from 1 to %d", maxLimit))
	}
	return nil
}

// log returns the log of a topic.
func (s *Service) log(topic string) (Log, error) {
	log, _, err := s.governing(topic)
	return log, err
}

func (s *Service) governing(topic string) (Log, *rules.Topic, error) {
	if err := wire.CheckTopic(topic); err != nil {
		return nil, nil, err
	}
	rule := s.deps.Rules.Current().Topic(topic)
	if rule == nil || rule.Replay == nil {
		return nil, nil, wire.Errorf(wire.FailedPrecondition, "the topic's rule has no replay").With("topic", topic)
	}
	log := s.open(rule.Stream(s.cfg.Namespace))
	if log == nil {
		return nil, nil, wire.Errorf(wire.Unavailable, "the topic's stream is not there yet").With("outcome", "none")
	}
	return log, rule, nil
}
