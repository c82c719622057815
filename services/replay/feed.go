package replay

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// feed keeps the index of a stream: one consumer that sees every message's
// headers, whatever the number of topics. A consumer of a stream that was
// deleted and made anew goes silent for ever, so the stream itself is asked
// every few seconds how far it is.
type feed struct {
	s     *stream
	js    jetstream.JetStream
	log   *slog.Logger
	every time.Duration
}

// feedLook is how often the index is compared with the stream.
const feedLook = 5 * time.Second

// errStale says that the index is of another log than the stream.
var errStale = errors.New("the stream is not the one that was indexed")

// run feeds the index until ctx is done.
func (f *feed) run(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		x, stale := f.s.index.watch()
		err := f.session(ctx, x, stale)
		if ctx.Err() != nil {
			return
		}
		if upTo, _ := x.position(); errors.Is(err, errStale) || upTo > 0 {
			f.s.index.renew(x)
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			f.log.Warn("index is built again", "stream", f.s.name, "err", err)
		}
		if pause(ctx, retryPause*4) != nil {
			return
		}
	}
}

// session feeds one index until it is of no use any more.
func (f *feed) session(ctx context.Context, x *index, stale <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begun, err := f.s.state(ctx)
	if err != nil {
		return err
	}
	consumer, err := f.js.OrderedConsumer(ctx, f.s.name, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverAllPolicy, HeadersOnly: true,
	})
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		if err := f.take(x, msg, begun.last.Seq); err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	}, jetstream.PullMaxMessages(4096), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		if errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, jetstream.ErrConsumerNotFound) {
			f.log.Debug("index consumer is gone", "stream", f.s.name, "err", err)
		}
	}))
	if err != nil {
		return err
	}
	defer func() {
		consuming.Stop()
		<-consuming.Closed()
	}()
	if begun.messages == 0 {
		x.reached(begun.last.Seq, begun.first.Seq)
	}
	closed := consuming.Closed()
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	was, reached := begun, int64(0)
	for rounds := 1; ; rounds++ {
		select {
		case <-ctx.Done():
			return nil
		case <-stale:
			return nil
		case err := <-failed:
			return err
		case <-closed:
			return errors.New("the consumer ended")
		case <-tick.C:
		}
		is, err := f.s.state(ctx)
		if err != nil {
			continue // JetStream is away: nothing is known
		}
		upTo, _ := x.position()
		switch {
		case is.created.After(begun.created), is.last.Seq < upTo, is.last.Seq == was.last.Seq && is.last.Ts < was.last.Ts && is.messages > 0:
			return errStale
		case is.messages == 0:
			x.reached(is.last.Seq, is.first.Seq)
		case upTo == reached && upTo < was.last.Seq:
			return errors.New("nothing came although the stream goes on")
		}
		x.raise(is.first.Seq)
		if rounds%pruneEvery == 0 {
			x.prune()
		}
		was, reached = is, upTo
	}
}

// pruneEvery is after how many looks the index forgets topics without messages.
const pruneEvery = 12

// take notes one message; end is where the stream ended when the feed began.
func (f *feed) take(x *index, msg jetstream.Msg, end int64) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	at := wire.Position{Seq: int64(meta.Sequence.Stream), Ts: meta.Timestamp.UnixMilli()}
	topic, ok := f.s.ns.ParseTopic(msg.Subject())
	if !ok {
		return errStale
	}
	x.add(topic, at, streams.Marker(msg.Headers()))
	if meta.NumPending == 0 {
		x.reached(max(at.Seq, end), 0)
	}
	return nil
}
