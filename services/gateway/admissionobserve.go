package gateway

import (
	"errors"

	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/internal/telemetry"
)

// observeAdmission exports what was shed and why, and what is published.
func (g *Service) observeAdmission(meter metric.Meter) error {
	var errs []error
	counter := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Counter(meter, "fairlead_gateway_"+name, help, read))
	}
	gauge := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Gauge(meter, "fairlead_gateway_"+name, help, read))
	}
	h, a, t := g.handshake, g.admission, g.top
	gauge("upgrades_pending", "Requests being upgraded, their authentication included.", func() int64 { n, _ := h.size(); return int64(n) })
	gauge("upgrades_waiting", "Requests in line to be upgraded.", func() int64 { _, n := h.size(); return int64(n) })
	counter("upgrades_shed_total", "Requests refused since too many were being upgraded.", h.shed.Load)
	gauge("memory_used_ppm", "Memory in use, in millionths of its limit; 0 where there is none.", a.memory.Load)
	gauge("publish_rate_messages", "Messages that clients published in the last second, and those that were shed.", a.published.Load)
	gauge("subscriptions_open", "Subscriptions of connections to topics and patterns.", a.subscribed.Load)
	errs = append(errs,
		telemetry.GaugeBy(meter, "fairlead_gateway_pressure_reasons_active", "1 while the reason to shed messages counts.", "reason", func(observe func(string, int64)) {
			active := pressures(a.active.Load())
			for _, r := range everyPressure {
				n := int64(0)
				if active.has(r) {
					n = 1
				}
				observe(r.String(), n)
			}
		}),
		telemetry.CounterBy(meter, "fairlead_gateway_admission_accepted_total", "Messages of clients that were not shed, by the class of their topic.", "class",
			func(observe func(string, int64)) {
				for class, m := range *a.classes.Load() {
					observe(class, m.accepted.Load())
				}
			}),
		telemetry.CounterOf(meter, "fairlead_gateway_admission_rejected_total", "Messages of clients that were shed, by the class of their topic and the reason.", []string{"class", "reason"},
			func(observe func(int64, ...string)) {
				for class, m := range *a.classes.Load() {
					for i := range m.rejected {
						observe(m.rejected[i].Load(), class, rejectedReason(i))
					}
				}
			}))
	gauge("topics_counted", "Topics whose messages are counted, for the topics that are published to most.", func() int64 { return int64(t.counts.size()) })
	counter("topics_uncounted_total", "Times that a topic could not be counted since too many were.", t.counts.uncounted.Load)
	gauge("topic_rates_gateways", "Gateways whose share is in the rates of topics, this one included.", func() int64 { return int64(t.size()) })
	counter("topic_rates_shared_total", "Times that this gateway shared the rates of its topics.", t.shared.Load)
	counter("topic_rates_received_total", "Times that another gateway did.", t.received.Load)
	counter("topic_rates_echoed_total", "What this gateway heard of itself.", t.echoes.Load)
	counter("topic_rates_malformed_total", "What could not be read of others.", t.malformed.Load)
	counter("topic_rates_ignored_total", "What came from gateways for which there was no room.", t.ignored.Load)
	return errors.Join(errs...)
}

// rejectedReason names a place in classMeter.rejected.
func rejectedReason(i int) string {
	if i < len(everyPressure) {
		return everyPressure[i].String()
	}
	return topPublisherReason
}
