package fairlead

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// DefaultWindow is how long [Fairlead.Match] and [Target] collect answers.
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
		if header, err = wire.EncodeData("criteria", criteria); err == nil {
			err = set(msg.Header, wire.HeaderMatch, string(header), wire.HeaderTopic, o.Topic, wire.HeaderExclude, o.Exclude, wire.HeaderCoalesce, o.Coalesce)
		}
	}
	if err == nil {
		reached, err = f.collect(ctx, poll{msg: msg, window: o.Window, enough: func(replies, _ int) bool { return replies == o.Gateways }})
	}
	if err != nil {
		return reached, fmt.Errorf("match: %w", err)
	}
	return reached, nil
}
