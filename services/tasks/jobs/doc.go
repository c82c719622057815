// Package jobs keeps queues of jobs: small messages that are claimed by whoever
// asks, for a while, and gone when that says so.
//
//	           claim                        complete
//	waiting ───────────▶ claimed, a number ──────────▶ (none)
//	   ▲                     │
//	   ├─ fail, after a while
//	   └─ the visibility is over
//
// A job that was claimed and not completed comes back, with the claims counted in
// `attempts`: it is given out at least once. The number of the claim fences off
// who had it before: complete, fail and extend say which jobs are no longer the
// caller's. With maxAttempts a job that was claimed as often ends in the queue
// `<queue>.dead`, from which it can be claimed as from any other.
//
// Jobs come in the order in which they can be claimed, oldest first. Times are by
// the clock of Postgres. A claim that waits for its first job is woken by what is
// enqueued on this replica, by the hints of the others, and when the next job's
// time has come.
package jobs
