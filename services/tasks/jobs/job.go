package jobs

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// job is what is kept of one. The statements of [Postgres] do what its methods do.
type job struct {
	id          wire.JobID
	queue       string
	vis         time.Time // when it can be claimed
	claim       int64     // it grows; odd: somebody has it
	attempts    int
	maxAttempts int
	createdAt   time.Time
	payload     []byte
}

// held reports whether somebody has claimed the job and not given it back, be the
// claim over or not.
func (j *job) held() bool { return j.claim&1 == 1 }

// waiting reports whether nobody has the job.
func (j *job) waiting(now time.Time) bool { return !j.held() || !j.vis.After(now) }

// spent reports whether the job was claimed as often as it may.
func (j *job) spent() bool { return j.maxAttempts > 0 && j.attempts >= j.maxAttempts }

// take claims the job, or moves it to the queue of the dead and returns false.
func (j *job) take(now time.Time, visibility time.Duration) bool {
	if j.spent() {
		j.bury(now)
		return false
	}
	j.claim += 1 + j.claim&1
	j.attempts++
	j.vis = now.Add(visibility)
	return true
}

// bury moves the job to the queue of the dead.
func (j *job) bury(now time.Time) {
	j.claim += 2 - j.claim&1
	j.queue += wire.DeadQueue
	j.maxAttempts = 0
	j.vis = now
}

// of reports whether a ref that came with a claim, or without, means the job as it
// is held now.
func (j *job) of(claim int64) bool { return j.held() && (claim == 0 || claim == j.claim) }

// release gives the job back and reports whether it is dead.
func (j *job) release(now time.Time, by time.Duration) (dead bool) {
	if j.spent() {
		j.bury(now)
		return true
	}
	j.claim++
	j.vis = now.Add(by)
	return false
}
