package gateway

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// observe exports the gateway's figures. They are read when telemetry asks, so
// that the hot path only adds to counters. No label names a topic, a user or a
// connection.
func (g *Service) observe() error {
	meter := g.deps.Meter
	if meter == nil {
		return nil
	}
	var errs []error
	counter := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Counter(meter, "fairlead_gateway_"+name, help, read))
	}
	gauge := func(name, help string, read func() int64) {
		errs = append(errs, telemetry.Gauge(meter, "fairlead_gateway_"+name, help, read))
	}
	m := &g.metrics
	gauge("connections_open", "Open WebSocket connections.", func() int64 { return int64(g.connections.size()) })
	gauge("users_connected", "Different users connected.", func() int64 { return int64(g.connections.users()) })
	gauge("interests_subscribed", "NATS subjects subscribed for clients.", func() int64 { return int64(g.fanout.hub.size()) })
	gauge("calls_pending", "Calls without an answer.", func() int64 { return int64(g.calls.size()) })
	gauge("shard_messages_pending", "Messages from NATS that wait for a shard.", g.fanout.pending)
	gauge("nats_rtt_microseconds", "From publishing the last probe to hearing it through a shard; 0 before the first.", func() int64 {
		return g.fanout.rtt.Load() / int64(time.Microsecond)
	})
	counter("upgrades_accepted_total", "Requests upgraded.", m.accepted.Load)
	counter("upgrades_refused_total", "Requests refused before the upgrade.", m.refused.Load)
	counter("frames_in_total", "Protocol frames received.", m.framesIn.Load)
	counter("error_replies_total", "Error replies sent.", m.errors.Load)
	counter("oversized_frames_total", "Frames over the payload limit.", m.oversized.Load)
	counter("limited_requests_total", "Requests refused by a limit.", m.limited.Load)
	counter("unauthenticated_clients_total", "Clients without a valid token.", m.unauthenticated.Load)
	gauge("attributed_connections", "Connections whose token has attributes, which messages on fl.match find.", func() int64 { return int64(g.attributes.size()) })
	counter("match_refusals_total", "Messages on fl.match without criteria that can be used.", m.matchRefusals.Load)
	counter("control_actions_total", "Control messages of operators and services that were taken.", m.controls.Load)
	counter("control_refusals_total", "Control messages refused: malformed, or too many at a time.", m.controlRefusals.Load)
	counter("revoked_tokens_total", "Tokens refused because they were revoked.", m.revoked.Load)
	gauge("revoked_users", "Users of whom older tokens are refused.", func() int64 { users, _ := g.revocations.size(); return int64(users) })
	counter("revocations_ignored_total", "Revocations in the bucket that were too many to keep in mind.", func() int64 { _, missed := g.revocations.size(); return missed })
	counter("published_messages_total", "Messages published for clients.", m.published.Load)
	counter("publish_errors_total", "Publishes that NATS did not take.", m.publishErrors.Load)
	counter("nats_messages_total", "Messages from NATS for local listeners.", m.messages.Load)
	counter("deliveries_queued_total", "Messages queued for connections; over nats_messages_total it is the fan-out.", m.deliveries.Load)
	counter("malformed_messages_total", "Messages from NATS that could not be delivered.", m.malformed.Load)
	counter("nats_slow_consumers_total", "Times that NATS messages were dropped before a shard.", m.slowConsumers.Load)
	counter("topic_repairs_total", "Times that a replayed topic was read again because something was missing or unproven.", m.repairs.Load)
	counter("truncations_reported_total", "Times that clients were told that messages are gone.", m.truncations.Load)
	counter("ring_resumes_total", "Resumes answered from recent messages in memory.", m.ringHits.Load)
	counter("history_requests_total", "Questions for messages to the replay service.", m.histories.Load)
	counter("replayed_messages_total", "Messages of the past sent to clients that resumed.", m.replayed.Load)
	counter("unrecovered_resumes_total", "Resumes for which the past could not be read.", m.unrecovered.Load)
	counter("stored_messages_total", "Publishes that JetStream acknowledged.", m.stored.Load)
	counter("duplicate_publishes_total", "Publishes that were stored before under their key.", m.duplicates.Load)
	counter("ledger_lookups_total", "Keys looked up in a ledger, for rules that remember them longer than their stream.", m.ledgerLookups.Load)
	counter("ledger_hits_total", "Those that were in it.", m.ledgerHits.Load)
	counter("ledger_refusals_total", "Keyed publishes refused because a ledger was full, behind or away.", m.ledgerRefusals.Load)
	gauge("ring_bytes", "Recent messages of replayed topics held in memory.", g.rings.used.Load)
	errs = append(errs, telemetry.GaugeBy(meter, "fairlead_gateway_breaker_state", "Whether a service is asked: 0 healthy, 1 probing, 2 broken.", "what",
		func(observe func(string, int64)) {
			g.dependencies.each(func(d *dependency) { observe(d.what, int64(d.breaker.State())) })
		}))
	gauge("presence_rooms_watched", "Topics whose presence a client watches.", func() int64 { return int64(g.rooms.size()) })
	gauge("presence_members_local", "Users on topics by a connection of this gateway, counted once for each topic.", func() int64 { return int64(g.roster.size()) })
	counter("presence_frames_sent_total", "Presence frames queued for connections.", m.presenceFrames.Load)
	counter("presence_joins_refused_total", "Joins that were refused or could not be stored.", m.presenceRefusals.Load)
	counter("presence_loads_total", "Times that the members of a topic were read.", m.presenceLoads.Load)
	counter("presence_repairs_total", "Times that the members of a topic were read again since they were not as stored.", m.presenceRepairs.Load)
	gauge("cursor_topics_held", "Topics whose cursors a client sees or has one on.", func() int64 { topics, _ := g.cursors.size(); return topics })
	gauge("cursors_held", "Cursors on them, of all gateways.", func() int64 { _, there := g.cursors.size(); return there })
	counter("cursor_moves_total", "Cursors moved by clients.", m.cursorMoves.Load)
	counter("cursor_frames_sent_total", "Cursor frames queued for connections.", m.cursorFrames.Load)
	counter("cursor_messages_sent_total", "Messages about cursors published for other gateways.", m.cursorMessages.Load)
	counter("cursors_refused_total", "Cursors above the bound of a topic, of clients and of other gateways.", m.cursorRefusals.Load)
	counter("calls_sent_total", "Calls sent to workers.", m.calls.Load)
	errs = append(errs, g.limiter.observe(meter))
	errs = append(errs, g.observeAdmission(meter))
	counter("client_requests_total", "Requests sent to clients.", m.requests.Load)
	counter("answers_dropped_total", "Answers to requests of services that were too many to wait for NATS to take them.", g.answers.dropped.Load)
	counter("late_replies_total", "Replies that nobody waited for.", m.lateReplies.Load)
	counter("bad_reply_subjects_total", "Requests dropped for a reply subject outside _INBOX.", m.badReplies.Load)
	errs = append(errs, telemetry.CounterBy(meter, "fairlead_gateway_closes_by_code_total", "Connections closed; 0 stands for codes that are not of the protocol.", "code",
		func(observe func(string, int64)) {
			for code, n := range m.closesByCode() {
				observe(strconv.Itoa(code), n)
			}
		}))

	totals := outboxTotals{outbox: g.outbox}
	counter("bytes_in_total", "Bytes received from clients.", func() int64 { return int64(totals.get().BytesIn) })
	counter("bytes_out_total", "Bytes sent to clients.", func() int64 { return int64(totals.get().BytesOut) })
	counter("websocket_frames_out_total", "WebSocket messages sent; one may carry many protocol frames.", func() int64 { return int64(totals.get().FramesOut) })
	counter("frames_out_total", "Protocol frames sent.", func() int64 { return int64(totals.get().MessagesOut) })
	counter("slow_connections_total", "Connections closed with 1013 for not keeping up.", func() int64 { return int64(totals.get().Slow) })
	gauge("queued_out_bytes", "Bytes queued for connections.", func() int64 { return int64(totals.get().Queued) })
	gauge("connections_blocked", "Connections whose peer takes no more for now.", func() int64 { return int64(totals.get().Blocked) })
	counter("coalesced_messages_total", "Queued messages that a newer one with the same key replaced.", func() int64 { return int64(totals.get().Coalesced) })
	errs = append(errs, telemetry.CounterBy(meter, "fairlead_gateway_dropped_messages_total", "Messages dropped or replaced for slow connections, by the rule's policy.", "policy",
		func(observe func(string, int64)) {
			t := totals.get()
			observe(outbox.Disconnect.String(), int64(t.DroppedDisconnect))
			observe(outbox.DropOldest.String(), int64(t.DroppedOldest))
			observe(outbox.Conflate.String(), int64(t.Conflated))
		}))
	return errors.Join(errs...)
}

// outboxTotals reads the outbox's totals, which visit every connection, once
// for all the metrics of a scrape.
type outboxTotals struct {
	outbox *outbox.Outbox

	mu   sync.Mutex
	read time.Time
	last outbox.Totals
}

func (t *outboxTotals) get() outbox.Totals {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.read) > 100*time.Millisecond {
		t.last, t.read = t.outbox.Stats(), time.Now()
	}
	return t.last
}
