package fairlead

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Target is whose connections are told something by an operator. With NATS
// permissions, only operators may.
//
// Its methods return for how many connections it was done, as far as gateways
// said so within [DefaultWindow]; the first answer is waited for until ctx ends,
// or for [Options.Timeout]. None reached is no error, but nobody who says so is:
// UNAVAILABLE where there is no gateway, DEADLINE_EXCEEDED where none answered in
// time. With an error of a gateway reached is what the others did.
type Target struct {
	f       *Fairlead
	subject string
	err     error // of making the subject
	single  bool  // a single connection
}

// OfUser addresses all connections of a user.
func (f *Fairlead) OfUser(user string) Target {
	if err := wire.CheckUser(user); err != nil {
		return Target{f: f, err: err}
	}
	subject, err := f.subject(f.opts.Namespace.ControlUser(user))
	return Target{f: f, subject: subject, err: err}
}

// OfConn addresses one connection, by its id.
func (f *Fairlead) OfConn(conn string) Target {
	subject, err := f.subject(f.opts.Namespace.ControlConn(conn))
	return Target{f: f, subject: subject, err: err, single: true}
}

// Disconnect closes the connections. code is the close code, 0 for 4403, after
// which clients stay away; reason is told to them, at most 123 bytes. It is no
// ban: who has a token can connect again, see [Target.Revoke].
func (t Target) Disconnect(ctx context.Context, code wire.CloseCode, reason string) (reached int, err error) {
	return t.tell(ctx, wire.Control{Action: wire.ControlDisconnect, Code: int(code), Reason: reason})
}

// Revoke closes the connections with 4403 and has every token of the user that
// was issued before that time refused from then on. The zero time is now, by the
// gateways' clocks. Of a user only.
//
// Without an error it is stored: every gateway refuses the tokens, also those
// that start later. With one, send it again.
func (t Target) Revoke(ctx context.Context, before time.Time, reason string) (reached int, err error) {
	control := wire.Control{Action: wire.ControlRevoke, Reason: reason}
	if !before.IsZero() {
		control.Before = before.UnixMilli()
	}
	return t.tell(ctx, control)
}

// Subscribe subscribes the connections to a topic, whatever its rule says.
func (t Target) Subscribe(ctx context.Context, topic string) (reached int, err error) {
	if err := wire.CheckTopic(topic); err != nil {
		return 0, fmt.Errorf("control subscribe: %w", err)
	}
	return t.tell(ctx, wire.Control{Action: wire.ControlSubscribe, Topic: topic})
}

// Unsubscribe ends the connections' subscription of a topic.
func (t Target) Unsubscribe(ctx context.Context, topic string) (reached int, err error) {
	if err := wire.CheckTopic(topic); err != nil {
		return 0, fmt.Errorf("control unsubscribe: %w", err)
	}
	return t.tell(ctx, wire.Control{Action: wire.ControlUnsubscribe, Topic: topic})
}

// Refresh has the clients get a newer token.
func (t Target) Refresh(ctx context.Context) (reached int, err error) {
	return t.tell(ctx, wire.Control{Action: wire.ControlRefresh})
}

func (t Target) tell(ctx context.Context, control wire.Control) (reached int, err error) {
	if t.err != nil {
		return 0, fmt.Errorf("control %s: %w", control.Action, t.err)
	}
	msg, err := message(t.subject, "", control)
	if err == nil {
		reached, err = t.f.collect(ctx, poll{msg: msg, heard: true, enough: func(_, reached int) bool { return t.single && reached > 0 }})
	}
	if err != nil {
		return reached, fmt.Errorf("control %s: %w", control.Action, err)
	}
	return reached, nil
}

// DrainGateway has a gateway stop as at SIGTERM: its clients are told to go
// elsewhere, a few at a time, and its process ends. NOT_FOUND where no gateway
// has that id.
func (f *Fairlead) DrainGateway(ctx context.Context, id string) error {
	subject, err := f.subject(f.opts.Namespace.ControlGateway(id))
	if err != nil {
		return fmt.Errorf("control drain: %w", err)
	}
	msg, err := message(subject, "", wire.Control{Action: wire.ControlDrain})
	if err == nil {
		_, err = f.request(ctx, msg)
	}
	if errors.Is(err, nats.ErrNoResponders) {
		err = wire.Errorf(wire.NotFound, "no such gateway")
	}
	if err != nil {
		return fmt.Errorf("control drain: %w", err)
	}
	return nil
}
