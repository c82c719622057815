package fairlead

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// PublishOptions refine a message on a topic.
type PublishOptions struct {
	// Exclude is a connection that does not get it: a worker that repeats what a
	// client sent puts that message's Conn here.
	Exclude string
	// Coalesce is a key under which a newer message takes the place of one that
	// still waits for a slow client: it gets the latest. 1-128 bytes. Ignored on
	// topics with replay.
	Coalesce string
}

// Publish sends a message to everybody on a topic. event is `message` when
// empty. It returns when the NATS server has it: who is subscribed then gets
// it, at most once. On a topic with replay use [Fairlead.Store], which says
// where it was stored.
func (f *Fairlead) Publish(ctx context.Context, topic, event string, data any, o PublishOptions) error {
	if err := wire.CheckTopic(topic); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	subject, err := f.subject(f.opts.Namespace.Topic(topic))
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	msg, err := message(subject, event, data)
	if err == nil {
		err = set(msg.Header, wire.HeaderExclude, o.Exclude, wire.HeaderCoalesce, o.Coalesce)
	}
	if err == nil {
		err = f.flush(ctx, msg)
	}
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// Event is one of several that are published at once.
type Event struct {
	// Name is `message` when empty.
	Name string
	// Data is encoded as all data is.
	Data any
	// Exclude is a connection that does not get this one.
	Exclude string
}

// MaxBatch is the most events of one [Fairlead.PublishBatch].
const MaxBatch = wire.MaxBatch

// PublishBatch sends several events of one topic in one message: every
// subscriber gets all of them, in order, and nothing between them. At least one
// and at most [MaxBatch]. Not for topics with replay, which would store the
// array as one message: see [Fairlead.StoreBatch].
func (f *Fairlead) PublishBatch(ctx context.Context, topic string, events []Event) error {
	if err := f.publishBatch(ctx, topic, events); err != nil {
		return fmt.Errorf("publish batch: %w", err)
	}
	return nil
}

func (f *Fairlead) publishBatch(ctx context.Context, topic string, events []Event) error {
	if err := wire.CheckTopic(topic); err != nil {
		return err
	}
	if len(events) == 0 || len(events) > MaxBatch {
		return wire.InvalidField("events", fmt.Sprintf("1 to %d", MaxBatch))
	}
	type entry struct {
		Event   string          `json:"event,omitempty"`
		Data    json.RawMessage `json:"data"`
		Exclude string          `json:"exclude,omitempty"`
	}
	batch := make([]entry, len(events))
	for i, e := range events {
		if err := checkEvent(e.Name); err != nil {
			return err
		}
		data, err := wire.EncodeData("data", e.Data)
		if err != nil {
			return err
		}
		batch[i] = entry{e.Name, data, e.Exclude}
	}
	subject, err := f.subject(f.opts.Namespace.Topic(topic))
	if err != nil {
		return err
	}
	msg, err := message(subject, "", batch)
	if err != nil {
		return err
	}
	msg.Header[wire.HeaderBatch] = []string{"1"}
	return f.flush(ctx, msg)
}

// message makes a message of an event.
func message(subject, event string, data any) (*nats.Msg, error) {
	if err := checkEvent(event); err != nil {
		return nil, err
	}
	raw, err := wire.EncodeData("data", data)
	if err != nil {
		return nil, err
	}
	msg := &nats.Msg{Subject: subject, Data: raw, Header: nats.Header{}}
	return msg, set(msg.Header, wire.HeaderEvent, event)
}

// checkEvent refuses what a gateway would take for the default event.
func checkEvent(event string) error {
	if event == "" {
		return nil
	}
	return wire.CheckEvent(event)
}

// set writes those headers whose value is not empty.
func set(h nats.Header, pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		if err := wire.SetHeader(h, pairs[i], pairs[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// flush publishes a message and waits until the server has it.
func (f *Fairlead) flush(ctx context.Context, msg *nats.Msg) error {
	ctx, cancel := f.within(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return wire.AsError(err).With("outcome", "none")
	}
	if err := f.nc.PublishMsg(msg); err != nil {
		return failed(err)
	}
	if err := f.nc.FlushWithContext(ctx); err != nil {
		return failed(err)
	}
	return nil
}
