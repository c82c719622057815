package client

import (
	"context"
	"encoding/json"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// reply is the end of a request.
type reply struct {
	frame *wire.ServerFrame
	err   *wire.Error
}

// request is one outstanding id. The end always finds room; progress that
// nobody takes is dropped above progressQueue steps.
type request struct {
	reply    chan reply           // capacity 1
	progress chan json.RawMessage // nil: nobody asked
}

const progressQueue = 256

// begin registers an id and sends the frame that build makes for it.
func (c *Client) begin(build func(id int64) []byte, progress bool) (int64, *request, error) {
	r := &request{reply: make(chan reply, 1)}
	if progress {
		r.progress = make(chan json.RawMessage, progressQueue)
	}
	id := c.lastID.Add(1)
	c.mu.Lock()
	if e := c.closeErr; e != nil {
		c.mu.Unlock()
		return 0, nil, e.asError()
	}
	c.pending[id] = r
	c.mu.Unlock()
	if err := c.SendFrame(build(id)); err != nil {
		c.forget(id)
		return 0, nil, err
	}
	return id, r, nil
}

func (c *Client) forget(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// idle reports whether nobody waits for an answer.
func (c *Client) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending) == 0
}

// wait returns the end of a request. Giving up leaves nothing behind: a late
// reply is ignored.
func (c *Client) wait(ctx context.Context, id int64, r *request, timeout time.Duration, onProgress func(json.RawMessage)) (*wire.ServerFrame, error) {
	t := time.NewTimer(timeout)
	defer t.Stop()
	for {
		select {
		case end := <-r.reply:
			for onProgress != nil && len(r.progress) > 0 {
				onProgress(<-r.progress)
			}
			if end.err != nil {
				return nil, end.err
			}
			return end.frame, nil
		case p := <-r.progress:
			onProgress(p)
		case <-ctx.Done():
			c.forget(id)
			return nil, wire.AsError(ctx.Err())
		case <-t.C:
			c.forget(id)
			return nil, wire.Errorf(wire.DeadlineExceeded, "no reply within %v", timeout)
		}
	}
}

// ask sends one frame and returns the JSON of its `ok`.
func (c *Client) ask(ctx context.Context, timeout time.Duration, build func(id int64) []byte) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, wire.AsError(err)
	}
	id, r, err := c.begin(build, false)
	if err != nil {
		return nil, err
	}
	f, err := c.wait(ctx, id, r, timeout, nil)
	if err != nil {
		return nil, err
	}
	return f.OK, nil
}

// Request sends any op with an id of its own and returns the JSON of the
// reply's `ok`. fields is a JSON object (a struct, a map, a json.RawMessage)
// or nil.
func (c *Client) Request(ctx context.Context, op string, fields any) (json.RawMessage, error) {
	rest, err := wire.EncodeData("fields", fields)
	if err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(rest, &members); err != nil {
		return nil, wire.InvalidField("fields", "a JSON object")
	}
	return c.ask(ctx, c.timeout, func(id int64) []byte {
		f := newFrame(op, id)
		for name, value := range members {
			f.b = wire.AppendString(append(f.b, ','), name)
			f.b = append(append(f.b, ':'), value...)
		}
		return f.end()
	})
}
