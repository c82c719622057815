// Package gateway bridges WebSockets to NATS. A gateway is stateless: any
// client may be on any gateway, any number of them run beside each other, and
// all that one knows is gone, without loss, when it goes.
//
//	browser ── ws ──► outbox.Conn ─► connection ─► ops ─► authorize ─► NATS publish
//	                       ▲                                               │
//	                       └── frame bytes ◄── shard ◄── subscription ◄────┘
//
// # Inbound
//
// One goroutine per connection reads frames and runs their ops one after the
// other, so that frames take effect in the order sent (connection.go, ops.go).
// Every op goes through one authorizer before its own code runs (authorize.go).
//
// # Outbound
//
// An interest is one NATS subject with local listeners (hub.go): a topic, a
// wildcard, a user, a connection. It costs one NATS subscription, delivered
// into the channel of one of a few shards (fanout.go): no goroutine per topic,
// and one order per topic. A shard encodes a message once and hands the same
// bytes to every connection's queue (package outbox); it never blocks.
//
// # What is promised
//
//   - A subscribe is answered when its NATS subscription is live on the server,
//     and the answer precedes every message of the topic.
//   - After the answer to an unsubscribe no message of the topic follows.
//   - A slow connection harms only itself.
//
// # Failures
//
//	NATS lost          connections stay; one `degraded` system frame; ops that need NATS: UNAVAILABLE
//	NATS back          subscriptions are live again, then one `recovered`
//	a blocked shard    the probe no longer comes through it: not ready
//	SIGTERM            not ready, upgrades 503, drain frames spread over the window, then 1001
package gateway
