package client

import (
	"context"
	"encoding/json"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// PublishOptions refines a publish. The zero value publishes without a key
// and delivers to this connection too.
type PublishOptions struct {
	// Key makes a repeated publish of the same user on the same topic count once.
	Key string
	// NoEcho keeps the message from this connection's own subscription.
	NoEcho bool
	// NoReply sends no id: the server answers only an error, to [Client.OnError].
	NoReply bool
}

// Result is the answer to a publish.
type Result struct {
	Seq       int64 `json:"seq"`       // 0 on a topic without replay
	Duplicate bool  `json:"duplicate"` // the key was used before; Seq is the first one's
}

// Publish publishes to a topic and waits for the acknowledgement. An empty
// event is `message`. data is encoded as JSON, except that a json.RawMessage
// or []byte is JSON already and is sent byte for byte. An error's
// details.outcome says whether the message may have been stored.
func (c *Client) Publish(ctx context.Context, topic, event string, data any, o PublishOptions) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, wire.AsError(err)
	}
	p, err := c.PublishAsync(topic, event, data, o)
	if err != nil {
		return Result{}, err
	}
	return p.Wait(ctx)
}

// Publication is a publish that was sent.
type Publication struct {
	c  *Client
	id int64
	r  *request // nil: no reply was asked for
}

// PublishAsync is [Client.Publish] that returns once the frame was sent, so
// that many can be outstanding.
func (c *Client) PublishAsync(topic, event string, data any, o PublishOptions) (*Publication, error) {
	raw, err := wire.EncodeData("data", data)
	if err != nil {
		return nil, err
	}
	build := func(id int64) []byte {
		f := newFrame("publish", id)
		f.str("topic", topic)
		f.optional("event", event)
		f.optional("key", o.Key)
		if o.NoEcho {
			f.bool("echo", false)
		}
		f.raw("data", raw)
		return f.end()
	}
	if o.NoReply {
		return &Publication{}, c.SendFrame(build(0))
	}
	id, r, err := c.begin(build, false)
	if err != nil {
		return nil, err
	}
	return &Publication{c: c, id: id, r: r}, nil
}

// Wait waits for the acknowledgement; one that was not asked for is there at
// once. It is called once.
func (p *Publication) Wait(ctx context.Context) (Result, error) {
	var res Result
	if p.r == nil {
		return res, nil
	}
	f, err := p.c.wait(ctx, p.id, p.r, p.c.timeout, nil)
	if err != nil {
		return res, err
	}
	if err := json.Unmarshal(f.OK, &res); err != nil {
		return res, wire.Errorf(wire.Internal, "publish's reply: %v", err)
	}
	return res, nil
}
