package bench

import (
	"context"
	"fmt"
	"time"
)

// waveWait bounds how long many clients may take to catch up.
const waveWait = time.Minute

// gather waits for one word from each loop.
func (e *engine) gather(ctx context.Context, over <-chan struct{}, state func(loop int) (left int, failure string)) error {
	bounded, cancel := context.WithTimeout(ctx, waveWait)
	defer cancel()
	for range e.loops {
		select {
		case <-over:
		case err := <-e.failed:
			return err
		case <-bounded.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			left, why := make([]int, len(e.loops)), make([]string, len(e.loops))
			if err := e.each(ctx, func(i int, _ loop) { left[i], why[i] = state(i) }); err != nil {
				return err
			}
			return fmt.Errorf("clients that did not catch up within %v, by loop: %v; first failure: %q", waveWait, left, why)
		}
	}
	return nil
}
