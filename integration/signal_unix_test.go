//go:build unix

package integration

import "syscall"

// signal sends SIGTERM, as a supervisor does.
func (p *process) signal() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
}
