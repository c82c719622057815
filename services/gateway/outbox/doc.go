// Package outbox moves frames to WebSocket connections without ever letting one
// of them hold up another.
//
// It is the gateway's outbound path and the only place that writes to a client:
//
//	Deliver ─┐                 ┌─ one writev ──────────▶ peer
//	Deliver ─┼▶ queue ▶ flusher┤
//	Send ────┘   (per Conn)    └─ peer is full: a writer goroutine finishes
//	                              the frame, the flusher skips the connection
//
// A [Conn] has a queue of immutable frames. A frame is encoded once and shared
// by every connection it goes to. Queueing takes two short locks and neither
// allocates, starts a goroutine nor touches a channel; whoever delivers never
// writes, waits or closes.
//
// Each connection is pinned to one flusher, so the order of its frames is the
// order of the calls. A flusher takes what a connection has queued and writes it
// as one WebSocket message: a single frame as it is, several as a JSON array.
// There is no coalescing delay: under load the rounds get longer and the
// messages larger, an idle connection gets its frame at once.
//
// The flusher's write never waits. What the kernel does not take is finished by
// a short-lived goroutine while the queue fills up to its bound; what happens
// there is the topic's [Policy]. Connections without a raw socket (TLS, and
// platforms without writev) are written by such a goroutine only, through their
// net.Conn, so that TLS always encrypts.
//
// What a policy drops on a replayed topic leaves a gap in what its peer reads. The
// queue keeps at most one gap per source and writes it as one skip frame, so
// that the peer's position moves on and it does not ask for what it was spared.
//
// A message with a key ([Conn.DeliverLatest]) takes the place of the one that waits
// under the same key, peer behind or not: a key is one frame in the queue at most.
//
// One sweeper looks at every connection once per tick: heartbeats, peers that
// went silent, writes that make no progress, closing handshakes that take too
// long. There are no timers or contexts per connection.
//
// # Locks
//
// Conn.mu before flusher.mu, flusher.reg and Outbox.mu; none of the latter is
// held while another lock is taken, save flusher.reg under Outbox.mu. No lock is
// held during a system call.
package outbox
