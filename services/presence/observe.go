package presence

import (
	"errors"
	"sync/atomic"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// metrics count what the replica did.
type metrics struct {
	puts, stale, conflicts  atomic.Int64
	joins, leaves, refusals atomic.Int64
	swept, audits           atomic.Int64
	publishErrors           atomic.Int64
}

// observe exports the replica's figures. No label names a topic or a user.
func (s *Service) observe() error {
	if s.deps.Meter == nil {
		return nil
	}
	meter := s.deps.Meter.Meter("fairlead/presence")
	var errs []error
	counter := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Counter(meter, "fairlead_presence_"+name, help, read))
	}
	gauge := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Gauge(meter, "fairlead_presence_"+name, help, read))
	}
	m := &s.metrics
	counter("sections_stored_total", "Changes of who is where that were stored.", m.puts.Load)
	counter("sections_stale_total", "Changes that came behind a newer one and were dropped.", m.stale.Load)
	counter("write_conflicts_total", "Writes that were decided again since the key had changed.", m.conflicts.Load)
	counter("joins_total", "Users who came to a topic where they were not.", m.joins.Load)
	counter("leaves_total", "Users who left a topic, as far as this replica wrote it.", m.leaves.Load)
	counter("joins_refused_total", "Joins refused since the topic was full.", m.refusals.Load)
	counter("sections_swept_total", "Sections of dead gateways taken out.", m.swept.Load)
	counter("audits_asked_total", "Times a gateway was asked to compare what it has with what is stored.", m.audits.Load)
	counter("publish_errors_total", "Events that did not reach NATS.", m.publishErrors.Load)
	gauge("gateways_alive", "Gateways with a lease.", func() int64 { return int64(s.leases.size()) })
	gauge("topics_occupied", "Topics with somebody on them.", func() int64 { n, _ := s.topics.size(); return int64(n) })
	gauge("members_present", "Users on topics, counted once for each topic.", func() int64 { _, n := s.topics.size(); return int64(n) })
	gauge("users_online", "Users with a connection.", func() int64 { _, n := s.registry.size(); return int64(n) })
	s.groups.observe(counter)
	errs = append(errs, s.asker.observe(meter, counter, gauge))
	counter("session_sets_total", "Sessions made or replaced.", s.sessions.sets.Load)
	errs = append(errs,
		telemetry.CounterBy(meter, "fairlead_presence_session_gets_total", "Sessions asked for, by whether there was one.", "result", s.sessions.gets.observe),
		telemetry.CounterBy(meter, "fairlead_presence_session_touches_total", "Sessions kept alive by a touch, by whether there was one.", "result", s.sessions.touches.observe),
		telemetry.CounterBy(meter, "fairlead_presence_session_deletes_total", "Sessions deleted, by whether there was one.", "result", s.sessions.deletes.observe))
	return errors.Join(errs...)
}
