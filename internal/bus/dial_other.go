//go:build !linux

package bus

import "syscall"

// impatient changes nothing: the system has no such option.
func impatient(_, _ string, _ syscall.RawConn) error { return nil }
