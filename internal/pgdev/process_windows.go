package pgdev

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

const (
	exe    = ".exe"
	locale = "C"
)

func own(string) error { return nil }

// isolate keeps an interrupt from the terminal off the server.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// interrupt asks for a fast shutdown through pg_ctl: there are no signals.
func interrupt(_ *os.Process, bin, data string) {
	cmd := exec.Command(filepath.Join(bin, "pg_ctl"+exe), "stop", "-D", data, "-m", "fast", "-W")
	_ = cmd.Run() // the caller waits for the process, and kills it if that takes too long
}

func quit(p *os.Process) { _ = p.Kill() } // it may just have ended
