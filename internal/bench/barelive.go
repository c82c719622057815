package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// bareLive measures over NATS alone what [ReplayLive] measures through a
// gateway: how much of the difference is the broker's.
type bareLive struct {
	out, in *nats.Conn
	publish [2]string
	arrived chan int64 // when a message came, unix nanoseconds
	took    [2]Histogram
	payload template
}

func newBareLive(s *site, size int) (*bareLive, error) {
	b := &bareLive{arrived: make(chan int64, 1)}
	var err error
	if b.payload, err = newTemplate(size); err != nil {
		return nil, err
	}
	if b.out, err = s.connect(); err != nil {
		return nil, err
	}
	if b.in, err = s.connect(); err != nil {
		b.close()
		return nil, err
	}
	topics := [2]string{plainPrefix + "bare", logPrefix + "bare"}
	for side, to := range []func(string) (string, error){siteNamespace.Topic, siteNamespace.Seq} {
		if b.publish[side], err = siteNamespace.Topic(topics[side]); err != nil {
			b.close()
			return nil, err
		}
		subject, err := to(topics[side])
		if err == nil {
			_, err = b.in.Subscribe(subject, func(*nats.Msg) { b.arrived <- time.Now().UnixNano() })
		}
		if err != nil {
			b.close()
			return nil, err
		}
	}
	return b, b.in.Flush()
}

func (b *bareLive) close() {
	for _, nc := range []*nats.Conn{b.out, b.in} {
		if nc != nil {
			nc.Close()
		}
	}
}

// run publishes to both sides in turn for d, and returns what being stored
// added to the median.
func (b *bareLive) run(ctx context.Context, interval, d time.Duration) (added time.Duration, err error) {
	var took [2]Histogram
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for end, side := time.Now().Add(d), 0; time.Now().Before(end); side = 1 - side {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		began := time.Now().UnixNano()
		b.payload.stamp(began, firstNumber)
		if err := b.out.Publish(b.publish[side], b.payload); err != nil {
			return 0, err
		}
		select {
		case at := <-b.arrived:
			took[side].Record(at - began)
		case <-time.After(stall):
			return 0, fmt.Errorf("over NATS alone, %s: nothing came within %v", liveSides[side], stall)
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	for side := range took {
		b.took[side].Merge(&took[side])
	}
	return took[1].Quantile(0.5) - took[0].Quantile(0.5), nil
}
