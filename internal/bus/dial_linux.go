package bus

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// impatient has a connection end whose peer acknowledges nothing for [ackTimeout].
func impatient(_, _ string, conn syscall.RawConn) error {
	var refused error
	err := conn.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(ackTimeout.Milliseconds()))
	})
	return errors.Join(err, refused)
}
