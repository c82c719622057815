package gateway

import (
	"context"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// Authorizer decides whether a client may do what a frame asks. Every op goes
// through it before its own code runs.
type Authorizer interface {
	// Authorize returns nil, or the *wire.Error that answers the frame:
	// PERMISSION_DENIED with `details.rule` where a rule refused. id is nil
	// for an op that needs no identity.
	Authorize(ctx context.Context, id *auth.Identity, f *wire.Frame) error
	// AuthorizeMessage is Authorize for one message of a batch.
	AuthorizeMessage(ctx context.Context, id *auth.Identity, topic string) error
}

// need is what an op declares: the zero value is no declaration, and an op
// without one is refused.
type need struct {
	declared bool
	open     bool // nothing beyond an identity; or the op asks per message
	right    rules.Right
	name     func(*wire.Frame) string // what the right is over
}

var open = need{declared: true, open: true}

func over(right rules.Right, name func(*wire.Frame) string) need {
	return need{declared: true, right: right, name: name}
}

func topicOf(f *wire.Frame) string  { return f.Topic }
func methodOf(f *wire.Frame) string { return f.Method }
func groupOf(f *wire.Frame) string  { return f.Group }

// needs declares what every op of the protocol needs.
var needs = map[wire.Op]need{
	wire.OpHello:          open,
	wire.OpRefresh:        open,
	wire.OpSubscribe:      over(rules.Subscribe, topicOf),
	wire.OpUnsubscribe:    open,
	wire.OpPublish:        over(rules.Publish, topicOf),
	wire.OpBatch:          open, // each message is authorized by AuthorizeMessage
	wire.OpHistory:        over(rules.History, topicOf),
	wire.OpGap:            over(rules.History, topicOf),
	wire.OpPresence:       over(rules.Watch, topicOf),
	wire.OpPresenceJoin:   over(rules.Join, topicOf),
	wire.OpPresenceLeave:  open,
	wire.OpPresenceUpdate: over(rules.Join, topicOf),
	wire.OpCursor:         over(rules.Cursor, topicOf),
	wire.OpGroupJoin:      over(rules.JoinGroup, groupOf),
	wire.OpGroupLeave:     open,
	wire.OpGroupPublish:   over(rules.JoinGroup, groupOf),
	wire.OpGroupSend:      over(rules.JoinGroup, groupOf),
	wire.OpGroupMembers:   over(rules.JoinGroup, groupOf),
	wire.OpGroupMeta:      over(rules.JoinGroup, groupOf),
	wire.OpCall:           over(rules.CallMethod, methodOf),
	wire.OpCancel:         open,
	wire.OpReply:          open,
	wire.OpPong:           open,
}

// ruleAuthorizer decides by the rules in force and the claims of the token:
// both must allow.
type ruleAuthorizer struct {
	rules *rules.Live
}

func (a ruleAuthorizer) Authorize(_ context.Context, id *auth.Identity, f *wire.Frame) error {
	n := needs[f.Op]
	switch {
	case !n.declared:
		return wire.Errorf(wire.PermissionDenied, "no right is declared for %s", f.Op)
	case n.open:
		return nil
	}
	return a.decide(id, n.right, n.name(f))
}

func (a ruleAuthorizer) AuthorizeMessage(_ context.Context, id *auth.Identity, topic string) error {
	return a.decide(id, rules.Publish, topic)
}

func (a ruleAuthorizer) decide(id *auth.Identity, right rules.Right, name string) error {
	if id == nil {
		return wire.Errorf(wire.Unauthenticated, "hello comes first")
	}
	caller := rules.Caller{User: id.User, Anonymous: id.Anonymous, Attributes: id.Attributes}
	claims := claimsOf(id)
	allowed, rule, why := a.rules.Current().Decide(caller, claims, right, name)
	if allowed {
		return nil
	}
	err := wire.Errorf(wire.PermissionDenied, "%s", why)
	if rule != "" {
		err = err.With("rule", rule)
	}
	return err
}

func claimsOf(id *auth.Identity) rules.Claims {
	return rules.Claims{Subscribe: id.Subscribe, Publish: id.Publish, Send: id.Send, Calls: id.Calls, Groups: id.Groups}
}
