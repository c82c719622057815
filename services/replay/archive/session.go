package archive

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// session copies one life of a stream to one log.
type session struct {
	c        *Copier
	working  func() // called whenever messages were stored
	log      int64
	gap      bool // a sequence before the last one stored is missing
	consumer jetstream.Consumer
	made     time.Time // when the consumer was
	bytes    int       // bound of a pull
}

// pull asks for messages once and stores what comes in batches: whatever has
// arrived when the batch before is done.
func (s *session) pull(ctx context.Context) error {
	p, err := request(s.c.cfg.JetStream, s.c.cfg.Stream, s.bytes)
	if err != nil {
		return fmt.Errorf("pull from stream %s: %w", s.c.cfg.Stream, err)
	}
	defer p.close()
	for !p.ended {
		batch := s.next(ctx, p)
		if len(batch) > 0 {
			if err := s.copy(ctx, p, batch); err != nil {
				for _, msg := range batch {
					p.giveBack(msg)
				}
				return err
			}
		}
		if s.gap {
			if err := s.settle(ctx); err != nil {
				return err
			}
		}
	}
	if p.err != nil {
		return fmt.Errorf("pull from stream %s: %w", s.c.cfg.Stream, p.err)
	}
	return nil
}

// next waits for messages; while something is missing for a moment only.
func (s *session) next(ctx context.Context, p *pulled) []*nats.Msg {
	if !s.gap {
		return p.next(ctx, nil, s.bytes)
	}
	soon := time.NewTimer(settleEvery)
	defer soon.Stop()
	return p.next(ctx, soon.C, s.bytes)
}

// lasting is what a batch is stored under: when ctx ends, what is begun has a
// moment to end.
func lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	lasts, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(stopTimeout)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-lasts.Done():
		}
	})
	return lasts, func() { stop(); cancel() }
}

// copy stores a batch, and then acknowledges it.
func (s *session) copy(ctx context.Context, p *pulled, batch []*nats.Msg) error {
	ctx, cancel := lasting(ctx)
	defer cancel()
	// A pull is for a name. Messages are of this session's stream if its
	// consumer is there still, now that they have come.
	if _, err := s.info(ctx); err != nil {
		return err
	}
	ms := make([]Message, len(batch))
	for i, msg := range batch {
		var err error
		if ms[i], err = s.message(msg); err != nil {
			return err
		}
	}
	l, err := s.c.cfg.Archive.storeIn(ctx, s.c.cfg.Stream, s.log, ms)
	if err != nil {
		return err
	}
	s.c.cfg.Counts.Copied.Add(l.stored)
	s.reached(l)
	s.working()
	for _, msg := range batch {
		if err = p.acknowledge(msg); err != nil {
			break
		}
	}
	if err == nil && s.gap {
		err = p.acknowledged(ctx, batch[len(batch)-1]) // then settle sees them
	}
	if err != nil {
		return fmt.Errorf("acknowledge to stream %s: %w", s.c.cfg.Stream, err)
	}
	return nil
}

func (s *session) reached(l *log) {
	s.gap = l.position < l.last
	s.c.reached(l.position)
}

// info asks for the consumer, errReplaced where it is another one than the
// session's.
func (s *session) info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := s.consumer.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for consumer %s of stream %s: %w", Durable, s.c.cfg.Stream, err)
	}
	if !info.Created.Equal(s.made) {
		return nil, errReplaced
	}
	return info, nil
}

// settle finds out what of the missing sequences can't come any more. All that
// copiers acknowledge is stored: up to the floor of acknowledgements a sequence
// that isn't stored has no message.
func (s *session) settle(ctx context.Context) error {
	ctx, cancel := lasting(ctx)
	defer cancel()
	info, err := s.info(ctx)
	if err != nil {
		return err
	}
	l, holes, err := s.c.cfg.Archive.settle(ctx, s.c.cfg.Stream, s.log, int64(info.AckFloor.Stream))
	if err != nil {
		return err
	}
	if holes > 0 {
		s.c.cfg.Counts.Holes.Add(holes)
		s.c.cfg.Log.Warn("messages were gone before they were archived", "ranges", holes, "seq", l.position)
	}
	s.reached(l)
	return nil
}

func (s *session) message(msg *nats.Msg) (Message, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return Message{}, fmt.Errorf("read where a message of stream %s stands: %w", s.c.cfg.Stream, err)
	}
	headers := wire.ParseMeta(msg.Header)
	topic, _ := s.c.cfg.Namespace.ParseTopic(msg.Subject) // "" of any other subject: its sequence counts
	return Message{
		Seq: int64(meta.Sequence.Stream), Time: meta.Timestamp, Topic: topic, Event: headers.Event,
		Payload: msg.Data, User: headers.User, Exclude: headers.Exclude, Marker: streams.Marker(msg.Header),
	}, nil
}
