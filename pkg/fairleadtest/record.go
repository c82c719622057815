package fairleadtest

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"testing"
)

// recordBytes bounds what is kept of the log: its end.
const recordBytes = 256 << 10

// record keeps what the services log until somebody wants to know.
type record struct {
	logger *slog.Logger

	mu    sync.Mutex
	lines bytes.Buffer // guarded by mu
	lost  bool         // the beginning
}

func newRecord(level slog.Level) *record {
	r := &record{}
	r.logger = slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: level}))
	return r
}

var _ io.Writer = (*record)(nil)

// Write takes a line.
func (r *record) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.lines.Len()+len(line) > recordBytes && r.lines.Len() > 0 {
		r.lost = true
		if _, err := r.lines.ReadBytes('\n'); err != nil {
			break
		}
	}
	return r.lines.Write(line)
}

// print shows the log of a test that failed.
func (r *record) print(t testing.TB) {
	if !t.Failed() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost {
		t.Log("the log of the services, its beginning left out:\n" + r.lines.String())
	} else if r.lines.Len() > 0 {
		t.Log("the log of the services:\n" + r.lines.String())
	}
}
