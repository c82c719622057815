package jobs

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Draft is a job that is to be stored.
type Draft struct {
	Queue       string
	Payload     []byte // JSON
	Delay       time.Duration
	MaxAttempts int // 0: no bound
}

// Claim asks for jobs.
type Claim struct {
	Queue      string
	Most       int // jobs
	Bytes      int // of their payloads together, but for the first
	Visibility time.Duration
}

// Claimed is what a [Claim] gets.
type Claimed struct {
	Jobs []wire.Job // oldest first
	Dead int        // jobs that were moved to the queue of the dead instead
}

// Back says what became of jobs that were given back.
type Back struct {
	Lost   []int    // those that did not count, by their index
	Queues []string // in which there is something to claim now; each once
	Dead   int      // jobs that were moved to the queue of the dead
}

// Due says when something of a queue can be claimed.
type Due struct {
	Queue string
	In    time.Duration // 0 or less: it can
}

// Store keeps jobs. Times are by its own clock. Every method may be called
// concurrently and by any number of replicas.
//
// A [wire.JobRef] without a claim means the job whoever has it. One with a claim
// means it as long as nobody else has claimed it since, also when the visibility
// is over, and unless it was given back. Those that do not count are returned by
// their index.
type Store interface {
	// Enqueue stores jobs, all or none, and returns their ids in the same order.
	Enqueue(ctx context.Context, jobs []Draft) ([]wire.JobID, error)
	// Claim returns jobs that nobody has, for as long as the visibility; nobody else
	// gets them meanwhile. Each claim counts as an attempt.
	Claim(ctx context.Context, c Claim) (Claimed, error)
	// Complete removes jobs.
	Complete(ctx context.Context, refs []wire.JobRef) (lost []int, err error)
	// Fail gives claimed jobs back, to be claimed after a while. Attempts stay
	// counted.
	Fail(ctx context.Context, refs []wire.JobRef, by time.Duration) (Back, error)
	// Extend has the visibility of claimed jobs end so much from now.
	Extend(ctx context.Context, refs []wire.JobRef, by time.Duration) (lost []int, err error)
	// Pending counts the jobs of a queue that nobody has, those whose time has not
	// come among them, up to a bit more than [wire.JobCountCap]; "" is every queue.
	Pending(ctx context.Context, queue string) (int64, error)
	// Clear removes the jobs of a queue, also claimed ones, and says how many; "" is
	// every queue. What is enqueued meanwhile stays.
	Clear(ctx context.Context, queue string) (int64, error)
	// Due says of each queue in which there are jobs when the first can be claimed.
	Due(ctx context.Context, queues []string) ([]Due, error)
}
