package outbox

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// The library reads heads through a buffer of this size and payloads directly;
// borrowed buffers below make the system calls large.
const headReader = 16

// UpgradeOptions configure one upgrade.
type UpgradeOptions struct {
	// Subprotocols the server knows, in order of preference.
	Subprotocols []string
	// Owner becomes Conn.Owner.
	Owner any
}

// Upgrade answers a WebSocket handshake. The caller has checked the origin, and
// on success returns from its HTTP handler and calls [Conn.Read] on a goroutine
// of its own: the request's memory is freed then. On error the response has been
// written.
func (o *Outbox) Upgrade(w http.ResponseWriter, r *http.Request, opts UpgradeOptions) (*Conn, error) {
	o.mu.Lock()
	stopped := o.stopped
	o.mu.Unlock()
	if stopped {
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
		return nil, ErrStopped
	}
	h := &hijack{ResponseWriter: w, o: o}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		Subprotocols:       opts.Subprotocols,
		InsecureSkipVerify: true, // the caller's check
	})
	if err != nil {
		return nil, fmt.Errorf("upgrade: %w", err)
	}
	c := h.c
	c.Owner = opts.Owner
	c.ws = ws
	c.subprotocol = ws.Subprotocol()
	ws.SetReadLimit(-1) // Read has its own
	if err := o.register(c); err != nil {
		closeSocket(c.nc, true)
		_ = ws.CloseNow()
		return nil, err
	}
	return c, nil
}

// hijack is the ResponseWriter that the library sees: it hands out our socket,
// with buffers sized for many idle connections, in place of net/http's.
type hijack struct {
	http.ResponseWriter
	o *Outbox
	c *Conn
}

func (h *hijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	o := h.o
	c := &Conn{o: o, nc: nc, raw: rawConn(nc), slot: -1}
	c.fl = o.flushers[int(o.next.Add(1))%len(o.flushers)]
	c.in = reader{c: c}
	c.in.ready = c.in.readRaw
	// Bytes that came with the request. Not shared with net/http's buffer,
	// which is freed with it.
	if n := rw.Reader.Buffered(); n > 0 {
		early, err := rw.Reader.Peek(n)
		if err != nil {
			_ = nc.Close()
			return nil, nil, errors.Join(errors.New("read ahead"), err)
		}
		c.in.rest = append([]byte(nil), early...)
	}
	now := o.now()
	c.lastRead.Store(now)
	c.lastWrite.Store(now)
	h.c = c

	size := headReader
	if _, isTLS := nc.(*tls.Conn); c.raw == nil && !isTLS {
		size = readSize // no borrowed buffer here: system calls are made per read
	}
	s := (*socket)(c)
	// The writer holds a whole control frame, so that each is one Write.
	return s, bufio.NewReadWriter(bufio.NewReaderSize(s, size), bufio.NewWriterSize(s, maxControl+maxHead)), nil
}
