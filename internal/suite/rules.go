package suite

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/rules"
)

// FollowRules makes the rules that count, on a NATS connection of their own that
// the function it returns closes. The store's JetStream is filled in. A file
// with problems is [rules.Problems].
func FollowRules(ctx context.Context, natsConfig bus.Config, o rules.Options) (*rules.Live, func(), error) {
	natsConfig.Name = "fairlead-rules"
	nc, err := bus.Connect(ctx, natsConfig, bus.Hooks{})
	if err != nil {
		return nil, nil, err
	}
	if o.JetStream, err = jetstream.New(nc); err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("jetstream: %w", err)
	}
	live, err := rules.Follow(o)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return live, nc.Close, nil
}
