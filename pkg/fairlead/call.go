package fairlead

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Call is a client's call that a handler works on. Its methods may be called
// concurrently, and by goroutines that the handler has started.
type Call struct {
	// Method is the one that was called: with a wildcard in the handler's, which.
	Method string
	// User and Conn are the caller, as the gateway vouches for it.
	User, Conn string
	// Attributes are those of the caller's token; nil where it has none.
	Attributes map[string]string
	// Data is the call's data as it came: mostly JSON.
	Data []byte
	// Header has all headers of the call, `traceparent` for one.
	Header nats.Header

	msg       *nats.Msg
	ctx       context.Context // the handler's
	cancelled cancelled       // what [cancels] knows of the call

	mu   sync.Mutex
	done bool // answered; guarded by mu
}

// newCall reads what the gateway says of a call.
func newCall(prefix string, msg *nats.Msg) *Call {
	c := &Call{
		Method: strings.TrimPrefix(msg.Subject, prefix),
		User:   wire.HeaderValue(msg.Header, wire.HeaderUser),
		Conn:   wire.HeaderValue(msg.Header, wire.HeaderConn),
		Data:   msg.Data, Header: msg.Header, msg: msg,
	}
	if attributes := wire.HeaderValue(msg.Header, wire.HeaderAttributes); attributes != "" {
		if json.Unmarshal([]byte(attributes), &c.Attributes) != nil {
			c.Attributes = nil
		}
	}
	return c
}

// deadline is until when somebody waits for the answer: as the gateway says, at
// most by the handler's own bound.
func (c *Call) deadline(now time.Time, most time.Duration) time.Time {
	end := now.Add(most)
	ms, err := strconv.ParseInt(wire.HeaderValue(c.Header, wire.HeaderDeadline), 10, 64)
	if told := time.UnixMilli(ms); err == nil && told.Before(end) {
		return told
	}
	return end
}

// Progress tells the caller how far the call is: its client hands v to
// onProgress. A client that reads too slowly may miss some of it, never the
// answer. Once nobody waits any more it is an error: CANCELLED or
// DEADLINE_EXCEEDED, as the handler's context says; FAILED_PRECONDITION behind
// the answer.
func (c *Call) Progress(v any) error {
	data, err := wire.EncodeData("progress", v)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return wire.Errorf(wire.FailedPrecondition, "the call is answered")
	}
	if c.ctx.Err() != nil {
		return wire.AsError(context.Cause(c.ctx))
	}
	msg := &nats.Msg{Data: data, Header: nats.Header{wire.HeaderProgress: {"1"}}}
	if err := c.msg.RespondMsg(msg); err != nil {
		return failed(err)
	}
	return nil
}

// finish sends the answer; progress that comes later is refused.
func (c *Call) finish(data []byte, e *wire.Error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	if e == nil {
		return c.msg.RespondMsg(&nats.Msg{Data: data})
	}
	return c.msg.RespondMsg(errorReply(e))
}

// close ends a call that nobody waits for.
func (c *Call) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
}

// errorReply makes a reply of an error: code and message as headers, what else
// there is of it as body.
func errorReply(e *wire.Error) *nats.Msg {
	msg := &nats.Msg{Header: nats.Header{}}
	wire.ErrorHeader(msg.Header, e)
	if len(e.Details) > 0 {
		body := struct {
			RetryAfterMs json.RawMessage `json:"retryAfterMs,omitempty"`
			Details      map[string]any  `json:"details"`
		}{Details: e.Details}
		switch ms, null, present := e.RetryAfterMs(); {
		case null:
			body.RetryAfterMs = json.RawMessage("null")
		case present:
			body.RetryAfterMs = strconv.AppendInt(nil, ms, 10)
		}
		if data, err := json.Marshal(body); err == nil { // else details that are no JSON
			msg.Data = data
			return msg
		}
	}
	msg.Data = wire.AppendErrorBody(nil, e)
	return msg
}
