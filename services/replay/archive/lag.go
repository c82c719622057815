package archive

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// observeEvery is how old the figures of [Copier.Lag] may be.
const observeEvery = 2 * time.Second

// lag is how far the copy of a stream is behind, as seen last.
type lag struct {
	messages int64
	oldest   time.Time // when the oldest message that is not copied was stored; zero: all are
}

// Lag returns how many messages of the stream are not archived yet, and how old
// the oldest of them is. It is of all copiers of the stream, and at most a few
// seconds old; while NATS is away it is what was seen last, growing older.
func (c *Copier) Lag() (messages int64, age time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lag.oldest.IsZero() {
		return c.lag.messages, 0
	}
	return c.lag.messages, max(time.Since(c.lag.oldest), 0)
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
	behind := int64(stream.CachedInfo().State.Msgs)
	consumer, err := stream.Consumer(ctx, Durable)
	if err == nil {
		info := consumer.CachedInfo()
		behind = int64(info.NumPending) + int64(info.NumAckPending)
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
	return lag{messages: behind, oldest: at}, nil
}
