// Package bridge publishes what Postgres notifies: a `NOTIFY` on a channel that
// the rules name becomes a message on one of the topics that they allow it.
//
// Of all replicas one listens to a channel: the one whose session holds the
// channel's advisory lock. Postgres gives a notification to whoever listens at
// that moment and keeps none, so whatever is notified while nobody listens is
// lost. The bridge does not hide that: whoever begins to listen announces a gap,
// on the topics that the channel is known to publish to.
package bridge
