package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/term"
)

func newLogger(cfg Config) (*slog.Logger, error) {
	var problems []error
	level := slog.LevelInfo
	if cfg.LogLevel != "" {
		switch strings.ToLower(cfg.LogLevel) {
		case "debug", "info", "warn", "error":
			if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
				problems = append(problems, err)
			}
		default:
			problems = append(problems, &ConfigError{"FAIRLEAD_LOG_LEVEL", cfg.LogLevel, "must be debug, info, warn or error"})
		}
	}
	to := cfg.LogTo
	if to == nil {
		to = os.Stderr
	}
	format := strings.ToLower(cfg.LogFormat)
	if format == "" {
		format = "json"
		if term.IsTerminal(int(to.Fd())) {
			format = "text"
		}
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler
	switch format {
	case "text":
		handler = slog.NewTextHandler(to, options)
	case "json":
		handler = slog.NewJSONHandler(to, options)
	default:
		problems = append(problems, &ConfigError{"FAIRLEAD_LOG_FORMAT", cfg.LogFormat, "must be text or json"})
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return slog.New(traceHandler{handler}), nil
}

// traceHandler adds the ids of the context's span to each record.
type traceHandler struct{ slog.Handler }

func (h traceHandler) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(attrs)}
}

func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}
