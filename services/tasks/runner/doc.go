// Package runner runs tasks: it claims them, hands their attempts to workers,
// hears what becomes of them, and commits that once.
//
//	          claimed insert                    503: nobody serves the name
//	enqueue ──────────────────▶ running ─────────────────────────┐
//	   │                        ▲  │  │                          │
//	   └──▶ pending ── claim ───┘  │  └── failed, lost, given up ─┴──▶ pending
//	           │                   │
//	           └── cancelled       └── committed, failed, dead, cancelled
//
// A replica claims by name: each name has a lane with as many places as its
// workers have slots. An attempt is one message on the subject of its name; its
// reply subject says who supervises it, and which task and fence it is about, so
// that every replica can commit what is said there. Nothing is written while an
// attempt runs; a worker that is to be found dead before its timeout promises to
// be heard.
//
// # Who may do what
//
// The fence belongs to the attempt, the owner to the replica that supervises it.
// What a worker says counts by (id, fence), whoever hears it. What a replica
// does because its clock says so counts by (id, fence, owner), and only within
// the time for which it knows that its lease holds: from before the last renewal
// was sent, for the lease less a margin. A replica whose lease is in doubt, or of
// which nobody knows what a write became of, takes a new number and gives up the
// old one, then asks again for each attempt that it has in memory: what somebody
// else adopted meanwhile is his.
//
// # What can be away
//
//   - The store: nothing is claimed, what workers say is kept in memory and
//     committed when the store is back, if the fence still stands.
//   - NATS: nothing is claimed and no worker is taken for lost, since it can't be
//     heard; after a moment the replica gives its attempts to nobody, so that one
//     that hears their workers takes them.
//   - A worker: its attempt is lost when it breaks its promise, or at the end of
//     its time; it counts as a crash only if the replica could hear all the while.
//   - A replica: others hear its workers by the queue group of all reply subjects,
//     and take over what has no owner with a lease, every few seconds, for ever.
package runner
