//go:build unix

package integration

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Dev brings a Postgres along where one is installed, and waits for it with nothing.
func TestDevKeepsTasks(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "fl-dev") // a test's own has parents that are closed to who runs Postgres
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // it is in the system's temporary directory
	must(t, os.Chmod(dir, 0o711))
	var id string
	for again := range 2 { // with the same data
		dev, natsURL := startDevOn(t, filepath.Join(dir, "data"), "127.0.0.1:0", "127.0.0.1:0", "FAIRLEAD_PGBIN=")
		if line := dev.line(dev.stdout, "  tasks "); !strings.Contains(line, "postgres://") {
			t.Errorf("where tasks are: %s", line)
		}
		s := &taskStack{stack: &stack{t: t, nats: natsURL}, nc: connect(t, natsURL)}
		s.answer(1)
		if again == 0 {
			id = s.enqueue(`{"name":"x"}`)
		}
		s.becomes(id, wire.TaskPending)
		must(t, dev.cmd.Process.Signal(os.Interrupt))
		if code := dev.exit(patience); code != 0 {
			t.Errorf("dev ended with %d", code)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "postgres", "data", "postmaster.pid")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its Postgres still runs: %v", err)
	}
}
