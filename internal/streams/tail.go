package streams

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

// TailConfig says what a [Tail] delivers.
type TailConfig struct {
	Stream string
	From   int64 // the first sequence; below 1 it is the stream's first
	// Newest delivers of each subject the newest message that is there, then
	// whatever comes; From does not count.
	Newest bool
	// HeadersOnly leaves the payloads out.
	HeadersOnly bool
}

// Tail is what a stream delivers from a sequence on, in order, until it breaks.
// Client libraries take a message without a payload and with a header `Status`
// for the server's word: here what is a message is told by its reply subject,
// which only the server writes.
type Tail struct {
	// Broken has one element when the tail has ended: why.
	Broken <-chan error

	broken chan error
	nc     *nats.Conn
	remove string // subject on which the consumer is deleted
	sub    *nats.Subscription
	take   func(*nats.Msg, *nats.MsgMetadata) error
	closed chan struct{} // nothing is taken any more

	next  uint64       // the consumer's number of the next message
	heard atomic.Int64 // unix ns of the last sign of life
}

const (
	tailHeartbeat = time.Second
	// TailSilence is how long a tail may say nothing at all.
	TailSilence = 5 * tailHeartbeat
	ackPrefix   = "$JS.ACK."
)

// ErrHole says that a tail left something out.
var ErrHole = errors.New("messages of the stream were lost on their way")

// NewTail begins to take the messages of a stream. take runs on one goroutine;
// its error ends the tail.
func NewTail(ctx context.Context, nc *nats.Conn, cfg TailConfig, take func(*nats.Msg, *nats.MsgMetadata) error) (t *Tail, err error) {
	name := nuid.Next()
	broken := make(chan error, 1)
	t = &Tail{
		nc: nc, remove: "$JS.API.CONSUMER.DELETE." + cfg.Stream + "." + name, take: take,
		closed: make(chan struct{}), Broken: broken, broken: broken, next: 1,
	}
	t.heard.Store(time.Now().UnixNano())
	inbox := nc.NewInbox()
	consumer := map[string]any{
		"name": name, "deliver_subject": inbox, "deliver_policy": "by_start_sequence", "opt_start_seq": max(cfg.From, 1),
		"ack_policy": "none", "max_deliver": 1, "replay_policy": "instant", "headers_only": cfg.HeadersOnly,
		"flow_control": true, "idle_heartbeat": tailHeartbeat, "inactive_threshold": 2 * TailSilence,
		"mem_storage": true, "num_replicas": 1,
	}
	if cfg.Newest {
		consumer["deliver_policy"], consumer["filter_subject"] = "last_per_subject", ">"
		delete(consumer, "opt_start_seq")
	}
	body, err := json.Marshal(map[string]any{"stream_name": cfg.Stream, "config": consumer})
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", cfg.Stream, err)
	}
	if t.sub, err = nc.Subscribe(inbox, t.came); err != nil {
		return nil, fmt.Errorf("follow %s: %w", cfg.Stream, err)
	}
	defer func() {
		if err != nil {
			t.Close()
			t = nil
		}
	}()
	t.sub.SetClosedHandler(func(string) { close(t.closed) })
	if err := t.sub.SetPendingLimits(-1, -1); err != nil { // flow control bounds what comes
		return t, fmt.Errorf("follow %s: %w", cfg.Stream, err)
	}
	ctx, cancel := context.WithTimeout(ctx, TailSilence)
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, "$JS.API.CONSUMER.CREATE."+cfg.Stream+"."+name, body)
	if err != nil {
		return t, fmt.Errorf("follow %s: %w", cfg.Stream, err)
	}
	var reply struct {
		Error *struct {
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &reply); err != nil {
		return t, fmt.Errorf("follow %s: %w", cfg.Stream, err)
	}
	if reply.Error != nil {
		return t, fmt.Errorf("follow %s: JetStream: %s (%d)", cfg.Stream, reply.Error.Description, reply.Error.ErrCode)
	}
	return t, nil
}

// came takes what the server sent; it runs on the subscription's goroutine.
func (t *Tail) came(msg *nats.Msg) {
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
		t.end(ErrHole)
		return
	}
	t.next++
	if err := t.take(msg, meta); err != nil {
		t.end(err)
	}
}

// control answers flow control, and sees from a heartbeat whether something was
// lost that nothing has followed yet.
func (t *Tail) control(msg *nats.Msg) {
	proceed := msg.Reply
	if proceed == "" {
		proceed = wire.HeaderValue(msg.Header, "Nats-Consumer-Stalled")
	}
	if proceed != "" {
		_ = t.nc.Publish(proceed, nil) // lost, the tail goes silent
	}
	if last, err := strconv.ParseUint(wire.HeaderValue(msg.Header, "Nats-Last-Consumer"), 10, 64); err == nil && last >= t.next {
		t.end(ErrHole)
	}
}

func (t *Tail) end(err error) {
	select {
	case t.broken <- err:
	default:
	}
}

// Silent reports whether the server has said nothing for too long: it is away,
// or has forgotten the consumer.
func (t *Tail) Silent(now time.Time) bool { return now.UnixNano()-t.heard.Load() > int64(TailSilence) }

// Close returns when nothing is taken any more.
func (t *Tail) Close() {
	if t.sub.Unsubscribe() == nil {
		_ = t.nc.Publish(t.remove, nil) // else the server removes it when it sees nobody listen
	}
	<-t.closed
}
