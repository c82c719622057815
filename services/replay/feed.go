package replay

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// feed keeps the index of a stream: one [streams.Tail] that sees every message's
// headers, whatever the number of topics. A tail of a stream that was deleted
// and made anew says nothing of it, so the stream itself is asked
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
		if clock.Sleep(ctx, retryPause*4) != nil {
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
	nc := f.js.Conn()
	take := func(msg *nats.Msg, meta *nats.MsgMetadata) error { return f.take(x, msg, meta, begun.last.Seq) }
	tail := func(from int64) (*streams.Tail, error) {
		return streams.NewTail(ctx, nc, streams.TailConfig{Stream: f.s.name, From: from, HeadersOnly: true}, take)
	}
	t, err := tail(1)
	if err != nil {
		return err
	}
	defer func() { t.Close() }()
	back := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(back)
	// again goes on from where the index is, with a new tail.
	again := func() {
		t.Close()
		upTo, _ := x.position()
		for {
			next, err := tail(upTo + 1)
			if err == nil {
				t = next
				return
			}
			select {
			case <-time.After(retryPause * 4):
			case <-stale:
				return
			case <-ctx.Done():
				return
			}
		}
	}
	if begun.messages == 0 {
		x.reached(begun.last.Seq, begun.first.Seq)
	}
	built := x.await(begun.last.Seq)
	defer x.giveUp(built)
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	was, reached, stuck := begun, int64(0), time.Time{}
	for rounds := 1; ; rounds++ {
		early := false
		select {
		case <-ctx.Done():
			return nil
		case <-stale:
			return nil
		case err := <-t.Broken:
			if errors.Is(err, errStale) {
				return err
			}
			again()
			continue
		case <-back: // the server may have forgotten the tail
			again()
			continue
		case <-built:
			built, early = nil, true
		case <-tick.C:
		}
		upTo, _ := x.position() // before the stream is asked: it goes on meanwhile
		is, err := f.s.state(ctx)
		if err != nil {
			continue // JetStream is away: nothing is known
		}
		if built == nil && is.last.Seq >= upTo {
			x.complete(is.first.Seq)
		}
		if early {
			continue // whether it goes on shows from one tick to the next
		}
		switch {
		case is.created.After(begun.created), is.last.Seq < upTo, is.last.Seq == was.last.Seq && is.last.Ts < was.last.Ts && is.messages > 0:
			return errStale
		case is.messages == 0:
			x.reached(is.last.Seq, is.first.Seq)
		case t.Silent(time.Now()):
			again()
		case upTo > reached || upTo >= was.last.Seq:
			stuck = time.Time{}
		case stuck.IsZero():
			stuck = time.Now()
			again()
		case time.Since(stuck) > streams.TailSilence:
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
func (f *feed) take(x *index, msg *nats.Msg, meta *nats.MsgMetadata, end int64) error {
	at := wire.Position{Seq: int64(meta.Sequence.Stream), Ts: meta.Timestamp.UnixMilli()}
	topic, ok := f.s.ns.ParseTopic(msg.Subject)
	if !ok {
		return errStale
	}
	x.add(topic, at, streams.Marker(msg.Header))
	if meta.NumPending == 0 {
		x.reached(max(at.Seq, end), 0)
	}
	return nil
}
