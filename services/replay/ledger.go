package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/ledger"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// filler writes into the ledger of a rule what ids its stream has stored. All
// replicas work on the same durable consumer: each message is one's, and comes
// to another where that one dies.
type filler struct {
	rule     *rules.Topic
	stream   string
	ns       wire.Namespace
	replicas int
	js       jetstream.JetStream
	ledger   *ledger.Ledger
	log      *slog.Logger
	counts   *ledgerCounts

	made     time.Time                       // when the ledger was made; of the session
	position atomic.Pointer[ledger.Position] // as this replica knows it; there while it fills
}

// ledgerCounts are the figures of all fillers of a replica.
type ledgerCounts struct {
	filled, full, interruptions atomic.Int64
}

const (
	// fillAtOnce bounds the ids that are being written.
	fillAtOnce = 64
	// fillPending bounds the messages that all replicas together have in hand.
	fillPending = 4096
	// fillWait is how long a replica has a message before another gets it.
	fillWait = 5 * time.Second
	// fillAgain is the pause before a message that could not be noted comes again.
	fillAgain = time.Second
	// fillBegin is between two looks while it is not known yet how far it is.
	fillBegin = 100 * time.Millisecond
	// fillerGone is how long the consumer stays while nobody fills.
	fillerGone = time.Hour
)

// newFiller returns the filler of a rule, nil where the stream itself remembers
// ids for as long as the rule says.
func (s *Service) newFiller(name string, rule *rules.Topic, feeder jetstream.JetStream) *filler {
	if !ledger.Needed(rule.Replay) {
		return nil
	}
	return &filler{
		rule: rule, stream: name, ns: s.cfg.Namespace, replicas: s.cfg.Replicas, js: feeder,
		ledger: ledger.Open(s.requests, s.cfg.Namespace, rule), log: s.slog, counts: &s.ledgers,
	}
}

// keys returns the most ids that the ledger takes.
func (f *filler) keys() int { return f.rule.Replay.DedupeKeys }

// standing returns how many ids the ledger has, and how much of the past is not
// in it.
func (f *filler) standing(now time.Time) (ids int64, lag time.Duration) {
	if f == nil {
		return 0, 0
	}
	p := f.position.Load()
	if p == nil {
		return 0, 0
	}
	return p.Keys, now.Sub(time.UnixMilli(p.UpTo))
}

// run fills until ctx is done.
func (f *filler) run(ctx context.Context) {
	if f == nil {
		return
	}
	said := ""
	for ctx.Err() == nil {
		err := f.session(ctx)
		if ctx.Err() != nil {
			return
		}
		f.counts.interruptions.Add(1)
		if err != nil && err.Error() != said {
			said = err.Error()
			f.log.Warn("ledger of keys is not filled", "stream", f.stream, "err", err)
		}
		if clock.Sleep(ctx, retryPause*4) != nil {
			return
		}
	}
}

// errAnew says that a stream, or its ledger, is not the one that was filled.
var errAnew = errors.New("the stream or its ledger was made anew")

// session fills until something is in the way.
func (f *filler) session(ctx context.Context) error {
	made, err := ledger.Setup(ctx, f.js, f.ns, f.rule, f.replicas)
	if err != nil {
		return err
	}
	if !made.Equal(f.made) {
		f.made = made
		f.position.Store(nil) // what is known is of another ledger
	}
	consumer, err := f.consumer(ctx)
	if err != nil {
		return fmt.Errorf("consumer of %s: %w", f.stream, err)
	}
	begun, marks, err := f.look(ctx, consumer, nil)
	if err != nil {
		return fmt.Errorf("look at %s: %w", f.stream, err)
	}
	f.position.Store(&begun)
	messages, err := consumer.Messages(jetstream.PullMaxMessages(fillPending/4), jetstream.PullExpiry(5*time.Second))
	if err != nil {
		return fmt.Errorf("consume %s: %w", f.stream, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	work.Go(func() { cancel(f.advance(ctx, consumer, begun, marks)) })
	defer func() {
		cancel(nil)
		messages.Stop()
		work.Wait()
	}()
	room := make(chan struct{}, fillAtOnce)
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("consume %s: %w", f.stream, err)
		}
		id, at := f.id(msg)
		if id == "" {
			if err := msg.Ack(); err != nil {
				return fmt.Errorf("acknowledge a message of %s: %w", f.stream, err)
			}
			continue
		}
		room <- struct{}{} // a place is free within fillWait
		work.Go(func() {
			defer func() { <-room }()
			f.fill(ctx, msg, id, at)
		})
	}
}

// metaLedger is, in the consumer's metadata, when the ledger was made that it
// fills: one for a ledger that was lost would begin where that one ended.
const metaLedger = "fairlead.ledger"

// consumer returns the durable consumer of the stream. A new one begins where
// the rule's promise does: what is older is not remembered anyway.
func (f *filler) consumer(ctx context.Context) (jetstream.Consumer, error) {
	name, of := f.ns.Bucket("dedupe"), f.made.Format(time.RFC3339Nano)
	consumer, err := f.js.Consumer(ctx, f.stream, name)
	switch {
	case err == nil && consumer.CachedInfo().Config.Metadata[metaLedger] == of:
		return consumer, nil
	case err == nil:
		if err := f.js.DeleteConsumer(ctx, f.stream, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil, err
		}
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, err
	}
	since := time.Now().Add(-f.rule.Replay.Dedupe)
	consumer, err = f.js.CreateConsumer(ctx, f.stream, jetstream.ConsumerConfig{
		Durable: name, Description: "writes the ids of stored messages into " + ledger.Bucket(f.ns, f.rule),
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: fillWait, MaxAckPending: fillPending,
		HeadersOnly: true, InactiveThreshold: fillerGone, Metadata: map[string]string{metaLedger: of},
	})
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return f.js.Consumer(ctx, f.stream, name) // another replica was faster
	}
	return consumer, err
}

// id returns the id that a message is to be remembered by, "" where it has none
// or is too old to be remembered, and where it stands.
func (f *filler) id(msg jetstream.Msg) (string, ledger.Entry) {
	id := wire.HeaderValue(msg.Headers(), wire.HeaderMsgID)
	if id == "" || streams.Marker(msg.Headers()) {
		return "", ledger.Entry{}
	}
	meta, err := msg.Metadata()
	if err != nil || time.Since(meta.Timestamp) > f.rule.Replay.Dedupe {
		return "", ledger.Entry{}
	}
	return id, ledger.Entry{Seq: int64(meta.Sequence.Stream), Ts: meta.Timestamp.UnixMilli()}
}

// fill notes one message and acknowledges it. One that can't be noted comes
// again: the ledger does not go past it.
func (f *filler) fill(ctx context.Context, msg jetstream.Msg, id string, at ledger.Entry) {
	ctx, cancel := context.WithTimeout(ctx, fillWait/2)
	defer cancel()
	err := f.ledger.Fill(ctx, id, at, f.position.Load())
	if err == nil {
		f.counts.filled.Add(1)
		err = msg.Ack()
	} else {
		if errors.Is(err, ledger.ErrFull) {
			f.counts.full.Add(1)
		}
		f.log.Debug("key was not noted", "stream", f.stream, "err", err)
		err = msg.NakWithDelay(fillAgain)
	}
	if err != nil {
		f.log.Debug("message was not acknowledged", "stream", f.stream, "err", err) // it comes again
	}
}

// mark is where a stream ended at a time.
type mark struct{ at, last int64 }

// marksMost bounds the marks that wait for the consumer.
const marksMost = 512

// advance says in the ledger how far it is, until ctx is done, or the stream or
// the ledger is not the one any more that the session is of.
func (f *filler) advance(ctx context.Context, consumer jetstream.Consumer, p ledger.Position, marks []mark) error {
	for {
		var err error
		if p, err = f.ledger.Advance(ctx, p); err != nil {
			f.log.Debug("position of the ledger was not written", "stream", f.stream, "err", err)
		}
		known := p
		f.position.Store(&known)
		wait := ledger.Refresh(time.Duration(p.Window) * time.Millisecond)
		if p.UpTo == 0 {
			wait = min(wait, fillBegin) // nobody publishes with a key before that
		}
		if clock.Sleep(ctx, wait) != nil {
			return nil
		}
		now, waiting, err := f.look(ctx, consumer, marks)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, errAnew):
			return fmt.Errorf("look at %s: %w", f.stream, err)
		case err != nil:
			continue // JetStream is away: the ledger says by itself that it grows old
		case now.Created != p.Created:
			return errAnew
		}
		p, marks = now, waiting
	}
}

// look asks how far the stream and its consumer are. What the stream had at an
// earlier look is in the ledger once the consumer has nothing before it in hand.
func (f *filler) look(ctx context.Context, consumer jetstream.Consumer, marks []mark) (ledger.Position, []mark, error) {
	ctx, cancel := context.WithTimeout(ctx, fillWait)
	defer cancel()
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		return ledger.Position{}, nil, err
	}
	is := stream.CachedInfo()
	read, err := consumer.Info(ctx)
	if err != nil {
		return ledger.Position{}, nil, err
	}
	bucket, err := f.js.Stream(ctx, ledger.Stream(ledger.Bucket(f.ns, f.rule)))
	if err != nil {
		return ledger.Position{}, nil, err
	}
	if !bucket.CachedInfo().Created.Equal(f.made) {
		return ledger.Position{}, nil, errAnew
	}
	p := ledger.Position{
		At: is.TimeStamp.UnixMilli(), Last: int64(is.State.LastSeq), Created: is.Created.UnixMilli(),
		Window: is.Config.Duplicates.Milliseconds(), Keys: max(int64(bucket.CachedInfo().State.Msgs)-1, 0), // one is the position
	}
	if before := f.position.Load(); before != nil && before.Created == p.Created {
		p.UpTo = before.UpTo
	}
	idle := read.NumPending == 0 && read.NumAckPending == 0
	floor, first := int64(read.AckFloor.Stream), int64(is.State.FirstSeq)
	done := 0
	for i, m := range marks {
		// A consumer may be led by a replica that has not seen the stream's end
		// yet: that it is idle counts for what was there a look ago.
		if idle || m.last <= floor || m.last < first {
			p.UpTo, done = max(p.UpTo, m.at), i+1
		}
	}
	if p.Last <= floor || is.State.Msgs == 0 {
		p.UpTo, done = p.At, len(marks)
	}
	marks = append(marks[done:], mark{at: p.At, last: p.Last})
	if len(marks) > marksMost {
		marks = marks[1:]
	}
	return p, marks, nil
}
