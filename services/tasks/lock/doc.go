// Package lock keeps locks: who may do something alone, for how long, and who
// is next.
//
// A lock is one entry of a JetStream bucket, which has the holder and, in order,
// those who wait. It is only ever changed by a write that expects the revision it
// was decided on, so that there is one order of all that happens to a lock, and
// the replicas of the service need not know of each other. The revision of the
// write that grants a lock is its fence: it grows from holder to holder, whatever
// became of the entry between them.
//
// Who gives a lock up, or finds that it expired, hands it to the first who waits
// in the same write. JetStream publishes each change of an entry; the replica that
// holds the request of that waiter hears it and answers. Nobody polls, and nobody
// competes for a lock that came free.
//
// No clock of a replica counts. A lock has expired for a replica that has seen its
// last renewal for as long as the lock lasts, or where what JetStream stamps says
// so; and then the write that takes it fails if it was renewed meanwhile. What all
// this cannot do is stop a holder that was paused and does not know it: for that
// there is the fence, to be checked by what the lock protects.
package lock
