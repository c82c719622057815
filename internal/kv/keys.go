package kv

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/streams"
)

// Keys calls yield for every key that was there when it began and still is, until
// yield returns false. Keys that come meanwhile may be among them, one that
// changes meanwhile may be yielded twice, and one that was deleted is left out.
// yield may use the bucket.
func (b *Bucket) Keys(ctx context.Context, yield func(key string) bool) error {
	// What feeds the walk may be a follower that lags: the leader says where it ends.
	end, err := b.end(ctx)
	if err != nil || end == 0 {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	keys := make(chan string, 256)
	var at atomic.Uint64
	t, err := streams.NewTail(ctx, b.nc, streams.TailConfig{Stream: b.stream, Newest: true, HeadersOnly: true}, func(msg *nats.Msg, meta *nats.MsgMetadata) error {
		key, ok := strings.CutPrefix(msg.Subject, b.subject)
		if ok && !deleted(msg.Header) {
			select {
			case keys <- key:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		at.Store(meta.Sequence.Stream) // not before its key can be taken
		return nil
	})
	if err != nil {
		cancel()
		return err
	}
	defer t.Close()
	defer cancel() // a walk that waits for us ends first
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for asked := time.Now(); ; {
		// Read before the keys are: what is not among them then never will be.
		whole := at.Load() >= end
		select {
		case key := <-keys:
			if !yield(key) {
				return nil
			}
			continue
		default:
		}
		if whole {
			return nil
		}
		select {
		case key := <-keys:
			if !yield(key) {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("walk %s: %w", b.stream, ctx.Err())
		case err := <-t.Broken:
			return fmt.Errorf("walk %s: %w", b.stream, err)
		case now := <-tick.C:
			if t.Silent(now) {
				return fmt.Errorf("walk %s: %w", b.stream, errSilent)
			}
			if now.Sub(asked) < time.Second {
				continue
			}
			// What ended the bucket may have been removed.
			asked = now
			if newest, err := b.end(ctx); err == nil {
				end = newest
			}
		}
	}
}
