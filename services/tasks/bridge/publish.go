package bridge

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// ackTry bounds one try of a publish that is to be acknowledged: while a stream
	// has no leader nobody answers.
	ackTry = time.Second
	// ackFor bounds all tries, but for the time in which NATS is away.
	ackFor     = 30 * time.Second
	retryPause = 50 * time.Millisecond
)

// send publishes an entry, or counts why it was not.
func (b *Bridge) send(ctx context.Context, e *entry) {
	var why reason
	var err error
	if replay := b.kept(e.topic); replay != nil {
		why, err = b.store(ctx, e, replay)
	} else {
		why, err = b.tell(ctx, e)
	}
	switch {
	case why == fine && e.gap:
	case why == fine:
		b.counts.published.Add(1)
	case why == superseded && e.gap: // the next session announces its own
	default:
		b.drop(e.channel.name, why, err)
		if why == undelivered { // a gap that nobody has heard of is announced again
			e.channel.lost.Store(true)
		}
	}
}

// kept returns how a topic is kept, nil where it is not.
func (b *Bridge) kept(topic string) *rules.Replay {
	if topic == "" {
		return nil
	}
	if t := b.cfg.Rules.Current().Topic(topic); t != nil {
		return t.Replay
	}
	return nil
}

// tell publishes to whoever listens. While NATS is away it waits.
func (b *Bridge) tell(ctx context.Context, e *entry) (reason, error) {
	for {
		if !e.lease.await(ctx) {
			return superseded, nil
		}
		e.channel.unsure.Store(true)
		err := b.cfg.NATS.PublishMsg(e.msg)
		switch {
		case err == nil:
			return fine, nil
		case !away(err):
			return refused, err
		case clock.Sleep(ctx, retryPause) != nil:
			return undelivered, err
		}
	}
}

func away(err error) bool {
	return bus.Away(err) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionReconnecting)
}

// store publishes until the topic's stream has it. It is sent again after silence
// only as long as the stream remembers that it had it.
func (b *Bridge) store(ctx context.Context, e *entry, replay *rules.Replay) (reason, error) {
	id := streams.ProducerID(e.topic, "bridge", b.run+"."+strconv.FormatUint(b.stored.Add(1), 36))
	e.msg.Header[wire.HeaderMsgID] = []string{id}
	begun := time.Now()
	var unknown time.Time // since when the stream may have it
	for {
		if !e.lease.await(ctx) {
			return superseded, nil
		}
		now := time.Now()
		if !unknown.IsZero() && now.Sub(unknown) > replay.Dedupe/2 || now.Sub(begun) > ackFor {
			return undelivered, errors.New("the topic's stream does not answer")
		}
		try, cancel := context.WithTimeout(ctx, min(ackTry, max(replay.Dedupe/4, 20*time.Millisecond)))
		reply, err := b.cfg.NATS.RequestMsgWithContext(try, e.msg)
		cancel()
		retry := true
		switch {
		case ctx.Err() != nil:
			return undelivered, ctx.Err()
		case err == nil:
			if _, retry, err = streams.ParseAck(reply); err == nil {
				return fine, nil
			}
		case errors.Is(err, nats.ErrNoResponders): // the stream is being made, or has gone
		case bus.Away(err): // not sent
			begun = now
		case away(err), errors.Is(err, context.DeadlineExceeded):
			if unknown.IsZero() {
				unknown = now
			}
		default:
			retry = false
		}
		if !retry {
			return refused, err
		}
		if clock.Sleep(ctx, retryPause) != nil {
			return undelivered, err
		}
	}
}
