package fairlead

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// AskOptions refine a question to a user.
type AskOptions struct {
	// Conn is the user's connection to ask. Default: the newest, and the next
	// newest where that one goes away unasked.
	Conn string
}

// Ask asks a user's client and returns its answer: what the function behind
// `serve(event, …)` returned. The newest connection is asked. It waits until ctx
// ends, or for [Options.Timeout], and never longer than a minute; the client
// is told how long.
//
// Errors: NOT_FOUND at once where the user is not connected; UNAVAILABLE where
// the connection closed meanwhile, or no presence service is there;
// DEADLINE_EXCEEDED where nobody answered; UNIMPLEMENTED where the client does
// not serve the event; else what the client said.
func (f *Fairlead) Ask(ctx context.Context, user, event string, data any, o AskOptions) (json.RawMessage, error) {
	if err := wire.CheckUser(user); err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	subject, err := f.subject(f.opts.Namespace.Ask(user))
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	return f.ask(ctx, subject, event, data, o.Conn, wire.Errorf(wire.Unavailable, "no presence service answers").With("outcome", "none"))
}

// AskConn is [Fairlead.Ask] for one connection, by its id: NOT_FOUND at once
// where it is gone. It needs no presence service.
func (f *Fairlead) AskConn(ctx context.Context, conn, event string, data any) (json.RawMessage, error) {
	subject, err := f.subject(f.opts.Namespace.Conn(conn))
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	return f.ask(ctx, subject, event, data, "", wire.Errorf(wire.NotFound, "no gateway has that connection"))
}

func (f *Fairlead) ask(ctx context.Context, subject, event string, data any, conn string, nobody error) (json.RawMessage, error) {
	msg, err := message(subject, event, data)
	if err == nil {
		err = set(msg.Header, wire.HeaderConn, conn)
	}
	var answer []byte
	if err == nil {
		answer, err = f.request(ctx, msg)
	}
	if errors.Is(err, nats.ErrNoResponders) {
		err = nobody
	}
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	return answer, nil
}
