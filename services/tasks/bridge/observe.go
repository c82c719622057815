package bridge

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// counts are what a bridge did.
type counts struct {
	received, published atomic.Int64
	dropped             [reasons]atomic.Int64
	takeovers, gaps     atomic.Int64
	evictions           atomic.Int64
	reconnects          atomic.Int64
	listening           atomic.Int64 // channels
	unremembered        atomic.Int64
}

// Observe exports the bridge's figures. No label names a channel or a topic.
func (b *Bridge) Observe(meter metric.Meter) error {
	c := &b.counts
	return errors.Join(
		telemetry.Counter(meter, "fairlead_tasks_bridge_notifications_total", "Notifications that were heard on the channels of bridges.", c.received.Load),
		telemetry.Counter(meter, "fairlead_tasks_bridge_changes_published_total", "Changes published on topics.", c.published.Load),
		telemetry.CounterBy(meter, "fairlead_tasks_bridge_changes_dropped_total", "Notifications that were not published, by why not.", "reason",
			func(observe func(string, int64)) {
				for r := fine + 1; r < reasons; r++ {
					observe(r.String(), c.dropped[r].Load())
				}
			}),
		telemetry.Gauge(meter, "fairlead_tasks_bridge_changes_waiting", "Changes that wait for NATS or an acknowledgement.", b.outlet.waiting.Load),
		telemetry.Gauge(meter, "fairlead_tasks_bridge_channels_listening", "Channels that this replica listens to.", c.listening.Load),
		telemetry.Counter(meter, "fairlead_tasks_bridge_takeovers_total", "Channels that this replica began to listen to.", c.takeovers.Load),
		telemetry.Counter(meter, "fairlead_tasks_bridge_gaps_total", "Gaps announced: changes may have been lost.", c.gaps.Load),
		telemetry.Counter(meter, "fairlead_tasks_bridge_evictions_total", "Times that this replica ended a session that hung with channels it wanted.", c.evictions.Load),
		telemetry.Counter(meter, "fairlead_tasks_bridge_reconnects_total", "Sessions with Postgres that were lost, or could not be opened.", c.reconnects.Load),
		telemetry.Counter(meter, "fairlead_tasks_bridge_topics_unremembered_total", "Changes on topics that are not told of a gap, since their channel has too many.", c.unremembered.Load),
	)
}

// said lets each thing be logged once in a while.
type said struct {
	mu sync.Mutex // guards what follows
	at map[string]*saying
}

type saying struct {
	last  time.Time
	times int // since then
}

const sayEvery = time.Minute

// now counts one more time of what, and reports whether to say it, and of how
// many times.
func (s *said) now(what string, at time.Time) (times int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[string]*saying{}
	}
	x := s.at[what]
	if x == nil {
		x = &saying{}
		s.at[what] = x
	}
	x.times++
	if !x.last.IsZero() && at.Sub(x.last) < sayEvery {
		return 0, false
	}
	times, x.times, x.last = x.times, 0, at
	return times, true
}
