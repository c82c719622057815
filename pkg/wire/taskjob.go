package wire

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxQueueName is the longest name of a queue of jobs, in bytes, without the
	// [DeadQueue] behind it.
	MaxQueueName = 128
	// MaxJobPayload bounds the JSON of a job's payload.
	MaxJobPayload = 512 << 10
	// MaxJobBatch is how many jobs one request is about, at most.
	MaxJobBatch = 1000
	// MaxJobReply bounds the payloads of one claim together, but for the first: of
	// a batch that is larger, fewer are claimed.
	MaxJobReply = 512 << 10
	// JobCountCap is where the counts of [JobCount] end.
	JobCountCap = 100_000
	// DeadQueue is put behind the name of a queue: the queue of its jobs that were
	// claimed as often as they may.
	DeadQueue = ".dead"
)

// JobID numbers a job. On the wire it is a string of digits; a number is taken
// as well.
type JobID int64

// String returns the id as it stands on the wire.
func (id JobID) String() string { return strconv.FormatInt(int64(id), 10) }

// MarshalText returns the digits.
func (id JobID) MarshalText() ([]byte, error) {
	return strconv.AppendInt(nil, int64(id), 10), nil
}

// UnmarshalText reads the digits of a positive number.
func (id *JobID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n <= 0 || len(text) == 0 || text[0] == '+' || text[0] == '0' {
		return InvalidField("id", "the id of a job: digits")
	}
	*id = JobID(n)
	return nil
}

// UnmarshalJSON reads a string of digits, or a number.
func (id *JobID) UnmarshalJSON(data []byte) error {
	if n := len(data); n >= 2 && data[0] == '"' && data[n-1] == '"' {
		data = data[1 : n-1]
	}
	return id.UnmarshalText(data)
}

// Requests about jobs, and their replies, as JSON. Durations are such as "30s".
type (
	// JobNew is a job that is to be enqueued.
	JobNew struct {
		Payload json.RawMessage `json:"payload,omitempty"` // null when absent
		Delay   string          `json:"delay,omitempty"`   // not claimed before; at most a year
		// MaxAttempts is how often it may be claimed: after that it is moved to the
		// queue with [DeadQueue] behind its name. 0: as often as it takes.
		MaxAttempts int `json:"maxAttempts,omitempty"`
	}

	// JobEnqueue asks for a job, by its own fields, or for all of Jobs or none.
	JobEnqueue struct {
		Queue string `json:"queue"` // 1-128 bytes, no control characters
		JobNew
		Jobs []JobNew `json:"jobs,omitempty"`
	}

	// JobEnqueued answers a [JobEnqueue].
	JobEnqueued struct {
		ID  JobID   `json:"id,omitempty"`
		IDs []JobID `json:"ids,omitempty"` // where Jobs were given, in their order
	}

	// JobClaim asks for jobs of a queue: those that can be claimed for the longest,
	// oldest first.
	JobClaim struct {
		Queue string `json:"queue"`
		Batch int    `json:"batch,omitempty"` // 1 when 0, at most [MaxJobBatch]
		// Visibility is how long nobody else gets them; "30s" when empty, at most "12h".
		Visibility string `json:"visibility,omitempty"`
		// Wait is how long to wait for the first one; 0 when empty, at most "10m". It
		// has to be less than the caller waits for the answer.
		Wait string `json:"wait,omitempty"`
		// ID names the wait for [JobLeave]; at most 128 bytes.
		ID string `json:"id,omitempty"`
	}

	// JobLeave says that the one of a [JobClaim] with this id waits no longer: nothing
	// is claimed for it any more.
	JobLeave struct {
		ID string `json:"id"`
	}

	// Job is a job that was claimed.
	Job struct {
		ID JobID `json:"id"`
		// Claim tells this claim of the job from every other one.
		Claim     int64           `json:"claim"`
		Queue     string          `json:"queue"`
		Payload   json.RawMessage `json:"payload"`
		Attempts  int             `json:"attempts"` // claims so far, this one too
		CreatedAt time.Time       `json:"createdAt"`
	}

	// JobClaimed answers a [JobClaim].
	JobClaimed struct {
		Jobs []Job `json:"jobs"`
	}

	// JobRef names a claim of a job. Without a claim it is whoever has the job now
	// that is meant: nothing keeps one who lost it out then.
	JobRef struct {
		ID    JobID `json:"id"`
		Claim int64 `json:"claim,omitempty"`
	}

	// JobRefs names claims of jobs, for complete, fail and extend.
	JobRefs struct {
		Jobs []JobRef `json:"jobs"`
		// By is, of extend, how long from now nobody else gets them ("30s" when empty,
		// at most "12h"); of fail, how long nobody does (0 when empty, at most a year).
		By string `json:"by,omitempty"`
	}

	// JobLost lists the jobs of a [JobRefs] that are not the caller's any more:
	// nothing was done with them.
	JobLost struct {
		Lost []JobID `json:"lost"`
	}

	// JobQueue names a queue; "" is every queue.
	JobQueue struct {
		Queue string `json:"queue,omitempty"`
	}

	// JobCount says how many jobs there are that nobody has claimed, or that were
	// cleared. A count that is capped is at least as many.
	JobCount struct {
		Count  int64 `json:"count"`
		Capped bool  `json:"capped,omitempty"`
	}

	// JobWake says that jobs of queues may be there, or that somebody waits no longer,
	// on [Namespace.JobWakes]: a hint.
	JobWake struct {
		Replica string   `json:"replica"`
		Queues  []string `json:"queues"`
		Left    string   `json:"left,omitempty"` // the id of a [JobLeave]
	}
)

// AppendJSON appends the reply with the payloads as they are.
func (c JobClaimed) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"jobs":[`...)
	for i, j := range c.Jobs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"id":"`...)
		dst = strconv.AppendInt(dst, int64(j.ID), 10)
		dst = append(dst, `","claim":`...)
		dst = strconv.AppendInt(dst, j.Claim, 10)
		dst = append(dst, `,"queue":`...)
		dst = AppendString(dst, j.Queue)
		dst = append(dst, `,"payload":`...)
		if len(j.Payload) == 0 {
			dst = append(dst, "null"...)
		}
		dst = append(dst, j.Payload...)
		dst = append(dst, `,"attempts":`...)
		dst = strconv.AppendInt(dst, int64(j.Attempts), 10)
		dst = append(dst, `,"createdAt":"`...)
		dst = j.CreatedAt.UTC().AppendFormat(dst, time.RFC3339Nano)
		dst = append(dst, `"}`...)
	}
	return append(dst, "]}"...)
}

// CheckQueue returns an error unless name can be that of a queue of jobs, or of the
// [DeadQueue] of one.
func CheckQueue(field, name string) error {
	if name == "" || len(strings.TrimSuffix(name, DeadQueue)) > MaxQueueName || !plainText(name) {
		return InvalidField(field, "from 1 to 128 bytes, no control characters")
	}
	return nil
}

// plainText reports whether s has no control characters.
func plainText(s string) bool {
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return false
		}
	}
	return true
}

// JobWakes returns the subject on which replicas of the tasks service say of
// which queues there may be jobs.
func (n Namespace) JobWakes() string { return string(n) + ".tasks.job" }
