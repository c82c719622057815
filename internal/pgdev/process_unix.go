//go:build unix

package pgdev

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

const (
	exe = ""
	// nobody owns the cluster and runs the server where this process is root,
	// which initdb and postgres refuse.
	nobody = 65534
)

// own gives a directory to who will run the server.
func own(dir string) error {
	if os.Getuid() != 0 {
		return nil
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		return fmt.Errorf("give it to the user nobody: %w", err)
	}
	return nil
}

// isolate runs a command as nobody where this process is root, and in a process
// group of its own: an interrupt from the terminal is for this process, which
// stops the server after everything that needs it.
func isolate(cmd *exec.Cmd) {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	dieWithParent(attr)
	cmd.SysProcAttr = attr
}

// interrupt asks for a fast shutdown: clients are cut off, what is committed is
// written.
func interrupt(p *os.Process, _, _ string) { _ = p.Signal(syscall.SIGINT) } // it may just have ended

// quit asks for an immediate one: the next start recovers.
func quit(p *os.Process) { _ = p.Signal(syscall.SIGQUIT) } // as above
