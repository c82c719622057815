package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// conn is one connection's protocol state. Only its loop touches it.
type conn struct {
	loop     loop
	agent    agent
	state    connState
	rest     []byte    // bytes of a frame that has not come whole
	parts    []byte    // payload of a fragmented message so far
	out      []byte    // what the socket did not take yet
	sock     any       // the loop's
	fd       int       // the epoll loop's
	index    int       // place among its kind
	began    int64     // when it was dialed, unix nanoseconds
	topic    string    // subscribed at the start; "" for none
	place    int       // the topic's index
	next     int64     // the number expected next on the topic
	pair     *pair     // of a publishing client of [Publish]
	followed *followed // of a client of a replayed topic
	err      error
}

type connState uint8

const (
	stateDialing connState = iota
	stateUpgrading
	stateOpening // hello and subscribe are sent
	stateOpen
	stateClosed
)

// agent is what a scenario does with a connection. Its methods run in the
// connection's loop.
type agent interface {
	// upgraded is told that frames can be sent.
	upgraded(c *conn)
	// text receives one text message; frame is only valid during the call.
	text(c *conn, frame []byte, now int64)
	// closed is told once that the connection has ended, and why.
	closed(c *conn, err error)
}

// upgradeRequest is the HTTP request of RFC 6455 §4.1 with a constant key: the
// answer is checked by its status alone.
func upgradeRequest(host, path, subprotocol string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ZmFpcmxlYWQtYmVuY2gtMQ==\r\nSec-WebSocket-Version: 13\r\n", path, host)
	if subprotocol != "" {
		fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", subprotocol)
	}
	return []byte(b.String() + "\r\n")
}

// connected is called by the loop when the socket is.
func (c *conn) connected(upgrade []byte) {
	c.state = stateUpgrading
	c.loop.send(c, upgrade)
}

// feed takes bytes from the socket. An error ends the connection.
func (c *conn) feed(data []byte, now int64) error {
	if len(c.rest) > 0 {
		c.rest = append(c.rest, data...)
		data = c.rest
	}
	left, err := c.consume(data, now)
	switch {
	case err != nil:
		return err
	case len(left) == 0:
		if cap(c.rest) > 64<<10 {
			c.rest = nil
		}
		c.rest = c.rest[:0]
	default:
		c.rest = append(c.rest[:0], left...) // left may be the end of c.rest: append moves it down
	}
	return nil
}

func (c *conn) consume(data []byte, now int64) ([]byte, error) {
	if c.state == stateUpgrading {
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end < 0 {
			if len(data) > 64<<10 {
				return nil, errors.New("the answer to the upgrade has no end")
			}
			return data, nil
		}
		if !bytes.HasPrefix(data, []byte("HTTP/1.1 101 ")) {
			line, _, _ := bytes.Cut(data, []byte("\r\n"))
			return nil, fmt.Errorf("upgrade refused: %s: %s", line, short(data[end+4:]))
		}
		data = data[end+4:]
		c.state = stateOpening
		c.agent.upgraded(c)
	}
	for len(data) > 0 && c.state != stateClosed {
		fin, opcode, payload, size, err := nextFrame(data)
		if err != nil || size == 0 {
			return data, err
		}
		data = data[size:]
		if err := c.frame(fin, opcode, payload, now); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func (c *conn) frame(fin bool, opcode byte, payload []byte, now int64) error {
	switch opcode {
	case opText:
		if fin {
			c.agent.text(c, payload, now)
			return nil
		}
		c.parts = append(c.parts[:0], payload...)
	case opContinuation:
		c.parts = append(c.parts, payload...)
		if len(c.parts) > maxFrame {
			return errFrame
		}
		if fin {
			c.agent.text(c, c.parts, now)
			c.parts = nil
		}
	case opPing:
		c.loop.send(c, appendFrame(nil, opPong, payload))
	case opPong:
	case opClose:
		code, reason := closeStatus(payload)
		if code == 1000 {
			return io.EOF
		}
		return fmt.Errorf("the server closed: %d %s", code, reason)
	default:
		return errFrame
	}
	return nil
}

// ended is called once by the loop when the socket is gone.
func (c *conn) ended(err error) {
	if c.state == stateClosed {
		return
	}
	if c.state < stateOpening {
		err = fmt.Errorf("connect: %w", err)
	}
	c.state, c.err = stateClosed, err
	c.rest, c.parts, c.out = nil, nil, nil
	c.agent.closed(c, err)
}

// short is the beginning of a server's text for an error message.
func short(b []byte) string {
	const most = 300
	if len(b) > most {
		return string(b[:most]) + "…"
	}
	return string(b)
}

// loop owns connections: one goroutine reads them all and runs their agents.
// Only post, wake and stop may be called from elsewhere.
type loop interface {
	// run works until stop, then drops the connections that are left.
	run() error
	// dial connects c and tells its agent.
	dial(c *conn)
	// send writes to c, keeping what the socket does not take.
	send(c *conn, b []byte)
	// drop closes c without a word; its agent hears nothing.
	drop(c *conn)
	// all returns the connections that are not closed. Call it by post.
	all() []*conn
	// alarm asks for one call of the turn function at that time, replacing
	// an earlier request.
	alarm(at time.Time)
	// post runs fn in the loop.
	post(fn func())
	// wake makes the loop call its turn function.
	wake()
	stop()
	// usage returns how the loop spent its time so far. Call it by post.
	usage() loopUsage
}

// loopUsage is a loop's account of itself.
type loopUsage struct {
	cpu   time.Duration // of its thread; 0 where it has none of its own
	busy  time.Duration // between waking and waiting again
	turns Histogram     // how long the work of one waking took
}

// loopConfig is the same for all loops of a run.
type loopConfig struct {
	addr    string // host:port
	upgrade []byte // the HTTP request
	// turn is called after each batch of events, in the loop.
	turn func()
}
