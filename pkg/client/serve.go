package client

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// maxServing bounds the requests of one event that are served at a time; more
// are answered RESOURCE_EXHAUSTED.
const maxServing = 64

// Request is a question of the server to this client.
type Request struct {
	Event string
	Data  []byte // the payload's bytes: JSON, or whatever a backend sent
	// Timeout is how long the asker waits; the function's context ends then.
	Timeout time.Duration
}

// server answers the requests of one event.
type server struct {
	fn   func(context.Context, Request) (any, error)
	busy chan struct{} // capacity maxServing
}

// Serve sets the function that answers the server's requests for event, each
// in a goroutine of the client, at most 64 at a time. Its result is encoded as
// by [Client.Publish]; a [*wire.Error] is sent as it is, any other error as
// INTERNAL without detail. A nil fn removes it; an event that nobody serves is
// answered UNIMPLEMENTED. The context ends with the request's timeout or the
// connection.
func (c *Client) Serve(event string, fn func(context.Context, Request) (any, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if fn == nil {
		delete(c.serves, event)
		return
	}
	c.serves[event] = &server{fn: fn, busy: make(chan struct{}, maxServing)}
}

func (c *Client) serve(f *wire.ServerFrame) {
	c.mu.Lock()
	s := c.serves[f.Event]
	c.mu.Unlock()
	data, err := f.Payload()
	switch {
	case err != nil:
		c.refuse(f.Ref, wire.InvalidField("base64", "standard base64"))
		return
	case s == nil:
		c.refuse(f.Ref, wire.Errorf(wire.Unimplemented, "the client does not serve this event"))
		return
	}
	select {
	case s.busy <- struct{}{}:
	default:
		c.refuse(f.Ref, wire.Errorf(wire.ResourceExhausted, "the client serves %d requests of this event already", maxServing))
		return
	}
	r := Request{Event: f.Event, Data: data, Timeout: time.Duration(f.TimeoutMs) * time.Millisecond}
	started := c.start(func() {
		defer func() { <-s.busy }()
		ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(r.Timeout, DefaultCallTimeout))
		defer cancel()
		c.workers.Go(func() {
			select {
			case <-ctx.Done():
			case <-c.done:
				cancel()
			}
		})
		result, err := s.fn(ctx, r)
		if err == nil {
			var raw json.RawMessage
			if raw, err = wire.EncodeData("data", result); err == nil {
				c.reply(f.Ref, raw, nil)
				return
			}
		}
		c.reply(f.Ref, nil, wire.AsError(err))
	})
	if !started {
		<-s.busy
	}
}

// refuse answers a request from the reader, which must not write. A server
// that asks faster than refusals can be written gets none.
func (c *Client) refuse(ref string, e *wire.Error) {
	select {
	case c.refusing <- struct{}{}:
		c.start(func() {
			c.reply(ref, nil, e)
			<-c.refusing
		})
	default:
	}
}

func (c *Client) reply(ref string, data []byte, e *wire.Error) {
	f := newFrame("reply", 0)
	f.str("ref", ref)
	if e != nil {
		f.key("error")
		f.b = wire.AppendError(f.b, e)
	} else {
		f.raw("data", data)
	}
	_ = c.SendFrame(f.end()) // the asker of a lost connection is told by the gateway
}
