package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// siteNamespace is that of a site's processes.
const siteNamespace wire.Namespace = "fl"

const busWait = 10 * time.Second

// logState is how far the stream of the replayed topics is.
type logState struct {
	Messages int64 `json:"messages"`
	Bytes    int64 `json:"bytes"`
	Last     int64 `json:"last_seq"`
}

func streamState(ctx context.Context, nc *nats.Conn) (logState, error) {
	ctx, cancel := context.WithTimeout(ctx, busWait)
	defer cancel()
	msg, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+logStream, nil)
	if err != nil {
		return logState{}, fmt.Errorf("state of %s: %w", logStream, err)
	}
	var reply struct {
		State logState `json:"state"`
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return logState{}, fmt.Errorf("state of %s: %w", logStream, err)
	}
	if reply.Error != nil {
		return logState{}, fmt.Errorf("state of %s: %s", logStream, reply.Error.Description)
	}
	return reply.State, nil
}

// firstOf returns the position of the oldest message of a topic.
func firstOf(ctx context.Context, nc *nats.Conn, topic string) (wire.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, busWait)
	defer cancel()
	page, err := bus.Call[wire.ReplaySinceRequest, *wire.ReplayPage](ctx, nc, siteNamespace.Svc("replay", "since"), wire.ReplaySinceRequest{Topic: topic, Limit: 1})
	if err != nil {
		return wire.Position{}, err
	}
	if len(page.Messages) == 0 {
		return wire.Position{}, fmt.Errorf("%s has no message", topic)
	}
	return page.Messages[0].Position, nil
}

// writer publishes into the stream over NATS, with a bound on what was not
// acknowledged: above its own bound the server drops.
type writer struct {
	nc      *nats.Conn
	payload template
	sent    int
}

// writeAtOnce is how many messages go between two acknowledgements.
const writeAtOnce = 1000

func newWriter(nc *nats.Conn, size int) (*writer, error) {
	payload, err := newTemplate(size)
	return &writer{nc: nc, payload: payload}, err
}

// put publishes message number i (from 0) of a topic.
func (w *writer) put(ctx context.Context, topic string, i int64) error {
	subject, err := siteNamespace.Topic(topic)
	if err != nil {
		return err
	}
	w.payload.stamp(time.Now().UnixNano(), firstNumber+i)
	if w.sent++; w.sent%writeAtOnce != 0 {
		return w.nc.Publish(subject, w.payload)
	}
	return w.acknowledged(ctx, subject)
}

// flush waits until everything that was published is stored. It stores a
// message on a topic of its own for that.
func (w *writer) flush(ctx context.Context) error {
	subject, err := siteNamespace.Topic(logPrefix + "flush")
	if err != nil {
		return err
	}
	w.sent++
	return w.acknowledged(ctx, subject)
}

// acknowledged publishes and waits until the message is stored, and with it
// all before it.
func (w *writer) acknowledged(ctx context.Context, subject string) error {
	ctx, cancel := context.WithTimeout(ctx, busWait)
	defer cancel()
	msg, err := w.nc.RequestWithContext(ctx, subject, w.payload)
	if err != nil {
		return fmt.Errorf("store a message: %w", err)
	}
	var ack struct {
		Seq int64 `json:"seq"`
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil || ack.Seq == 0 {
		return fmt.Errorf("store a message: %s", short(msg.Data))
	}
	return nil
}
