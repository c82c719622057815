package gateway

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ops says what runs an op: every one of the protocol.
var ops = map[wire.Op]func(*connection, *wire.Frame) *wire.Error{
	wire.OpHello:          (*connection).hello,
	wire.OpRefresh:        (*connection).refresh,
	wire.OpSubscribe:      (*connection).subscribe,
	wire.OpUnsubscribe:    (*connection).unsubscribe,
	wire.OpPublish:        (*connection).publish,
	wire.OpBatch:          (*connection).batch,
	wire.OpHistory:        (*connection).history,
	wire.OpGap:            (*connection).gap,
	wire.OpPresence:       (*connection).listPresence,
	wire.OpPresenceJoin:   (*connection).presenceJoin,
	wire.OpPresenceLeave:  (*connection).presenceLeave,
	wire.OpPresenceUpdate: (*connection).presenceUpdate,
	wire.OpCursor:         (*connection).cursor,
	wire.OpGroupJoin:      (*connection).groupJoin,
	wire.OpGroupLeave:     (*connection).groupLeave,
	wire.OpGroupPublish:   (*connection).groupPublish,
	wire.OpGroupSend:      (*connection).groupSend,
	wire.OpGroupMembers:   (*connection).groupMembers,
	wire.OpGroupMeta:      (*connection).groupMeta,
	wire.OpCall:           (*connection).call,
	wire.OpCancel:         (*connection).cancel,
	wire.OpReply:          (*connection).reply,
	wire.OpPong:           func(*connection, *wire.Frame) *wire.Error { return nil },
}

// serve runs one op: the only way from a frame to its code. bad is what the
// decoder found.
func (c *connection) serve(f *wire.Frame, bad *wire.Error) *wire.Error {
	if wait := c.frames.take(time.Now(), c.g.cfg.Limits.FramesPerSecond); wait > 0 {
		c.hurries(wait)
		c.g.metrics.limited.Add(1)
		return &wire.Error{Code: wire.ResourceExhausted, Message: "too many frames per second", RetryAfter: wait}
	}
	if bad != nil { // as it is of an op that the protocol does not have
		return bad
	}
	if err := c.admit(f); err != nil {
		return err
	}
	if err := c.g.authorizer.Authorize(context.Background(), c.identity.Load(), f); err != nil {
		return wire.AsError(err)
	}
	return ops[f.Op](c, f)
}

// admit lets an op pass that needs an identity only when there is one. Where
// hello is optional, the first such op stands for it: the upgrade request told
// who it is, or an anonymous user is made.
func (c *connection) admit(f *wire.Frame) *wire.Error {
	if f.Op == wire.OpHello || f.Op == wire.OpPong || c.greeted {
		return nil
	}
	if c.identity.Load() == nil {
		if !c.g.auth.AllowsAnonymous() {
			return wire.Errorf(wire.Unauthenticated, "hello with a token comes first")
		}
		if err := c.authenticate("", ""); err != nil {
			return err
		}
	}
	if err := c.listen(); err != nil {
		return err
	}
	c.greeted = true
	c.inform()
	return nil
}

// deadline is for what waits on NATS within an op.
func deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), flushWait)
}

// unavailable says that NATS is away and that nothing was done.
func unavailable(what string) *wire.Error {
	return wire.Errorf(wire.Unavailable, "%s", what).With("outcome", "none")
}
