//go:build unix

package integration

import "syscall"

// pause stops a process, which notices nothing, until resume.
func (p *process) pause() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGSTOP))
}

func (p *process) resume() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGCONT))
}
