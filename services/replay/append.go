package replay

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/ledger"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Append implements [Log].
func (s *stream) Append(ctx context.Context, e Entry) (wire.ReplayStored, error) {
	msg, err := s.entry(e)
	if err != nil {
		return wire.ReplayStored{}, wire.AsError(err).With("outcome", "none")
	}
	if e.ID == "" || s.fill == nil {
		return s.store(ctx, msg, e.ID != "")
	}
	found, err := s.fill.ledger.Check(ctx, e.ID, s.fill.keys())
	if err != nil {
		return wire.ReplayStored{}, err
	}
	if found != nil {
		return wire.ReplayStored{Seq: found.Seq, Duplicate: true}, nil
	}
	at, err := s.store(ctx, msg, true)
	if err == nil && !at.Duplicate {
		_ = s.fill.ledger.Note(e.ID, at.Seq) // the filler notes it too
	}
	return at, err
}

func (s *stream) entry(e Entry) (*nats.Msg, error) {
	subject, err := s.ns.Topic(e.Topic)
	if err != nil {
		return nil, err
	}
	msg := &nats.Msg{Subject: subject, Header: nats.Header{}, Data: e.Payload}
	for _, h := range [...]struct{ name, value string }{
		{wire.HeaderEvent, e.Event}, {wire.HeaderUser, e.User}, {wire.HeaderExclude, e.Exclude}, {wire.HeaderMsgID, e.ID},
	} {
		if h.value == "" {
			continue
		}
		if err := wire.SetHeader(msg.Header, h.name, h.value); err != nil {
			return nil, err
		}
	}
	return msg, nil
}

// ackTry bounds one try of a publish. While a stream has no leader nobody
// answers.
const ackTry = time.Second

// store publishes until the stream has the message, or ctx ends. Only what
// can't be stored twice is sent again after silence.
func (s *stream) store(ctx context.Context, msg *nats.Msg, keyed bool) (wire.ReplayStored, error) {
	sent := false // a try may have been stored
	for {
		try, cancel := ctx, context.CancelFunc(func() {})
		if keyed {
			try, cancel = context.WithTimeout(ctx, ackTry)
		}
		reply, err := s.publish.RequestMsgWithContext(try, msg)
		cancel()
		retry := false
		var ack streams.Ack
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			err, retry = wire.Errorf(wire.Unavailable, "no stream takes the topic").With("outcome", "none"), true
		case err != nil && keyed && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			sent = true
			continue
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			return wire.ReplayStored{}, wire.Errorf(wire.DeadlineExceeded, "JetStream did not acknowledge in time").With("outcome", "unknown")
		case err != nil:
			if e := wire.AsError(away(err)); e.Code != wire.Internal {
				return wire.ReplayStored{}, e.With("outcome", "unknown")
			}
			return wire.ReplayStored{}, wire.AsError(err).With("outcome", "unknown")
		default:
			ack, retry, err = streams.ParseAck(reply)
		}
		if err == nil {
			return wire.ReplayStored{Seq: ack.Seq, Duplicate: ack.Duplicate}, nil
		}
		if !retry {
			return wire.ReplayStored{}, err
		}
		if clock.Sleep(ctx, retryPause) != nil {
			if sent {
				return wire.ReplayStored{}, wire.AsError(err).With("outcome", "unknown")
			}
			return wire.ReplayStored{}, err
		}
	}
}

const retryPause = 50 * time.Millisecond

// AppendAll implements [Log].
func (s *stream) AppendAll(ctx context.Context, entries []Entry) ([]wire.ReplayStored, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	ids, keyed := make([]string, len(entries)), 0
	for i, e := range entries {
		if ids[i] = e.ID; e.ID != "" {
			keyed++
		}
	}
	remembered := keyed > 0 && s.fill != nil
	if remembered {
		found, err := s.fill.ledger.CheckAll(ctx, ids, s.fill.keys())
		if err != nil || found != nil {
			return duplicates(found), err
		}
	}
	select {
	case s.batches <- struct{}{}:
		defer func() { <-s.batches }()
	case <-ctx.Done():
		return nil, wire.Errorf(wire.DeadlineExceeded, "too many atomic batches at once").With("outcome", "none")
	}
	// A batch of which every message has a key can be sent again after silence:
	// that it was stored then comes as a refusal, and the ledger says where.
	resolves := remembered && keyed == len(ids)
	last, err := s.commit(ctx, entries, resolves)
	if err != nil {
		if !resolves || wire.CodeOf(err) != wire.AlreadyExists {
			return nil, err
		}
		found, resolveErr := s.fill.ledger.Resolve(ctx, ids)
		if resolveErr != nil {
			return nil, wire.AsError(resolveErr).With("outcome", wire.AsError(err).Details["outcome"])
		}
		return duplicates(found), nil
	}
	if remembered {
		_ = s.fill.ledger.NoteAll(ids, last) // the filler notes them too
	}
	out := make([]wire.ReplayStored, len(entries))
	for i := range out {
		out[i].Seq = last - int64(len(out)-1-i)
	}
	return out, nil
}

func duplicates(found []*ledger.Found) []wire.ReplayStored {
	out := make([]wire.ReplayStored, len(found))
	for i, f := range found {
		out[i] = wire.ReplayStored{Seq: f.Seq, Duplicate: true}
	}
	return out
}

// commit stores entries as one atomic batch and returns where the last is.
func (s *stream) commit(ctx context.Context, entries []Entry, again bool) (int64, error) {
	outcome := "none"
	for {
		msgs := make([]*nats.Msg, len(entries))
		for i, e := range entries {
			var err error
			if msgs[i], err = s.entry(e); err != nil {
				return 0, err
			}
		}
		streams.Batch(nuid.Next(), msgs)
		last := len(msgs) - 1
		for _, msg := range msgs[:last] {
			if err := s.publish.PublishMsg(msg); err != nil {
				return 0, wire.AsError(away(err)).With("outcome", outcome)
			}
		}
		try, cancel := ctx, context.CancelFunc(func() {})
		if again {
			try, cancel = context.WithTimeout(ctx, ackTry)
		}
		reply, err := s.publish.RequestMsgWithContext(try, msgs[last])
		cancel()
		var ack streams.Ack
		retry := false
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return 0, wire.Errorf(wire.Unavailable, "no stream takes the topics").With("outcome", outcome)
		case err != nil && again && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			outcome = "unknown"
			continue
		case err != nil:
			return 0, wire.Errorf(wire.DeadlineExceeded, "JetStream did not acknowledge in time").With("outcome", "unknown")
		default:
			ack, retry, err = streams.ParseAck(reply)
		}
		if err == nil {
			return ack.Seq, nil
		}
		if !retry || clock.Sleep(ctx, retryPause) != nil {
			if outcome == "unknown" {
				err = wire.AsError(err).With("outcome", outcome)
			}
			return 0, err
		}
	}
}
