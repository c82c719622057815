//go:build !linux && !darwin && !openbsd

package outbox

import (
	"net"
	"syscall"
)

// rawConn returns nil: every connection is written by a goroutine on demand.
func rawConn(net.Conn) syscall.RawConn { return nil }

func (w *rawWrite) attempt(uintptr) bool { return true }

func (r *reader) readRaw(uintptr) bool { return true }
