package natsdev

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// serverLog hands the server's log lines to slog and keeps the first fatal one,
// the only place where the server says why it did not start. Trace lines hold
// payloads and are never written.
type serverLog struct {
	log *slog.Logger

	mu    sync.Mutex // guards first
	first string
}

func (l *serverLog) debug() bool { return l.log.Enabled(context.Background(), slog.LevelDebug) }

func (l *serverLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

func (l *serverLog) write(level slog.Level, format string, v []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "nats server", "text", fmt.Sprintf(format, v...))
	}
}

func (l *serverLog) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.write(slog.LevelDebug-4, format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.write(slog.LevelWarn, format, v) }
func (l *serverLog) Errorf(format string, v ...any)  { l.write(slog.LevelError, format, v) }
func (l *serverLog) Tracef(string, ...any)           {}

func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	if l.first == "" {
		l.first = fmt.Sprintf(format, v...)
	}
	l.mu.Unlock()
	l.write(slog.LevelError, format, v)
}
