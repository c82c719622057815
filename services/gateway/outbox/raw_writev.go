//go:build linux || darwin || openbsd

package outbox

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawConn returns the socket of nc if its bytes go out as they are: a TCP
// connection itself. Anything around one may transform what is written (TLS), or
// may count it, even if it lets its socket be seen.
func rawConn(nc net.Conn) syscall.RawConn {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// attempt makes one writev. It returns true in every case: the caller never
// waits for the socket to become writable.
func (w *rawWrite) attempt(fd uintptr) bool {
	w.vec = [2][]byte{w.ch.lead, w.ch.body}
	vec := w.vec[:]
	if len(w.ch.body) == 0 {
		vec = vec[:1]
	} else if len(w.ch.lead) == 0 {
		vec = vec[1:]
	}
	for {
		n, err := unix.Writev(int(fd), vec)
		switch err {
		case nil:
			w.n = n
		case unix.EINTR:
			continue
		case unix.EAGAIN:
		default:
			w.err = err
		}
		return true
	}
}

// readRaw makes one read. It returns false, to be called again when the socket
// is readable, where there is nothing: no buffer is held while it waits.
func (r *reader) readRaw(fd uintptr) bool {
	dst := r.direct
	var buf *[readSize]byte
	if dst == nil {
		buf = r.c.o.reads.Get().(*[readSize]byte)
		dst = buf[:]
	}
	n, err := unix.Read(int(fd), dst)
	for err == unix.EINTR {
		n, err = unix.Read(int(fd), dst)
	}
	r.n, r.err = max(n, 0), err
	if err == nil && n == 0 {
		r.err = io.EOF
	}
	if buf != nil {
		if n > 0 {
			r.buf, r.rest = buf, buf[:n]
		} else {
			r.c.o.reads.Put(buf)
		}
	}
	return err != unix.EAGAIN
}
