package pgdev

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
)

// tail hands a server's log to slog, line by line, and keeps the end of it: the
// only place where the server says why it did not start.
type tail struct {
	log *slog.Logger

	mu   sync.Mutex // guards what follows
	last []byte
	line []byte // begun, not ended
}

const tailBytes = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, b...)
	t.last = t.last[max(0, len(t.last)-tailBytes):]
	if !t.log.Enabled(context.Background(), slog.LevelDebug) {
		return len(b), nil
	}
	t.line = append(t.line, b...)
	for {
		line, rest, ended := bytes.Cut(t.line, []byte("\n"))
		if !ended {
			t.line = append([]byte(nil), line[max(0, len(line)-tailBytes):]...)
			return len(b), nil
		}
		t.log.Debug("postgres", "text", string(line))
		t.line = rest
	}
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.last)
}

// lastLines is the end of what a tool said, on one line.
func lastLines(out []byte) string {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-3):], []byte("; ")))
}
