package fairlead

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// poll is a request that every gateway answers with how many of its connections
// it was for.
type poll struct {
	msg    *nats.Msg
	window time.Duration // how long answers are collected; 0: DefaultWindow
	enough func(replies, reached int) bool
	// heard says that somebody has to have answered: the first answer is waited
	// for beyond the window, until ctx ends, and none is an error. Without it,
	// none is nobody reached.
	heard bool
}

// collect sends p and adds up what gateways answer, until it is enough or the
// window is over. A gateway's refusal is the error; reached is what the others
// did.
func (f *Fairlead) collect(ctx context.Context, p poll) (reached int, err error) {
	if p.window <= 0 {
		p.window = DefaultWindow
	}
	ctx, cancel := f.within(ctx)
	defer cancel()
	inbox := f.nc.NewInbox()
	sub, err := f.nc.SubscribeSync(inbox)
	if err != nil {
		return 0, failed(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only with the connection
	p.msg.Reply = inbox
	if err := f.flush(ctx, p.msg); err != nil {
		return 0, err
	}
	collecting, stop := context.WithTimeout(ctx, p.window)
	defer stop()
	var refused error
	answered := !p.heard
	for replies := 1; ; replies++ {
		reply, err := sub.NextMsgWithContext(collecting)
		if err != nil && collecting.Err() != nil && ctx.Err() == nil && !answered && refused == nil {
			reply, err = sub.NextMsgWithContext(ctx) // the first one ends the wait
		}
		switch {
		case err == nil:
		case errors.Is(err, nats.ErrNoResponders):
			if p.heard {
				return 0, wire.Errorf(wire.Unavailable, "no gateway is there").With("outcome", "none")
			}
			return 0, nil
		case errors.Is(ctx.Err(), context.Canceled):
			return reached, failed(ctx.Err())
		case collecting.Err() == nil:
			return reached, failed(err)
		case refused != nil || answered: // the window is over
			return reached, refused
		default:
			return 0, wire.Errorf(wire.DeadlineExceeded, "no gateway answered in time").With("outcome", "unknown")
		}
		var said wire.Reached
		if e := replyError(reply); e != nil {
			refused = e
		} else if json.Unmarshal(reply.Data, &said) == nil {
			reached += said.Reached
			answered = true
		}
		if p.enough(replies, reached) {
			return reached, refused
		}
	}
}
