package replay

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Append implements [Log].
func (s *stream) Append(ctx context.Context, e Entry) (wire.ReplayStored, error) {
	msg, err := s.entry(e)
	if err != nil {
		return wire.ReplayStored{}, wire.AsError(err).With("outcome", "none")
	}
	return s.store(ctx, msg, e.ID != "")
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
		if pause(ctx, retryPause) != nil {
			if sent {
				return wire.ReplayStored{}, wire.AsError(err).With("outcome", "unknown")
			}
			return wire.ReplayStored{}, err
		}
	}
}

const retryPause = 50 * time.Millisecond

// pause waits, or returns why not.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// AppendAll implements [Log].
func (s *stream) AppendAll(ctx context.Context, entries []Entry) ([]wire.ReplayStored, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	select {
	case s.batches <- struct{}{}:
		defer func() { <-s.batches }()
	case <-ctx.Done():
		return nil, wire.Errorf(wire.DeadlineExceeded, "too many atomic batches at once").With("outcome", "none")
	}
	for {
		msgs := make([]*nats.Msg, len(entries))
		for i, e := range entries {
			var err error
			if msgs[i], err = s.entry(e); err != nil {
				return nil, err
			}
		}
		streams.Batch(nuid.Next(), msgs)
		last := len(msgs) - 1
		for _, msg := range msgs[:last] {
			if err := s.publish.PublishMsg(msg); err != nil {
				return nil, wire.AsError(away(err)).With("outcome", "none")
			}
		}
		reply, err := s.publish.RequestMsgWithContext(ctx, msgs[last])
		var ack streams.Ack
		retry := false
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return nil, wire.Errorf(wire.Unavailable, "no stream takes the topics").With("outcome", "none")
		case err != nil:
			return nil, wire.Errorf(wire.DeadlineExceeded, "JetStream did not acknowledge in time").With("outcome", "unknown")
		default:
			ack, retry, err = streams.ParseAck(reply)
		}
		if err == nil {
			out := make([]wire.ReplayStored, len(entries))
			for i := range out {
				out[i].Seq = ack.Seq - int64(last-i)
			}
			return out, nil
		}
		if !retry || pause(ctx, retryPause) != nil {
			return nil, err
		}
	}
}
