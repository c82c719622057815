package telemetry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// exporters says which signals leave the process by OTLP.
type exporters struct{ traces, metrics bool }

// exportersFromEnv reads the standard variables that the Go SDK leaves to the
// application; endpoint, headers, sampler, batching and the rest are read by
// the SDK itself. A signal is on when its OTEL_*_EXPORTER says otlp, or says
// nothing and an endpoint is set. (The specification's default, otlp to
// localhost, would complain for ever on a machine without a collector.)
func exportersFromEnv() (exporters, error) {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return exporters{}, nil
	}
	traces, err1 := signal("TRACES", "otlp or none", nil)
	// /metrics is always there: asking for it is no mistake.
	metrics, err2 := signal("METRICS", "otlp, prometheus or none", []string{"prometheus"})
	return exporters{traces: traces, metrics: metrics}, errors.Join(err1, err2)
}

func signal(name, allowed string, ignored []string) (on bool, err error) {
	variable := "OTEL_" + name + "_EXPORTER"
	value := os.Getenv(variable)
	if value == "" {
		on = os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+name+"_ENDPOINT") != ""
	}
	for one := range strings.SplitSeq(value, ",") {
		switch one = strings.TrimSpace(one); {
		case one == "otlp":
			on = true
		case one == "none" || one == "" || slices.Contains(ignored, one):
		default:
			return false, &ConfigError{variable, value, "must be " + allowed}
		}
	}
	if !on {
		return false, nil
	}
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_" + name + "_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		switch value := os.Getenv(variable); value {
		case "": // the next one counts
		case "http/protobuf", "http/json":
			return true, nil
		default:
			return false, &ConfigError{variable, value, "must be http/protobuf or http/json"}
		}
	}
	return true, nil
}

func newTracerProvider(ctx context.Context, who *resource.Resource) (*sdktrace.TracerProvider, error) {
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("make the OTLP trace exporter: %w", err)
	}
	return sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(who)), nil
}

func newMetricReader(ctx context.Context) (sdkmetric.Reader, error) {
	exporter, err := otlpmetrichttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("make the OTLP metric exporter: %w", err)
	}
	return sdkmetric.NewPeriodicReader(exporter), nil
}
