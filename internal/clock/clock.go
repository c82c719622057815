// Package clock waits for a while that can be cut short.
package clock

import (
	"context"
	"time"
)

// Sleep returns nil after d, or earlier ctx's error when that ends first.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
