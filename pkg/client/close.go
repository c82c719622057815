package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// CloseError says how a connection ended.
type CloseError struct {
	Code   wire.CloseCode // the close frame's; [wire.CloseAbnormal] where none came
	Reason string
	Local  bool  // this side closed
	Err    error // what the socket reported, where no close frame came
}

// Error returns the code, the reason and the cause.
func (e *CloseError) Error() string {
	s := fmt.Sprintf("connection closed: %d", int(e.Code))
	if e.Reason != "" {
		s += " " + e.Reason
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns Err.
func (e *CloseError) Unwrap() error { return e.Err }

// asError is what operations on a closed connection return: mostly they may
// succeed on another connection, so the code is UNAVAILABLE.
func (e *CloseError) asError() *wire.Error {
	code := wire.Unavailable
	switch e.Code {
	case wire.CloseUnauthenticated:
		code = wire.Unauthenticated
	case wire.CloseForbidden:
		code = wire.PermissionDenied
	case wire.CloseTooMany:
		code = wire.ResourceExhausted
	}
	return wire.Errorf(code, "%s", e.Error()).With("closeCode", int(e.Code))
}

// Close closes the connection with code (wire.CloseNormal: the user left) and
// returns when the peer has answered, at most after about ten seconds. It does
// not wait for callbacks, so a callback may call it; [Client.Wait] does.
// Messages not yet handed to a callback are dropped. Closing twice is allowed.
func (c *Client) Close(code wire.CloseCode) {
	c.part(code)
	c.halt.Do(func() { close(c.stop) })
}

// part is Close that leaves what has come to the callbacks.
func (c *Client) part(code wire.CloseCode) {
	c.leave(&CloseError{Code: code, Local: true})
	_ = c.conn.Close(websocket.StatusCode(code), "") // the peer may be gone already: nothing to tell
	<-c.done
}

// Abort drops the TCP connection without a close frame, as a crash would.
func (c *Client) Abort() {
	c.leave(&CloseError{Code: wire.CloseAbnormal, Local: true})
	_ = c.conn.CloseNow()
	<-c.done
	c.halt.Do(func() { close(c.stop) })
}

func (c *Client) leave(e *CloseError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.localErr == nil {
		c.localErr = e
	}
}

// fail ends the connection from a goroutine of the client itself.
func (c *Client) fail(e *CloseError) {
	c.leave(e)
	_ = c.conn.CloseNow()
}

// Done is closed once the connection is closed, by either side.
func (c *Client) Done() <-chan struct{} { return c.done }

// Wait returns when the connection is closed and every callback has returned.
func (c *Client) Wait() {
	<-c.done
	c.workers.Wait()
}

// CloseError returns how the connection ended; nil while it is open.
func (c *Client) CloseError() *CloseError {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeErr
}

// start runs fn in a goroutine that Wait waits for. It reports false, and runs
// nothing, once the connection is closed.
func (c *Client) start(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closeErr != nil {
		return false
	}
	c.workers.Go(fn)
	return true
}

// stopped reports whether this side has closed.
func (c *Client) stopped() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// closed turns the reader's error into how the connection ended.
func closed(err error, local *CloseError) *CloseError {
	var ce websocket.CloseError
	switch {
	case local != nil:
		return local
	case errors.As(err, &ce):
		return &CloseError{Code: wire.CloseCode(ce.Code), Reason: ce.Reason}
	}
	return &CloseError{Code: wire.CloseAbnormal, Err: err}
}

// watch closes the connection when the server was silent for two heartbeats.
func (c *Client) watch() {
	beat := time.Duration(c.Welcome().HeartbeatMs) * time.Millisecond
	if beat <= 0 {
		return
	}
	tick := time.NewTicker(beat / 2)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
		}
		if silent := time.Since(time.Unix(0, c.heard.Load())); silent > 2*beat {
			c.fail(&CloseError{Code: wire.CloseHeartbeat, Local: true, Reason: "the server is silent"})
			return
		}
	}
}

// refused turns a failed upgrade into a coded error.
func refused(ctx context.Context, resp *http.Response, err error) *wire.Error {
	if resp == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		if ctx.Err() != nil {
			return wire.AsError(context.Cause(ctx))
		}
		return wire.Errorf(wire.Unavailable, "connect: %v", err)
	}
	e := &wire.Error{Code: statusCode(resp.StatusCode)}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // a message for humans: what could be read of it
	e.Message = fmt.Sprintf("upgrade refused: HTTP %d", resp.StatusCode)
	if text := strings.TrimSpace(string(body)); text != "" {
		e.Message += ": " + text
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e.With("status", resp.StatusCode)
}

func statusCode(status int) wire.Code {
	switch status {
	case http.StatusUnauthorized:
		return wire.Unauthenticated
	case http.StatusForbidden:
		return wire.PermissionDenied
	case http.StatusNotFound:
		return wire.NotFound
	case http.StatusTooManyRequests:
		return wire.ResourceExhausted
	}
	if status >= 500 {
		return wire.Unavailable
	}
	return wire.InvalidArgument
}
