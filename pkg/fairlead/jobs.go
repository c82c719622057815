package fairlead

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Jobs is a queue of jobs: less than [Tasks], which know what became of them, and
// cheaper. Who claims a job has it for a while; what is not completed by then
// somebody else gets.
//
// Errors are UNAVAILABLE where no replica of the tasks service answers or its
// Postgres is away, INVALID_ARGUMENT for what can't be. An error whose `outcome` is
// "unknown" may have been done: a job may be there twice then, or be claimed for
// nobody until its visibility is over.
type Jobs struct {
	f     *Fairlead
	queue string
}

// Jobs returns the view of a queue, by a name of 1 to 128 bytes. It need not be
// made.
func (f *Fairlead) Jobs(queue string) Jobs { return Jobs{f, queue} }

// JobOptions refine a job.
type JobOptions struct {
	// Delay is how long nobody gets it, at most a year. Default: not at all.
	Delay time.Duration
	// MaxAttempts is how often it may be claimed: after that it is moved to the queue
	// with [wire.DeadQueue] behind its name. Default: as often as it takes.
	MaxAttempts int
}

// Enqueue stores a job and returns its id. The payload is encoded as all data is,
// at most 512 KB.
func (j Jobs) Enqueue(ctx context.Context, payload any, o JobOptions) (wire.JobID, error) {
	n, err := jobOf(payload, o)
	if err != nil {
		return 0, fmt.Errorf("tasks.job.enqueue: %w", err)
	}
	done, err := service[wire.JobEnqueued](ctx, j.f, "tasks", "job.enqueue", wire.JobEnqueue{Queue: j.queue, JobNew: n})
	return done.ID, err
}

// EnqueueAll stores several jobs, all or none, at most 1000, and returns their ids
// in order.
func (j Jobs) EnqueueAll(ctx context.Context, payloads []any, o JobOptions) ([]wire.JobID, error) {
	req := wire.JobEnqueue{Queue: j.queue, Jobs: make([]wire.JobNew, len(payloads))}
	for i, payload := range payloads {
		var err error
		if req.Jobs[i], err = jobOf(payload, o); err != nil {
			return nil, fmt.Errorf("tasks.job.enqueue: job %d: %w", i, err)
		}
	}
	done, err := service[wire.JobEnqueued](ctx, j.f, "tasks", "job.enqueue", req)
	return done.IDs, err
}

func jobOf(payload any, o JobOptions) (wire.JobNew, error) {
	data, err := wire.EncodeData("payload", payload)
	return wire.JobNew{Payload: data, Delay: duration(o.Delay), MaxAttempts: o.MaxAttempts}, err
}

// ClaimOptions say which jobs to claim. The zero value takes one that is there.
type ClaimOptions struct {
	// Batch is the most jobs to claim, at most 1000. Default 1.
	Batch int
	// Visibility is how long nobody else gets them, from 10ms to 12h. Default 30s.
	Visibility time.Duration
	// Wait is how long to wait for the first one, at most 10m and at most as long as
	// the context lives. Default: not at all.
	Wait time.Duration
}

const (
	// claimSlice is how long one request waits for jobs: for one who dies nothing is
	// claimed for longer.
	claimSlice = 5 * time.Second
	// claimMargin is kept of the context's time for an answer to come back.
	claimMargin = 150 * time.Millisecond
)

// Claim returns jobs that nobody has, the oldest first; none is no error. Complete
// or Fail ends the claim of each.
//
// Where the context ends, so does the wait. What is claimed in that moment, or
// within 5s for a process that died while it waited, nobody gets until its
// visibility is over.
func (j Jobs) Claim(ctx context.Context, o ClaimOptions) ([]wire.Job, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(o.Wait, 0)+j.f.opts.Timeout)
		defer cancel()
	}
	ends := time.Now().Add(o.Wait)
	if deadline, _ := ctx.Deadline(); deadline.Add(-claimMargin).Before(ends) {
		ends = deadline.Add(-claimMargin)
	}
	for wait := o.Wait; ; {
		began := time.Now()
		slice := min(wait, claimSlice)
		jobs, err := j.claim(ctx, o, slice)
		if err != nil || len(jobs) > 0 {
			return jobs, err
		}
		if time.Since(began) < slice { // the replica stops: another one has to be there first
			_ = pause(ctx, min(lockPause, max(time.Until(ends), 0)))
		}
		if wait = time.Until(ends).Truncate(time.Millisecond); wait <= 0 {
			return jobs, nil
		}
	}
}

// claim asks once, and says so where it does not wait for the answer.
func (j Jobs) claim(ctx context.Context, o ClaimOptions, wait time.Duration) ([]wire.Job, error) {
	req := wire.JobClaim{Queue: j.queue, Batch: o.Batch, Visibility: duration(o.Visibility), Wait: duration(wait)}
	if wait > 0 {
		req.ID = rand.Text()
	}
	within, cancel := context.WithTimeout(ctx, max(wait, 0)+j.f.opts.Timeout)
	defer cancel()
	got, err := service[wire.JobClaimed](within, j.f, "tasks", "job.claim", req)
	if within.Err() != nil && req.ID != "" {
		if data, err := json.Marshal(wire.JobLeave{ID: req.ID}); err == nil {
			_ = j.f.nc.Publish(j.f.opts.Namespace.Svc("tasks", "job.leave"), data) // a hint
		}
	}
	return got.Jobs, err
}

// Complete removes jobs that were claimed: their work is done. lost are those of
// which the claim was over and somebody else may have them.
func (j Jobs) Complete(ctx context.Context, jobs ...wire.Job) (lost []wire.JobID, err error) {
	return j.end(ctx, "complete", 0, jobs)
}

// Fail gives jobs back: others get them again after a time, at once where it is 0.
// lost is as of [Jobs.Complete].
func (j Jobs) Fail(ctx context.Context, after time.Duration, jobs ...wire.Job) (lost []wire.JobID, err error) {
	return j.end(ctx, "fail", after, jobs)
}

// Extend keeps jobs for so long from now on, 30s where it is 0. lost is as of
// [Jobs.Complete].
func (j Jobs) Extend(ctx context.Context, by time.Duration, jobs ...wire.Job) (lost []wire.JobID, err error) {
	return j.end(ctx, "extend", by, jobs)
}

func (j Jobs) end(ctx context.Context, how string, by time.Duration, jobs []wire.Job) ([]wire.JobID, error) {
	req := wire.JobRefs{Jobs: make([]wire.JobRef, len(jobs)), By: duration(by)}
	for i := range jobs {
		req.Jobs[i] = wire.JobRef{ID: jobs[i].ID, Claim: jobs[i].Claim}
	}
	done, err := service[wire.JobLost](ctx, j.f, "tasks", "job."+how, req)
	return done.Lost, err
}

// Pending returns how many jobs nobody has, those with a delay among them.
func (j Jobs) Pending(ctx context.Context) (wire.JobCount, error) {
	return service[wire.JobCount](ctx, j.f, "tasks", "job.pending", wire.JobQueue{Queue: j.queue})
}

// Clear removes all jobs of the queue, claimed or not, and returns how many there
// were.
func (j Jobs) Clear(ctx context.Context) (wire.JobCount, error) {
	if err := wire.CheckQueue("queue", j.queue); err != nil { // none would be all queues
		return wire.JobCount{}, fmt.Errorf("tasks.job.clear: %w", err)
	}
	return service[wire.JobCount](ctx, j.f, "tasks", "job.clear", wire.JobQueue{Queue: j.queue})
}
