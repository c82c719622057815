package fairlead

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// DefaultWindow is how long [Fairlead.Match] and [Target] collect replies.
const DefaultWindow = 500 * time.Millisecond

// MatchOptions refine a message to all connections with some attributes.
type MatchOptions struct {
	SendOptions
	// Window is how long the replies of gateways are collected, at most until
	// ctx ends. Default [DefaultWindow].
	Window time.Duration
	// Gateways returns as soon as so many gateways have replied. Default 0: it
	// is not known, and the whole window passes.
	Gateways int
}

// Match sends a message to every connection whose attributes have all of the
// criteria: {"role":"admin","region":"eu"}. At least one is needed. It returns
// how many connections it was for, as far as gateways said so within the
// window: a gateway that is slower still delivers and is not counted. With an
// error of a gateway it is what the others reached.
func (f *Fairlead) Match(ctx context.Context, criteria map[string]string, event string, data any, o MatchOptions) (reached int, err error) {
	if len(criteria) == 0 {
		return 0, fmt.Errorf("match: %w", wire.InvalidField("criteria", "at least one attribute"))
	}
	subject, err := f.subject(f.opts.Namespace.Match(), nil)
	if err != nil {
		return 0, fmt.Errorf("match: %w", err)
	}
	msg, err := message(subject, event, data)
	if err == nil {
		var header []byte
		if header, err = encode("criteria", criteria); err == nil {
			err = set(msg.Header, wire.HeaderMatch, string(header), wire.HeaderTopic, o.Topic, wire.HeaderExclude, o.Exclude, wire.HeaderCoalesce, o.Coalesce)
		}
	}
	if err == nil {
		reached, err = f.collect(ctx, msg, o.Window, func(replies, _ int) bool { return replies == o.Gateways })
	}
	if err != nil {
		return reached, fmt.Errorf("match: %w", err)
	}
	return reached, nil
}

// collect sends a request that every gateway answers, and adds up how many of
// their connections it was for: until it is enough, or the window is over. No
// gateway at all is nobody reached. A gateway's refusal is the error; reached is
// what the others did.
func (f *Fairlead) collect(ctx context.Context, msg *nats.Msg, window time.Duration, enough func(replies, reached int) bool) (reached int, err error) {
	if window <= 0 {
		window = DefaultWindow
	}
	ctx, cancel := f.within(ctx)
	defer cancel()
	inbox := f.nc.NewInbox()
	sub, err := f.nc.SubscribeSync(inbox)
	if err != nil {
		return 0, failed(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only with the connection
	msg.Reply = inbox
	if err := f.flush(ctx, msg); err != nil {
		return 0, err
	}
	collecting, stop := context.WithTimeout(ctx, window)
	defer stop()
	var refused error
	for replies := 1; ; replies++ {
		reply, err := sub.NextMsgWithContext(collecting)
		switch {
		case err == nil:
		case errors.Is(err, nats.ErrNoResponders):
			return 0, nil
		case errors.Is(ctx.Err(), context.Canceled):
			return reached, failed(ctx.Err())
		case collecting.Err() != nil: // the window is over
			return reached, refused
		default:
			return reached, failed(err)
		}
		var said wire.Reached
		if e := replyError(reply); e != nil {
			refused = e
		} else if json.Unmarshal(reply.Data, &said) == nil {
			reached += said.Reached
		}
		if enough(replies, reached) {
			return reached, refused
		}
	}
}
