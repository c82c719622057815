package replay

import (
	"errors"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// observe exports the replica's figures. No label names a topic or a user.
func (s *Service) observe() error {
	if s.deps.Meter == nil {
		return nil
	}
	meter := s.deps.Meter.Meter("fairlead/replay")
	var errs []error
	counter := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Counter(meter, "fairlead_replay_"+name, help, read))
	}
	gauge := func(name, help string, read func(*stream) int64) {
		errs = append(errs, telemetry.Gauge(meter, "fairlead_replay_"+name, help, func() (n int64) {
			for _, log := range s.streams() {
				n += read(log)
			}
			return n
		}))
	}
	m := &s.metrics
	counter("reads_answered_total", "Requests for messages answered.", m.reads.Load)
	counter("messages_read_total", "Messages in those answers.", m.messages.Load)
	counter("truncations_reported_total", "Answers that said a message is gone.", m.truncations.Load)
	counter("messages_stored_total", "Messages stored for workers.", m.publishes.Load)
	counter("duplicates_recognized_total", "Publishes that were stored before.", m.duplicates.Load)
	counter("publish_errors_total", "Publishes that were not stored, or not known to be.", m.publishErrors.Load)
	counter("topics_purged_total", "Expired messages removed, counted by topic.", m.purges.Load)
	gauge("streams_open", "Streams that can be read.", func(*stream) int64 { return 1 })
	gauge("index_bytes", "Memory of the indexes, as far as they count it.", func(l *stream) int64 { _, n := l.index.get().size(); return n })
	gauge("index_topics", "Topics in the indexes.", func(l *stream) int64 { n, _ := l.index.get().size(); return int64(n) })
	return errors.Join(errs...)
}
