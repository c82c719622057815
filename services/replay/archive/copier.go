package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// Durable is the name of the consumer that all copiers of a stream share.
	Durable = "fairlead_archive"

	batchMessages = 1000
	batchBytes    = 8 << 20 // of payload; more where one message may be larger
	maxAckPending = 10 * batchMessages

	ackWait        = 10 * time.Second // what a killed copier held comes again after that
	pullFor        = 10 * time.Second
	stopTimeout    = 5 * time.Second // for a batch that is being stored when a copier stops
	heartbeat      = 2 * time.Second // a pull that lost its server is noticed after two
	requestTimeout = 2 * time.Second // a request that a restarting server lost is made again

	// settleEvery is how often a copier asks whether what is missing may still
	// come, while something is.
	settleEvery = 250 * time.Millisecond

	retryFrom = 50 * time.Millisecond
	retryTo   = 2 * time.Second
)

// CopierConfig says what a [Copier] copies. All fields but Log and Counts are
// needed.
type CopierConfig struct {
	Archive   *Archive
	JetStream jetstream.JetStream
	Stream    string
	Namespace wire.Namespace
	Log       *slog.Logger // says when copying stops and goes on; nothing when nil
	Counts    *Counts      // several copiers may add to the same
}

// Counts are what copiers did.
type Counts struct {
	Copied        atomic.Int64 // messages archived
	Holes         atomic.Int64 // ranges of sequences that were gone before they were copied
	Interruptions atomic.Int64 // times that copying stopped for something in its way
}

// Copier copies a whole stream to the archive. Any number of them, in any
// processes, share the work.
type Copier struct {
	cfg     CopierConfig
	ackWait time.Duration

	mu       sync.Mutex // guards what follows
	position int64      // of the log, as far as this copier knows
	lag      lag
	stopped  time.Time // since when something is in the way; zero: nothing
}

// NewCopier returns a copier that [Copier.Run] starts.
func NewCopier(cfg CopierConfig) *Copier {
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)).With("stream", cfg.Stream)
	cfg.Counts = cmp.Or(cfg.Counts, &Counts{})
	return &Copier{cfg: cfg, ackWait: ackWait}
}

// Run copies until ctx ends; then it gives back what it has not stored and
// returns nil. Nothing else ends it: while NATS, Postgres or the stream is away
// it tries again. It brings the archive's tables up to date first.
func (c *Copier) Run(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { c.copy(ctx); return nil })
	group.Go(func() error { c.observe(ctx); return nil })
	return group.Wait()
}

func (c *Copier) copy(ctx context.Context) {
	wait, said := retryFrom, false
	working := func() {
		wait = retryFrom
		if said {
			c.cfg.Log.Info("archive goes on")
			c.interrupted(time.Time{})
			said = false
		}
	}
	migrated, anew := false, false
	for {
		var err error
		if !migrated {
			err = c.cfg.Archive.Migrate(ctx)
			migrated = err == nil
		}
		if err == nil {
			err = c.session(ctx, anew, working)
			anew = errors.Is(err, errOther)
		}
		if ctx.Err() != nil {
			return
		}
		if !said && !passes(err) {
			c.cfg.Log.Warn("archive interrupted", "err", err)
			c.cfg.Counts.Interruptions.Add(1)
			c.interrupted(time.Now())
			said = true
		}
		timer := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		wait = min(2*wait, retryTo)
	}
}

// errReplaced ends a session whose consumer or log is not the current one any
// more, or may not be.
var errReplaced = errors.New("the stream may be another one")

// passes reports whether an interruption is no news: another life of the stream,
// or one that nobody has made yet.
func passes(err error) bool {
	return errors.Is(err, errReplaced) || errors.Is(err, errOther) || errors.Is(err, jetstream.ErrStreamNotFound)
}

func (c *Copier) interrupted(since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = since
}

func (c *Copier) reached(position int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.position = position
}

// session copies until something is in its way. Whoever calls it opens another
// one, which looks again at what there is. anew makes a new log even where the
// old one looks right; working is called whenever something went well.
func (c *Copier) session(ctx context.Context, anew bool, working func()) error {
	s, err := c.open(ctx, anew)
	if err != nil {
		return err
	}
	s.working = working
	for ctx.Err() == nil {
		if err := s.pull(ctx); err != nil {
			return err
		}
		working()
	}
	return nil
}

// open finds the stream, the log that is of this life of it, and the consumer.
func (c *Copier) open(ctx context.Context, anew bool) (*session, error) {
	// The log is read before the stream, so that it can't be ahead of it.
	known, newest, err := c.cfg.Archive.current(ctx, c.cfg.Stream)
	if err != nil {
		return nil, err
	}
	created, same, err := c.find(ctx, known, newest)
	if err != nil {
		return nil, err
	}
	same = same && !anew
	if !same && known.created == created.UnixNano() {
		// Another stream though it was not made anew: its consumer believes that
		// it is further. It goes before there is a log that looks right.
		if err := c.reset(ctx); err != nil {
			return nil, err
		}
	}
	l, err := c.cfg.Archive.enter(ctx, c.cfg.Stream, created.UnixNano(), known.id, same)
	if err != nil {
		return nil, err
	}
	consumer, err := c.consumer(ctx, created)
	if err != nil {
		return nil, err
	}
	c.reached(l.position)
	most := int(max(batchBytes, c.cfg.JetStream.Conn().MaxPayload()+64<<10)) // a pull takes its largest message
	return &session{c: c, log: l.id, gap: l.position < l.last, consumer: consumer, made: consumer.CachedInfo().Created, bytes: most}, nil
}

// find returns when the stream was made, and whether it continues a log.
func (c *Copier) find(ctx context.Context, known *log, newest Message) (created time.Time, same bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := c.cfg.JetStream.Stream(ctx, c.cfg.Stream)
	if err != nil {
		return created, false, fmt.Errorf("find stream %s: %w", c.cfg.Stream, err)
	}
	same, err = c.continues(ctx, stream.CachedInfo(), known, newest)
	return stream.CachedInfo().Created, same, err
}

// reset makes the next consumer begin at the beginning.
func (c *Copier) reset(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := c.cfg.JetStream.DeleteConsumer(ctx, c.cfg.Stream, Durable)
	if err == nil || errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil
	}
	return fmt.Errorf("delete consumer %s of stream %s: %w", Durable, c.cfg.Stream, err)
}

// consumer finds or makes the consumer of the stream that was made at created.
func (c *Copier) consumer(ctx context.Context, created time.Time) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	js := c.cfg.JetStream
	consumer, err := js.CreateOrUpdateConsumer(ctx, c.cfg.Stream, jetstream.ConsumerConfig{
		Durable:       Durable,
		Description:   "Fairlead: copies the stream to Postgres",
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       c.ackWait,
		MaxDeliver:    -1,
		MaxAckPending: maxAckPending,
	})
	if err != nil {
		return nil, fmt.Errorf("make consumer %s of stream %s: %w", Durable, c.cfg.Stream, err)
	}
	// A consumer can't outlive its stream: it is of the stream that was there
	// before and after it was made.
	stream, err := js.Stream(ctx, c.cfg.Stream)
	if err != nil {
		return nil, fmt.Errorf("find stream %s: %w", c.cfg.Stream, err)
	}
	if !stream.CachedInfo().Created.Equal(created) {
		return nil, errReplaced
	}
	return consumer, nil
}

// continues reports whether the stream is the one that the log is of: made at
// the same time, no shorter, and with the log's newest message in its place. Of
// one that is evicted nothing is known.
func (c *Copier) continues(ctx context.Context, info *jetstream.StreamInfo, known *log, newest Message) (bool, error) {
	switch {
	case known.id == 0:
		return false, nil
	case known.created != 0 && known.created != info.Created.UnixNano(), int64(info.State.LastSeq) < known.last:
		return false, nil
	case newest.Seq == 0:
		return true, nil
	}
	at, there, err := c.storedAt(ctx, newest.Seq, false)
	return !there || at.Equal(newest.Time), err
}
