package archive

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// observeEvery is how old the figures of [Copier.Lag] may be.
const observeEvery = 2 * time.Second

// Lag is how far the copy of a stream is behind.
type Lag struct {
	Messages int64         // not archived yet
	Bytes    int64         // of the stream that they take, roughly
	Age      time.Duration // of the oldest of them
	// Share is how much of what the stream keeps they are: at 1 it gives up
	// messages that are not archived. It takes them to be of one topic: that is
	// the worst.
	Share float64
	// Stopped is for how long nothing could be copied since something was in
	// the way.
	Stopped time.Duration
}

// lag is how far the copy of a stream is behind, as seen last.
type lag struct {
	messages, bytes int64
	oldest          time.Time // when the oldest message that is not copied was stored; zero: all are
	share           float64
}

// Lag returns how far the copy is behind. It is of all copiers of the stream,
// and at most a few seconds old; while NATS is away it is what was seen last,
// growing older.
func (c *Copier) Lag() Lag {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := Lag{Messages: c.lag.messages, Bytes: c.lag.bytes, Share: c.lag.share}
	if !c.lag.oldest.IsZero() {
		out.Age = max(time.Since(c.lag.oldest), 0)
	}
	if !c.stopped.IsZero() {
		out.Stopped = time.Since(c.stopped)
	}
	return out
}

func (c *Copier) observe(ctx context.Context) {
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	for {
		if seen, err := c.look(ctx); err == nil { // the session says what is wrong
			c.mu.Lock()
			c.lag = seen
			c.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (c *Copier) look(ctx context.Context) (lag, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := c.cfg.JetStream.Stream(ctx, c.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return lag{}, nil
	}
	if err != nil {
		return lag{}, err
	}
	info := stream.CachedInfo()
	behind := int64(info.State.Msgs)
	consumer, err := stream.Consumer(ctx, Durable)
	if err == nil {
		of := consumer.CachedInfo()
		behind = int64(of.NumPending) + int64(of.NumAckPending)
	} else if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return lag{}, err
	}
	if behind == 0 {
		return lag{}, nil
	}
	c.mu.Lock()
	next := c.position + 1
	c.mu.Unlock()
	at, there, err := c.storedAt(ctx, next, true)
	if err != nil || !there { // copied meanwhile
		return lag{}, err
	}
	seen := lag{messages: behind, oldest: at}
	if n := int64(info.State.Msgs); n > 0 {
		seen.bytes = int64(float64(info.State.Bytes) / float64(n) * float64(behind))
	}
	seen.share = share(seen, info.Config)
	return seen, nil
}

// share returns how much of what a stream keeps is not copied.
func share(l lag, cfg jetstream.StreamConfig) (of float64) {
	if cfg.MaxMsgsPerSubject > 0 {
		of = float64(l.messages) / float64(cfg.MaxMsgsPerSubject)
	}
	if cfg.MaxBytes > 0 {
		of = max(of, float64(l.bytes)/float64(cfg.MaxBytes))
	}
	if cfg.MaxAge > 0 {
		of = max(of, float64(time.Since(l.oldest))/float64(cfg.MaxAge))
	}
	return of
}
