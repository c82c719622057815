package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// served is an endpoint at work.
type served struct {
	Endpoint
	s      *Served
	tracer trace.Tracer
	attrs  []attribute.KeyValue
	slots  chan struct{} // one element per request being worked on
	later  laters        // those whose work goes on by itself

	mu    sync.Mutex // guards stats
	stats micro.EndpointStats
}

func newServed(s *Served, e Endpoint, tracer trace.Tracer) *served {
	return &served{
		Endpoint: e, s: s, tracer: tracer, slots: make(chan struct{}, e.Workers),
		attrs: []attribute.KeyValue{
			attribute.String("messaging.system", "nats"),
			attribute.String("messaging.destination.name", e.Subject),
			attribute.String("fairlead.service", s.id.Name),
			attribute.String("fairlead.endpoint", e.Name),
		},
	}
}

// dispatch hands a request to the pool. It runs on the subscription's only
// goroutine and must not block: the next request waits behind it.
func (e *served) dispatch(msg *nats.Msg) {
	started := time.Now()
	if msg.Reply != "" && !e.s.guard.admit(msg.Reply) {
		e.s.meters.refused(e.s.id.Name)
		return
	}
	select {
	case e.slots <- struct{}{}:
	default:
		err := wire.Errorf(wire.ResourceExhausted, "%s is at its limit of %d requests at once", e.Name, e.Workers)
		e.fail(msg, started, err)
		return
	}
	if e.begin != nil {
		e.start(msg, started)
		return
	}
	e.s.working.Go(func() { e.serve(msg, started) })
}

// serve works on one request that holds a slot, and gives it back.
func (e *served) serve(msg *nats.Msg, started time.Time) {
	ctx, cancel := context.WithDeadline(Extract(e.s.base, msg.Header), e.deadline(msg, started))
	defer cancel()
	ctx, span := e.tracer.Start(ctx, e.Subject, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(e.attrs...))
	defer span.End()

	reply, err := e.run(ctx, msg.Data)
	<-e.slots // before the answer: whoever gets it may ask again at once
	e.answer(ctx, span, msg, started, reply, err)
}

// answer tells the caller what became of a request.
func (e *served) answer(ctx context.Context, span trace.Span, msg *nats.Msg, started time.Time, reply []byte, err error) {
	if err != nil {
		coded := e.border(ctx, err)
		if coded.Code == wire.Internal {
			span.SetStatus(codes.Error, "internal error")
		}
		span.SetAttributes(attribute.String("fairlead.code", string(coded.Code)))
		e.fail(msg, started, coded)
		return
	}
	if msg.Reply != "" {
		err = respond(msg, reply, nil)
	}
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		e.s.log.ErrorContext(ctx, "reply larger than NATS allows", "endpoint", e.Name, "bytes", len(reply))
		e.fail(msg, started, wire.Errorf(wire.Internal, "the reply is larger than NATS allows"))
		return
	case err != nil: // NATS went away meanwhile, and with it the caller's inbox
		e.s.log.DebugContext(ctx, "reply not sent", "endpoint", e.Name, "err", err)
	}
	e.count(started, nil)
}

// deadline is the earlier of our own and the one the caller sent, or least time
// from now where that is later. Both clocks are taken to agree within what a
// request takes, or by the least time; a worker's clock that is behind costs
// nothing, one that is ahead shortens our time.
func (e *served) deadline(msg *nats.Msg, started time.Time) time.Time {
	ours := started.Add(e.Timeout)
	if msg.Header == nil {
		return ours
	}
	ms, err := strconv.ParseInt(wire.HeaderValue(msg.Header, wire.HeaderDeadline), 10, 64)
	if err != nil {
		return ours
	}
	theirs := time.UnixMilli(ms)
	if least := started.Add(e.LeastTime); e.LeastTime > 0 && theirs.Before(least) {
		theirs = least
	}
	if theirs.Before(ours) {
		return theirs
	}
	return ours
}

// run calls the function unless it is too late already, and turns a panic into
// an error.
func (e *served) run(ctx context.Context, data []byte) (reply []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			reply, err = nil, e.panicked(ctx, r)
		}
	}()
	return e.work(ctx, data)
}

// panicked logs what was recovered, and is what the caller is told of it.
func (e *served) panicked(ctx context.Context, r any) error {
	e.s.log.ErrorContext(ctx, "endpoint panicked", "endpoint", e.Name, "err", fmt.Sprint(r), "stack", string(debug.Stack()))
	return wire.Errorf(wire.Internal, "internal error")
}

// border turns an error into one that may leave the process, and logs what the
// caller is not told.
func (e *served) border(ctx context.Context, err error) *wire.Error {
	var coded *wire.Error
	if errors.As(err, &coded) {
		return coded
	}
	if e.s.base.Err() != nil {
		return wire.Errorf(wire.Unavailable, "the service is stopping")
	}
	coded = wire.AsError(err)
	if coded.Code == wire.Internal {
		e.s.log.ErrorContext(ctx, "request not answered", "endpoint", e.Name, "err", err)
	}
	return coded
}

// fail answers with an error and counts it.
func (e *served) fail(msg *nats.Msg, started time.Time, err *wire.Error) {
	if msg.Reply != "" {
		if sendErr := respondError(msg, err); sendErr != nil {
			e.s.log.Debug("reply not sent", "endpoint", e.Name, "err", sendErr)
		}
	}
	e.count(started, err)
}

func (e *served) count(started time.Time, err *wire.Error) {
	took := time.Since(started)
	code := "OK"
	e.mu.Lock()
	e.stats.NumRequests++
	e.stats.ProcessingTime += took
	if err != nil {
		code = string(err.Code)
		e.stats.NumErrors++
		e.stats.LastError = err.Error()
	}
	e.mu.Unlock()
	e.s.meters.request(e.s.id.Name, e.Name, code, took)
}

// snapshot returns the figures that discovery shows.
func (e *served) snapshot(queue string) *micro.EndpointStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	stats := e.stats
	stats.Name, stats.Subject, stats.QueueGroup = e.Name, e.Subject, queue
	if stats.NumRequests > 0 {
		stats.AverageProcessingTime = stats.ProcessingTime / time.Duration(stats.NumRequests)
	}
	return &stats
}
