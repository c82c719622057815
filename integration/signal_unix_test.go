//go:build unix

package integration

import (
	"os"
	"syscall"
)

// signal sends SIGTERM, as a supervisor does.
func (p *process) signal() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
}

// endedBy returns the signal that ended the process, nil if it exited.
func (p *process) endedBy() os.Signal {
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return status.Signal()
	}
	return nil
}
