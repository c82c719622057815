package fairlead

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Limits asks the ratelimit service about the limits of the rules, by their
// names: the buckets that gateways take from when clients publish and call, and
// those that only workers know.
//
// A key is whatever is counted, 1 to 255 bytes: a user, an address, "login:ann".
// Of a limit that the rules name, gateways have the keys that its `key` says.
//
// What is refused is a [Verdict], no error. Errors are UNAVAILABLE where no
// replica of the service answers (then `details.outcome` is none: nothing was
// taken), DEADLINE_EXCEEDED where none did in time and tokens may be gone,
// NOT_FOUND for a limit that the rules don't have, INVALID_ARGUMENT for keys and
// costs that are none, RESOURCE_EXHAUSTED where too many ask at once.
type Limits struct{ f *Fairlead }

// Limits returns the view of the limits.
func (f *Fairlead) Limits() Limits { return Limits{f} }

// Take is what is wanted of one bucket.
type Take struct {
	Policy string // the limit's name in the rules
	Key    string
	Cost   int64 // tokens; 0 takes none
}

// Verdict is what a bucket says.
type Verdict struct {
	Allowed   bool
	Banned    bool  // whatever it costs, until RetryAfter has passed
	Shadowed  bool  // allowed only because the limit has `shadow`
	Remaining int64 // tokens that are left, rounded down
	Limit     int64 // tokens of a full bucket
	// RetryAfter is when as many tokens will be there, [wire.Never] where the cost
	// is above what the bucket holds, 0 where it is allowed.
	RetryAfter time.Duration
	Reset      time.Duration // until the bucket is full
}

// Err is nil for what is allowed, else the RESOURCE_EXHAUSTED that a handler can
// return: the client hears it with retryAfterMs, and waits if it wants to.
func (v Verdict) Err() error {
	if v.Allowed {
		return nil
	}
	what := "too many requests"
	if v.Banned {
		what = "banned for too many requests"
	}
	return &wire.Error{Code: wire.ResourceExhausted, Message: what, RetryAfter: v.RetryAfter,
		Details: map[string]any{"capacity": v.Limit, "remaining": v.Remaining, "outcome": "none"}}
}

// Consume takes cost tokens of a key, or none where there are not as many. A cost
// of 0 takes none and says whether the key is banned.
func (l Limits) Consume(ctx context.Context, policy, key string, cost int64) (Verdict, error) {
	reply, err := service[wire.LimitReply](ctx, l.f, "ratelimit", "consume", wire.LimitRequest{LimitTake: take(policy, key, cost)})
	return verdict(reply.LimitVerdict), err
}

// ConsumeAll takes from several buckets, from all of them or from none. The first
// verdict says which, with the longest of the waits; each says in order what
// became of one: where another one refuses, that it was Allowed takes nothing
// either. At least one take.
func (l Limits) ConsumeAll(ctx context.Context, takes ...Take) (all Verdict, each []Verdict, err error) {
	if len(takes) == 0 {
		return all, nil, fmt.Errorf("ratelimit.consume: %w", wire.InvalidField("takes", "at least one"))
	}
	req := wire.LimitRequest{Takes: make([]wire.LimitTake, len(takes))}
	for i, t := range takes {
		req.Takes[i] = take(t.Policy, t.Key, t.Cost)
	}
	reply, err := service[wire.LimitReply](ctx, l.f, "ratelimit", "consume", req)
	for _, v := range reply.Takes {
		each = append(each, verdict(v))
	}
	return verdict(reply.LimitVerdict), each, err
}

// Peek says what Consume would, and takes nothing.
func (l Limits) Peek(ctx context.Context, policy, key string, cost int64) (Verdict, error) {
	reply, err := service[wire.LimitReply](ctx, l.f, "ratelimit", "peek", wire.LimitRequest{LimitTake: take(policy, key, cost)})
	return verdict(reply.LimitVerdict), err
}

// Refund gives tokens back, never more than the bucket holds, and returns how
// many there are then. id is what the refund is for, such as the order: the same
// id within a minute gives back nothing more, so that a refund whose answer was
// lost is sent again. "" is an id that nobody else has.
func (l Limits) Refund(ctx context.Context, policy, key string, cost int64, id string) (remaining int64, err error) {
	if id == "" {
		id = rand.Text()
	}
	reply, err := service[wire.LimitRefunded](ctx, l.f, "ratelimit", "refund", wire.LimitRefund{Policy: policy, Key: key, Cost: &cost, ID: id})
	return reply.Remaining, err
}

// Reset fills a bucket and ends its ban.
func (l Limits) Reset(ctx context.Context, policy, key string) error {
	_, err := service[struct{}](ctx, l.f, "ratelimit", "reset", wire.LimitKey{Policy: policy, Key: key})
	return err
}

// Ban refuses everything of a key for a time, on every gateway within 100 ms. 0
// is for as long as the limit's `block` says, a minute where it says nothing.
func (l Limits) Ban(ctx context.Context, policy, key string, d time.Duration) error {
	req := wire.LimitBan{Policy: policy, Key: key}
	if d != 0 {
		req.Duration = d.String()
	}
	_, err := service[struct{}](ctx, l.f, "ratelimit", "ban", req)
	return err
}

// Unban ends a key's ban; its tokens stay as they are.
func (l Limits) Unban(ctx context.Context, policy, key string) error {
	_, err := service[struct{}](ctx, l.f, "ratelimit", "unban", wire.LimitKey{Policy: policy, Key: key})
	return err
}

// Policy returns a limit as it counts now.
func (l Limits) Policy(ctx context.Context, name string) (wire.LimitPolicy, error) {
	return service[wire.LimitPolicy](ctx, l.f, "ratelimit", "policy", wire.LimitPolicyRequest{Policy: name})
}

func take(policy, key string, cost int64) wire.LimitTake {
	return wire.LimitTake{Policy: policy, Key: key, Cost: &cost}
}

func verdict(v wire.LimitVerdict) Verdict {
	return Verdict{
		Allowed: v.Allowed, Banned: v.Banned, Shadowed: v.Shadowed, Remaining: v.Remaining, Limit: v.Limit,
		RetryAfter: v.RetryAfterMs.Duration(), Reset: time.Duration(v.ResetMs) * time.Millisecond,
	}
}
