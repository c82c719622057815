//go:build unix && !linux

package pgdev

import "syscall"

const locale = "C"

// dieWithParent can't be had here: a server whose parent was killed is found by
// its lock file when it is started again.
func dieWithParent(*syscall.SysProcAttr) {}
