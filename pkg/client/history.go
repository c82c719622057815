package client

import (
	"context"
	"encoding/json"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// HistoryOptions says which messages of the past are wanted. The zero value is
// the oldest hundred that are retained.
type HistoryOptions struct {
	// After is the seq behind which to begin; 0 is the oldest retained message.
	After int64
	// Ts is the time of the message at After, which tells a new log from the known one.
	Ts int64
	// Limit is how many at most; 0 is 100, the most is 1000.
	Limit int
}

// History is a page of a topic's past.
type History struct {
	Messages []Message
	Seq      int64 // of the topic's newest message, 0 where there never was one
	// Truncated says that messages from MissingFrom on are gone for good.
	Truncated   bool
	MissingFrom int64
	// More says that the page is not the last: ask again after its last message.
	More bool
}

// History returns messages of a topic's past in their order. A topic whose rule
// has no replay is FAILED_PRECONDITION.
func (c *Client) History(ctx context.Context, topic string, o HistoryOptions) (History, error) {
	ok, err := c.past(ctx, "history", topic, o)
	if err != nil {
		return History{}, err
	}
	var reply struct {
		Messages    json.RawMessage `json:"messages"`
		Seq         int64           `json:"seq"`
		Truncated   bool            `json:"truncated"`
		MissingFrom int64           `json:"missingFrom"`
		More        bool            `json:"more"`
	}
	if err := json.Unmarshal(ok, &reply); err != nil {
		return History{}, wire.Errorf(wire.Internal, "history's reply: %v", err)
	}
	page := History{Seq: reply.Seq, Truncated: reply.Truncated, MissingFrom: reply.MissingFrom, More: reply.More}
	frames, err := wire.DecodeServer(reply.Messages)
	if err != nil {
		return History{}, wire.Errorf(wire.Internal, "history's reply: %v", err)
	}
	for i := range frames {
		m, err := messageOf(&frames[i])
		if err != nil {
			return History{}, err
		}
		m.Topic = topic
		page.Messages = append(page.Messages, m)
	}
	return page, nil
}

// Gap says whether anything is missing behind a position.
type Gap struct {
	Truncated   bool  `json:"truncated"` // messages after the position are gone for good
	MissingFrom int64 `json:"missingFrom"`
	Seq         int64 `json:"seq"` // of the topic's newest message
}

// Gap asks whether every message behind a position is still there, without
// fetching any. ts is as [HistoryOptions.Ts].
func (c *Client) Gap(ctx context.Context, topic string, after, ts int64) (Gap, error) {
	var g Gap
	ok, err := c.past(ctx, "gap", topic, HistoryOptions{After: after, Ts: ts})
	if err != nil {
		return g, err
	}
	if err := json.Unmarshal(ok, &g); err != nil {
		return g, wire.Errorf(wire.Internal, "gap's reply: %v", err)
	}
	return g, nil
}

func (c *Client) past(ctx context.Context, op, topic string, o HistoryOptions) (json.RawMessage, error) {
	return c.ask(ctx, c.timeout, func(id int64) []byte {
		f := newFrame(op, id)
		f.str("topic", topic)
		f.int("after", o.After)
		if o.Ts != 0 {
			f.int("ts", o.Ts)
		}
		if o.Limit != 0 {
			f.int("limit", int64(o.Limit))
		}
		return f.end()
	})
}
