package client

import (
	"context"
	"encoding/json"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// BatchMessage is one message of [Client.PublishBatch].
type BatchMessage struct {
	Topic string
	Event string // empty is `message`
	Data  any    // encoded as by [Client.Publish]
	Key   string // as [PublishOptions.Key]
}

// BatchOptions refines a batch.
type BatchOptions struct {
	// Atomic stores all messages or none. All topics must have one rule, with
	// replay: FAILED_PRECONDITION otherwise.
	Atomic bool
}

// BatchResult is what became of one message.
type BatchResult struct {
	Result
	Err *wire.Error // nil: published
}

// PublishBatch publishes at most 1000 messages in one frame and returns what
// became of each, in their order. The error is for the batch as a whole; where
// it is nil each result has its own.
func (c *Client) PublishBatch(ctx context.Context, messages []BatchMessage, o BatchOptions) ([]BatchResult, error) {
	list := []byte{'['}
	for i, m := range messages {
		raw, err := wire.EncodeData("data", m.Data)
		if err != nil {
			return nil, wire.AsError(err).With("index", i)
		}
		if i > 0 {
			list = append(list, ',')
		}
		f := frame{b: append(list, `{"topic":`...)}
		f.b = wire.AppendString(f.b, m.Topic)
		f.optional("event", m.Event)
		f.optional("key", m.Key)
		f.raw("data", raw)
		list = f.end()
	}
	list = append(list, ']')
	ok, err := c.ask(ctx, c.timeout, func(id int64) []byte {
		f := newFrame("batch", id)
		if o.Atomic {
			f.bool("atomic", true)
		}
		f.raw("messages", list)
		return f.end()
	})
	if err != nil {
		return nil, err
	}
	var reply struct {
		Results []struct {
			Result
			Error json.RawMessage `json:"error"`
		} `json:"results"`
	}
	if err := json.Unmarshal(ok, &reply); err != nil || len(reply.Results) != len(messages) {
		return nil, wire.Errorf(wire.Internal, "batch's reply: %d results for %d messages, %v", len(reply.Results), len(messages), err)
	}
	results := make([]BatchResult, len(messages))
	for i, r := range reply.Results {
		results[i].Result = r.Result
		if r.Error != nil {
			results[i].Err = wire.DecodeError(r.Error)
		}
	}
	return results, nil
}
