package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// tail is what a stream delivers from a sequence on, without payloads and in
// order, until it breaks. Client libraries take a message without a payload and
// with a header `Status` for the server's word, and here all messages are
// without: so what is a message is told by its reply subject, which only the
// server writes.
type tail struct {
	nc     *nats.Conn
	remove string // subject on which the consumer is deleted
	sub    *nats.Subscription
	take   func(*nats.Msg, *nats.MsgMetadata) error
	closed chan struct{} // nothing is taken any more
	broken chan error    // why it ended; one element

	next  uint64       // the consumer's number of the next message
	heard atomic.Int64 // unix ns of the last sign of life
}

const (
	tailHeartbeat = time.Second
	// tailSilence is how long a tail may say nothing at all.
	tailSilence = 5 * tailHeartbeat
	ackPrefix   = "$JS.ACK."
)

// errHole says that a tail left something out.
var errHole = errors.New("messages were lost on their way to the index")

// newTail begins to take the messages of a stream from a sequence on. take runs
// on one goroutine; its error ends the tail.
func newTail(ctx context.Context, nc *nats.Conn, stream string, from int64, take func(*nats.Msg, *nats.MsgMetadata) error) (*tail, error) {
	name := nuid.Next()
	t := &tail{
		nc: nc, remove: "$JS.API.CONSUMER.DELETE." + stream + "." + name, take: take,
		closed: make(chan struct{}), broken: make(chan error, 1), next: 1,
	}
	t.heard.Store(time.Now().UnixNano())
	inbox := nc.NewInbox()
	body, err := json.Marshal(map[string]any{
		"stream_name": stream,
		"config": map[string]any{
			"name": name, "deliver_subject": inbox, "deliver_policy": "by_start_sequence", "opt_start_seq": max(from, 1),
			"ack_policy": "none", "max_deliver": 1, "replay_policy": "instant", "headers_only": true,
			"flow_control": true, "idle_heartbeat": tailHeartbeat, "inactive_threshold": 2 * tailSilence,
			"mem_storage": true, "num_replicas": 1,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", stream, err)
	}
	if t.sub, err = nc.Subscribe(inbox, t.came); err != nil {
		return nil, away(err)
	}
	t.sub.SetClosedHandler(func(string) { close(t.closed) })
	if err := t.sub.SetPendingLimits(-1, -1); err != nil { // flow control bounds what comes
		t.close()
		return nil, away(err)
	}
	ctx, cancel := context.WithTimeout(ctx, tailSilence)
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, "$JS.API.CONSUMER.CREATE."+stream+"."+name, body)
	if err != nil {
		t.close()
		return nil, away(err)
	}
	var reply apiError
	if err := json.Unmarshal(answer.Data, &reply); err != nil {
		t.close()
		return nil, fmt.Errorf("follow %s: %w", stream, err)
	}
	if reply.Error != nil {
		t.close()
		return nil, reply.err()
	}
	return t, nil
}

// came takes what the server sent; it runs on the subscription's goroutine.
func (t *tail) came(msg *nats.Msg) {
	t.heard.Store(time.Now().UnixNano())
	if !strings.HasPrefix(msg.Reply, ackPrefix) {
		t.control(msg)
		return
	}
	meta, err := msg.Metadata()
	switch {
	case err != nil:
		t.end(fmt.Errorf("read %s: %w", msg.Reply, err))
		return
	case meta.Sequence.Consumer != t.next:
		t.end(errHole)
		return
	}
	t.next++
	if err := t.take(msg, meta); err != nil {
		t.end(err)
	}
}

// control answers flow control, and sees from a heartbeat whether something was
// lost that nothing has followed yet.
func (t *tail) control(msg *nats.Msg) {
	proceed := msg.Reply
	if proceed == "" {
		proceed = wire.HeaderValue(msg.Header, "Nats-Consumer-Stalled")
	}
	if proceed != "" {
		_ = t.nc.Publish(proceed, nil) // lost, the tail goes silent
	}
	if last, err := strconv.ParseUint(wire.HeaderValue(msg.Header, "Nats-Last-Consumer"), 10, 64); err == nil && last >= t.next {
		t.end(errHole)
	}
}

func (t *tail) end(err error) {
	select {
	case t.broken <- err:
	default:
	}
}

// silent reports whether the server has said nothing for too long: it is away,
// or has forgotten the consumer.
func (t *tail) silent(now time.Time) bool { return now.UnixNano()-t.heard.Load() > int64(tailSilence) }

// close returns when nothing is taken any more.
func (t *tail) close() {
	if t.sub.Unsubscribe() == nil {
		_ = t.nc.Publish(t.remove, nil) // else the server removes it when it sees nobody listen
	}
	<-t.closed
}
