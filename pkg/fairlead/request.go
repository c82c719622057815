package fairlead

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// service asks an endpoint of one of Fairlead's services.
func service[Reply any](ctx context.Context, f *Fairlead, of, endpoint string, req any) (reply Reply, err error) {
	return serviceWith[Reply](ctx, f, of, endpoint, nats.Header{}, req)
}

// serviceWith is [service] with headers, which are changed.
func serviceWith[Reply any](ctx context.Context, f *Fairlead, of, endpoint string, header nats.Header, req any) (reply Reply, err error) {
	what := of + "." + endpoint
	data, err := wire.EncodeData("request", req)
	if err != nil {
		return reply, fmt.Errorf("%s: %w", what, err)
	}
	subject, err := f.subject(f.opts.Namespace.Svc(of, endpoint), nil)
	if err != nil {
		return reply, fmt.Errorf("%s: %w", what, err)
	}
	answer, err := f.request(ctx, &nats.Msg{Subject: subject, Data: data, Header: header})
	if errors.Is(err, nats.ErrNoResponders) {
		err = wire.Errorf(wire.Unavailable, "no %s service answers", of).With("outcome", "none")
	}
	if err != nil {
		return reply, fmt.Errorf("%s: %w", what, err)
	}
	if len(answer) == 0 {
		return reply, nil
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return reply, fmt.Errorf("%s: read the reply: %w", what, err)
	}
	return reply, nil
}

// request sends a request and returns the reply's body. Errors are coded, but
// for nats.ErrNoResponders, which means something else on every subject.
func (f *Fairlead) request(ctx context.Context, msg *nats.Msg) ([]byte, error) {
	ctx, cancel := f.within(ctx)
	defer cancel()
	deadline, _ := ctx.Deadline()
	msg.Header[wire.HeaderDeadline] = []string{wire.Deadline(deadline.UnixMilli())}
	reply, err := f.nc.RequestMsgWithContext(ctx, msg)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, err
	case err != nil:
		return nil, failed(err)
	}
	if e := replyError(reply); e != nil {
		return nil, e
	}
	return reply.Data, nil
}

// replyError returns the error that a reply carries, with its details, or nil.
func replyError(reply *nats.Msg) error {
	e := wire.ParseErrorHeader(reply.Header, reply.Data)
	if e == nil {
		return nil
	}
	var body struct {
		Details map[string]any `json:"details"`
	}
	if json.Unmarshal(reply.Data, &body) == nil {
		for k, v := range body.Details {
			e = e.With(k, v)
		}
	}
	return e
}

// failed says what an error of NATS means for the caller.
func failed(err error) error {
	var coded *wire.Error
	switch {
	case errors.As(err, &coded):
		return err
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return wire.Errorf(wire.DeadlineExceeded, "no answer in time").With("outcome", "unknown")
	case errors.Is(err, context.Canceled):
		return wire.Errorf(wire.Cancelled, "cancelled").With("outcome", "unknown")
	case errors.Is(err, nats.ErrMaxPayload):
		return wire.InvalidField("data", "larger than NATS takes").With("outcome", "none")
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, nats.ErrHeadersNotSupported),
		errors.Is(err, nats.ErrInvalidConnection):
		return wire.Errorf(wire.Unavailable, "NATS is away").With("outcome", "none")
	}
	return wire.Errorf(wire.Unavailable, "NATS is away").With("outcome", "unknown")
}
