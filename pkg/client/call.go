package client

import (
	"context"
	"encoding/json"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// DefaultCallTimeout is how long this client waits for a call without a
// timeout: the protocol's most, since the gateway's rule decides earlier.
const DefaultCallTimeout = 60 * time.Second

// CallOptions refines a call.
type CallOptions struct {
	// Timeout is sent as `timeoutMs`; zero leaves it to the rule.
	Timeout time.Duration
	// OnProgress receives the worker's progress, in the caller's goroutine
	// while Call waits.
	OnProgress func(json.RawMessage)
}

// Answer is what a worker replied.
type Answer struct {
	Data   json.RawMessage // its JSON; nil where it was none
	Binary []byte          // the bytes of an answer that was no JSON
}

// Payload returns the answer's bytes, whatever form it came in.
func (a Answer) Payload() []byte {
	if a.Data != nil {
		return a.Data
	}
	return a.Binary
}

// Call asks a worker. data is encoded as by [Client.Publish]. When ctx ends
// first the worker is told by a `cancel` frame and the error is CANCELLED or
// DEADLINE_EXCEEDED. No worker is UNIMPLEMENTED at once.
func (c *Client) Call(ctx context.Context, method string, data any, o CallOptions) (Answer, error) {
	if err := ctx.Err(); err != nil {
		return Answer{}, wire.AsError(err)
	}
	raw, err := wire.EncodeData("data", data)
	if err != nil {
		return Answer{}, err
	}
	id, r, err := c.begin(func(id int64) []byte {
		f := newFrame("call", id)
		f.str("method", method)
		f.raw("data", raw)
		if o.Timeout > 0 {
			f.int("timeoutMs", max(1, o.Timeout.Milliseconds()))
		}
		return f.end()
	}, o.OnProgress != nil)
	if err != nil {
		return Answer{}, err
	}
	wait := o.Timeout
	if wait <= 0 {
		wait = DefaultCallTimeout
	}
	f, err := c.wait(ctx, id, r, wait+c.timeout, o.OnProgress)
	if err != nil {
		if ctx.Err() != nil {
			cancel := newFrame("cancel", 0)
			cancel.int("ref", id)
			_ = c.SendFrame(cancel.end()) // a lost connection cancels too
		}
		return Answer{}, err
	}
	if f.OK != nil {
		return Answer{Data: f.OK}, nil
	}
	b, err := f.Payload()
	if err != nil {
		return Answer{}, wire.Errorf(wire.Internal, "the answer's base64: %v", err)
	}
	return Answer{Binary: b}, nil
}
