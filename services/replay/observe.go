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
	gauge := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Gauge(meter, "fairlead_replay_"+name, help, read))
	}
	sum := func(read func(*stream) int64) func() int64 {
		return func() (n int64) {
			for _, log := range s.streams() {
				n += read(log)
			}
			return n
		}
	}
	m := &s.metrics
	counter("reads_answered_total", "Requests for messages answered.", m.reads.Load)
	counter("messages_read_total", "Messages in those answers.", m.messages.Load)
	counter("truncations_reported_total", "Answers that said a message is gone.", m.truncations.Load)
	counter("messages_stored_total", "Messages stored for workers.", m.publishes.Load)
	counter("duplicates_recognized_total", "Publishes that were stored before.", m.duplicates.Load)
	counter("publish_errors_total", "Publishes that were not stored, or not known to be.", m.publishErrors.Load)
	counter("topics_purged_total", "Expired messages removed, counted by topic.", m.purges.Load)
	gauge("streams_open", "Streams that can be read.", sum(func(*stream) int64 { return 1 }))
	gauge("index_bytes", "Memory of the indexes, as far as they count it.", sum(func(l *stream) int64 { _, n := l.index.get().size(); return n }))
	gauge("index_topics", "Topics in the indexes.", sum(func(l *stream) int64 { n, _ := l.index.get().size(); return int64(n) }))
	a := &s.archiving.counts
	counter("archive_messages_copied_total", "Messages copied to the archive.", a.copiers.Copied.Load)
	counter("archive_holes_found_total", "Ranges of messages that were gone before they were copied.", a.copiers.Holes.Load)
	counter("archive_interruptions_total", "Times that copying stopped for something in its way.", a.copiers.Interruptions.Load)
	counter("archive_reads_answered_total", "Reads that the archive answered a part of.", a.reads.Load)
	counter("archive_read_errors_total", "Reads that the archive did not answer.", a.readErrors.Load)
	counter("archive_messages_cleaned_total", "Expired and cleared messages deleted from the archive.", a.cleaned.Load)
	counter("archive_clean_errors_total", "Times that the archive could not be cleaned.", a.cleanErrors.Load)
	gauge("archive_lag_messages", "Messages that are not archived yet.", func() int64 { return s.lag().Messages })
	gauge("archive_lag_bytes", "What they take in their streams, roughly.", func() int64 { return s.lag().Bytes })
	gauge("archive_lag_seconds", "Age of the oldest of them.", func() int64 { return int64(s.lag().Age.Seconds()) })
	if p := s.archiving.archive; p != nil {
		errs = append(errs, telemetry.GaugeBy(meter, "fairlead_replay_breaker_state", "Whether a backend is asked: 0 healthy, 1 probing, 2 broken.", "what",
			func(observe func(string, int64)) { observe("postgres", int64(p.breaker.State())) }))
	}
	l := &s.ledgers
	counter("ledger_ids_filled_total", "Message ids of the streams that are in their ledgers.", l.filled.Load)
	counter("ledger_refusals_total", "Ids that a full ledger did not take.", l.full.Load)
	counter("ledger_interruptions_total", "Times that filling stopped for something in its way.", l.interruptions.Load)
	gauge("ledger_ids", "Ids in the ledgers.", sum(func(l *stream) int64 { n, _ := l.fill.standing(s.now()); return n }))
	gauge("ledger_lag_milliseconds", "How much of the past is not in the ledger that is furthest behind.", func() (most int64) {
		for _, log := range s.streams() {
			_, lag := log.fill.standing(s.now())
			most = max(most, lag.Milliseconds())
		}
		return most
	})
	return errors.Join(errs...)
}
