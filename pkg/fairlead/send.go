package fairlead

import (
	"context"
	"fmt"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// SendOptions refine a direct message.
type SendOptions struct {
	// Topic is the topic it belongs to: clients give it to that topic's
	// listeners. Default: none.
	Topic string
	// Exclude is a connection that does not get it.
	Exclude string
	// Coalesce is as in [PublishOptions].
	Coalesce string
}

// Send sends a message to every connection of a user, on whatever gateway, and
// returns when the NATS server has it. A user who is not connected is no error
// and gets nothing: see [Presence.Online], and [Fairlead.Store] for what must
// be there later.
func (f *Fairlead) Send(ctx context.Context, user, event string, data any, o SendOptions) error {
	err := wire.CheckUser(user)
	if err == nil {
		var subject string
		if subject, err = f.subject(f.opts.Namespace.User(user)); err == nil {
			err = f.send(ctx, subject, event, data, o)
		}
	}
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// SendConn is [Fairlead.Send] to one connection, by its id.
func (f *Fairlead) SendConn(ctx context.Context, conn, event string, data any, o SendOptions) error {
	subject, err := f.subject(f.opts.Namespace.Conn(conn))
	if err == nil {
		err = f.send(ctx, subject, event, data, o)
	}
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

func (f *Fairlead) send(ctx context.Context, subject, event string, data any, o SendOptions) error {
	msg, err := message(subject, event, data)
	if err != nil {
		return err
	}
	if err := set(msg.Header, wire.HeaderTopic, o.Topic, wire.HeaderExclude, o.Exclude, wire.HeaderCoalesce, o.Coalesce); err != nil {
		return err
	}
	return f.flush(ctx, msg)
}
