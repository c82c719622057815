package limits

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Ask is what is wanted of one bucket.
type Ask struct {
	Limit *rules.Limit
	Key   string
	Cost  int64 // 0 takes nothing
}

// Answer is what became of an [Ask].
type Answer struct {
	Verdict
	Granted  int64 // of the n that were wanted
	Shadowed bool  // allowed only because the limit has `shadow`
	Cached   bool  // a denial that was remembered: nobody was asked
}

// Config is how a [Client] is set up.
type Config struct {
	NATS      *nats.Conn // stays the caller's
	Namespace wire.Namespace
	Log       *slog.Logger
	// Remember has denials and bans remembered, for at most 5 s.
	Remember bool
	// Self is the replica that asks, where it is one: what it prefers itself is
	// never asked of others. "" for everybody else.
	Self string
	Now  func() time.Time // time.Now when nil
}

// Client asks the ratelimit service. Its methods may be called concurrently.
type Client struct {
	cfg Config
}

// NewClient returns a client that hears nothing of replicas and changes until
// [Client.Run] does.
func NewClient(cfg Config) *Client { return &Client{cfg: cfg} }

// Run hears which replicas there are, and what they change, until ctx is done.
func (c *Client) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Consume wants an ask n times, each by itself and in order, and returns how many
// were granted. It waits until ctx ends, for 5 s where ctx has no deadline. An
// error says that the service did not decide: UNAVAILABLE, DEADLINE_EXCEEDED,
// NOT_FOUND for a policy that its replicas do not know.
func (c *Client) Consume(ctx context.Context, a Ask, n int64) (Answer, error) {
	return Answer{}, wire.Errorf(wire.Unavailable, "not there yet")
}

// ConsumeAll wants all of several asks or none of them, and returns what became
// of each.
func (c *Client) ConsumeAll(ctx context.Context, asks []Ask) (granted bool, _ []Answer, _ error) {
	return false, nil, wire.Errorf(wire.Unavailable, "not there yet")
}
