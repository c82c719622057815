// Package replay is the service that reads the past of replayed topics: what
// was published after a position, where a topic's head is, whether anything is
// gone. The messages themselves are in JetStream streams, one for each rule
// with replay; the streams number and republish what is published, so nothing
// of a live message passes through here. Replicas share no state: each keeps an
// index of the streams in memory and can be killed at any time.
package replay
