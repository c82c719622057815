package fairlead

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Record is a message to be stored on a topic with replay.
type Record struct {
	Topic string
	// Event is `message` when empty.
	Event string
	Data  any
	// Key makes storing it again within the rule's dedupe window a duplicate:
	// set it wherever the publish may be tried again. 1-128 bytes; default: none.
	Key string
	// Producer is whose key it is: the same key of two producers is two
	// messages. Default: none.
	Producer string
}

// Result says where a message was stored; Duplicate, that this was so already
// by an earlier one with the same key.
type Result struct {
	Seq       int64
	Duplicate bool
	// Err is why it was not stored, in results of [Fairlead.StoreBatch].
	Err error
}

// Store publishes a message on a topic with replay and returns when it is
// stored, with as many replicas as the rule asks for. It asks the replay
// service. An error whose `outcome` is "unknown" may have stored it: retry with
// the same Key.
func (f *Fairlead) Store(ctx context.Context, r Record) (Result, error) {
	req, err := r.request()
	if err != nil {
		return Result{}, fmt.Errorf("replay.publish: %w", err)
	}
	stored, err := service[wire.ReplayStored](ctx, f, "replay", "publish", req)
	return Result{Seq: stored.Seq, Duplicate: stored.Duplicate}, err
}

// StoreBatch stores several messages, at most [MaxBatch], in order, and returns
// one result for each. atomic stores all of them or none, which then is the
// error; it needs topics of one rule.
func (f *Fairlead) StoreBatch(ctx context.Context, records []Record, atomic bool) ([]Result, error) {
	req := wire.ReplayBatch{Atomic: atomic, Messages: make([]wire.ReplayPublish, len(records))}
	for i, r := range records {
		var err error
		if req.Messages[i], err = r.request(); err != nil {
			return nil, fmt.Errorf("replay.batch: message %d: %w", i, err)
		}
	}
	reply, err := service[wire.ReplayResults](ctx, f, "replay", "batch", req)
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(reply.Results))
	for i, r := range reply.Results {
		results[i] = Result{Seq: r.Seq, Duplicate: r.Duplicate, Err: readError(r.Error)}
	}
	return results, nil
}

func (r Record) request() (wire.ReplayPublish, error) {
	data, err := wire.EncodeData("data", r.Data)
	return wire.ReplayPublish{Topic: r.Topic, Event: r.Event, Data: data, Producer: r.Producer, Key: r.Key}, err
}

// readError reads an error as it stands in a reply's body.
func readError(raw json.RawMessage) error {
	if len(raw) == 0 {
		return nil
	}
	var e struct{ Code, Message string }
	if json.Unmarshal(raw, &e) != nil || e.Code == "" {
		return wire.Errorf(wire.Internal, "an error that can't be read")
	}
	return replyError(&nats.Msg{Header: nats.Header{wire.HeaderErrorCode: {e.Code}, wire.HeaderError: {e.Message}}, Data: raw})
}

// HistoryOptions say which messages of a topic to read. The zero value reads
// the oldest that are kept.
type HistoryOptions struct {
	// After is the position behind which to begin: of a message that is known.
	After wire.Position
	// Limit is the most messages to return, at most 1000. Default 100.
	Limit int
	// Last reads the newest messages in place of those after a position, at
	// most 1000.
	Last int
}

// History reads the messages that a topic with replay keeps, oldest first. Where
// More is set the next page begins after the position of the last message. It
// asks the replay service.
func (f *Fairlead) History(ctx context.Context, topic string, o HistoryOptions) (wire.ReplayPage, error) {
	return service[wire.ReplayPage](ctx, f, "replay", "since", wire.ReplaySinceRequest{
		Topic: topic, After: o.After.Seq, Ts: o.After.Ts, Limit: o.Limit, Last: o.Last,
	})
}
