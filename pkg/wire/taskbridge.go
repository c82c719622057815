package wire

// EventBridgeGap is the event of the message that says, on a topic which a bridge
// publishes to, that changes may be missing: fetch the state anew. It is also
// what such gaps are called under fl.event, with the channel behind it.
const EventBridgeGap = "bridge.gap"

// BridgeGap is the body of an [EventBridgeGap]: notifications of a Postgres
// channel may have been lost.
type BridgeGap struct {
	At      int64  `json:"at"`                // epoch ms, by the clock of Postgres
	Channel string `json:"channel"`           //
	SinceMs int64  `json:"sinceMs,omitempty"` // epoch ms; none is missing from before; 0: not known
	// Reason is "start" (nobody is known to have listened before), "takeover" (from
	// another replica), "reconnect" (of the same replica), "nats" (NATS was away) or
	// "lost" (changes that arrived could not be published).
	Reason string `json:"reason"`
}
