package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// call asks the service, and reads its answer into reply unless that is nil.
// No error holds the token.
func (s *Sessions) call(ctx context.Context, endpoint string, req wire.SessionRequest, reply any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("session %s: %w", endpoint, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	msg := nats.NewMsg(s.opts.Namespace.Svc("presence", "session."+endpoint))
	msg.Data = body
	if deadline, ok := ctx.Deadline(); ok {
		msg.Header[wire.HeaderDeadline] = []string{wire.Deadline(deadline.UnixMilli())}
	}
	answer, err := s.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return fmt.Errorf("session %s: %w", endpoint, unanswered(err))
	}
	if refused := wire.ParseErrorHeader(answer.Header, answer.Data); refused != nil {
		return fmt.Errorf("session %s: %w", endpoint, refused)
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Data, reply); err != nil {
		return fmt.Errorf("session %s: read the answer: %w", endpoint, err)
	}
	return nil
}

// unanswered says what a request without an answer means.
func unanswered(err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return wire.Errorf(wire.Unavailable, "no presence service answers")
	case errors.Is(err, context.Canceled):
		return wire.Errorf(wire.Cancelled, "cancelled")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return wire.Errorf(wire.DeadlineExceeded, "no answer in time")
	case errors.Is(err, nats.ErrMaxPayload):
		return wire.InvalidField("data", "larger than NATS takes")
	}
	return wire.Errorf(wire.Unavailable, "NATS is away").With("outcome", "unknown")
}
