package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// CallTimeout is how long [Call] waits when its context has no deadline.
const CallTimeout = 5 * time.Second

// Call sends a request to an endpoint and waits for the reply, until ctx ends
// or, without a deadline in it, for [CallTimeout]. The endpoint learns the
// deadline and continues the trace of ctx.
//
// Every error that a caller can act on is a *wire.Error: what the endpoint
// answered; UNAVAILABLE when nobody serves the subject or NATS is away
// (`details.outcome` is "unknown" when the connection broke after sending);
// DEADLINE_EXCEEDED and CANCELLED when ctx ended, where the outcome is unknown.
func Call[Req, Rep any](ctx context.Context, nc *nats.Conn, subject string, req Req) (Rep, error) {
	var rep Rep
	data, err := encode(req)
	if err != nil {
		return rep, fmt.Errorf("call %s: encode the request: %w", subject, err)
	}
	data, err = request(ctx, nc, subject, data)
	if err != nil {
		return rep, err
	}
	if err := decode(data, &rep); err != nil {
		// %v: the coded error is about the peer's reply, not the caller's request.
		return rep, fmt.Errorf("call %s: decode the reply: %v", subject, err) //nolint:errorlint // the code must not pass
	}
	return rep, nil
}

func request(ctx context.Context, nc *nats.Conn, subject string, data []byte) ([]byte, error) {
	ctx, cancel := withDefaultDeadline(ctx, CallTimeout)
	defer cancel()
	// The caller's own provider: a call without a trace costs no span.
	tracer := trace.SpanFromContext(ctx).TracerProvider().Tracer(scope)
	ctx, span := tracer.Start(ctx, subject, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("messaging.system", "nats"), attribute.String("messaging.destination.name", subject)))
	defer span.End()

	msg := nats.NewMsg(subject)
	msg.Data = data
	deadline, _ := ctx.Deadline()
	msg.Header[wire.HeaderDeadline] = []string{wire.Deadline(deadline.UnixMilli())}
	Inject(ctx, msg.Header)
	reply, err := nc.RequestMsgWithContext(ctx, msg)
	if err == nil {
		if coded := replyError(reply.Header, reply.Data); coded != nil {
			err = coded
		}
	} else {
		err = &unanswered{callError(subject, err)}
	}
	if err != nil {
		span.SetStatus(codes.Error, string(wire.CodeOf(err)))
		return nil, err
	}
	return reply.Data, nil
}

// Unanswered reports whether err, of [Call], says that no answer came: nobody
// serves the subject, NATS is away, time is over. Everything else is what an
// endpoint answered, even where it has the same code.
func Unanswered(err error) bool {
	var u *unanswered
	return errors.As(err, &u)
}

type unanswered struct{ error }

func (u *unanswered) Unwrap() error { return u.error }

// Away reports whether err is what nats.go says to a publish or request that
// was not sent because there is no connection. Before the first connection it
// is about headers, of which an unknown server has none.
func Away(err error) bool {
	return errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrConnectionDraining) ||
		errors.Is(err, nats.ErrHeadersNotSupported)
}

// callError says what a failed request means for its caller.
func callError(subject string, err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return wire.Errorf(wire.Unavailable, "nobody serves %s", subject).With("outcome", "none")
	case Away(err):
		return wire.Errorf(wire.Unavailable, "NATS is away").With("outcome", "none")
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionClosed):
		return wire.Errorf(wire.Unavailable, "NATS is away").With("outcome", "unknown")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return wire.Errorf(wire.DeadlineExceeded, "no reply from %s in time", subject)
	case errors.Is(err, context.Canceled):
		return wire.Errorf(wire.Cancelled, "cancelled")
	case errors.Is(err, nats.ErrMaxPayload):
		return wire.Errorf(wire.InvalidArgument, "the request is larger than NATS allows")
	}
	return fmt.Errorf("call %s: %w", subject, err)
}
