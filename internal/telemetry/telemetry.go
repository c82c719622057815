// Package telemetry gives a process its log, traces, metrics and the HTTP
// listener that shows them. Services receive the parts (a *slog.Logger, an
// OpenTelemetry provider) and do not import it for more than the helpers.
//
// Traces and OTLP metrics are configured by the standard OTEL_* variables and
// are off without them: a [Tracer] that is off costs no allocation, so hot
// paths need no switch of their own. Prometheus metrics are always there.
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Config of a process's telemetry. The zero value is usable.
type Config struct {
	// LogLevel is debug, info, warn or error; info when empty.
	LogLevel string
	// LogFormat is text or json; when empty, text on a terminal and json elsewhere.
	LogFormat string
	// LogTo is where the log goes; os.Stderr when nil.
	LogTo *os.File
	// ServiceName and Version name the process in traces, metrics and
	// /version; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win in traces
	// and OTLP metrics. "fairlead" and "dev" when empty.
	ServiceName, Version string
}

// ConfigError is one wrong setting: the variable, its value and what is allowed.
type ConfigError struct {
	Variable, Value, Allowed string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s=%q: %s", e.Variable, e.Value, e.Allowed)
}

// Telemetry is a process's telemetry from [Start] to [Telemetry.Shutdown].
type Telemetry struct {
	// Log adds trace_id and span_id of the context to each line that has one.
	Log *slog.Logger
	// TracerProvider is a no-op unless traces are configured.
	TracerProvider trace.TracerProvider
	// MeterProvider feeds /metrics, and OTLP where configured.
	MeterProvider metric.MeterProvider

	service, version string
	tracing          bool
	metrics          http.Handler
	stop             []func(context.Context) error
}

// Start sets up logging, traces and metrics. Invalid settings come back as one
// error that joins a *[ConfigError] each. A collector that is away is no error:
// it is said in the log, at most once a minute. The caller calls Shutdown.
func Start(ctx context.Context, cfg Config) (*Telemetry, error) {
	cfg.ServiceName = cmp.Or(cfg.ServiceName, "fairlead")
	cfg.Version = cmp.Or(cfg.Version, "dev")
	log, logErr := newLogger(cfg)
	export, exportErr := exportersFromEnv()
	if err := errors.Join(logErr, exportErr); err != nil {
		return nil, err
	}
	t := &Telemetry{Log: log, TracerProvider: noop.NewTracerProvider(), service: cfg.ServiceName, version: cfg.Version}
	otel.SetErrorHandler(&exportErrors{log: log}) // the SDK reports nowhere else

	who, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", cfg.ServiceName), attribute.String("service.version", cfg.Version)),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describe the process for OpenTelemetry: %w", err)
	}
	if export.traces {
		provider, err := newTracerProvider(ctx, who)
		if err != nil {
			return nil, err
		}
		t.TracerProvider, t.tracing = provider, true
		t.stop = append(t.stop, provider.Shutdown)
	}
	handler, reader, err := newPrometheus()
	if err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	t.metrics = handler
	options := []sdkmetric.Option{sdkmetric.WithResource(who), sdkmetric.WithReader(reader)}
	if export.metrics {
		otlp, err := newMetricReader(ctx)
		if err != nil {
			return nil, errors.Join(err, t.Shutdown(ctx))
		}
		options = append(options, sdkmetric.WithReader(otlp))
	}
	meters := sdkmetric.NewMeterProvider(options...)
	t.MeterProvider = meters
	t.stop = append(t.stop, meters.Shutdown)
	return t, nil
}

// Tracing reports whether spans are recorded at all.
func (t *Telemetry) Tracing() bool { return t.tracing }

// Shutdown sends what is still to be sent and stops. It returns when ctx (5s
// without a deadline) ends, at the latest.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
	}
	var errs []error
	for _, stop := range t.stop {
		errs = append(errs, stop(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("shut telemetry down: %w", err)
	}
	return nil
}

// exportErrors logs what goes wrong in exporters, at most once a minute: a
// collector that is away fails every few seconds.
type exportErrors struct {
	log *slog.Logger

	mu   sync.Mutex // guards last
	last time.Time
}

func (e *exportErrors) Handle(err error) {
	e.mu.Lock()
	now := time.Now()
	quiet := now.Sub(e.last) < time.Minute
	if !quiet {
		e.last = now
	}
	e.mu.Unlock()
	if !quiet {
		e.log.Warn("telemetry not exported", "err", err)
	}
}
