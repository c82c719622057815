package wire

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxTaskName is the longest name of a task, in bytes.
	MaxTaskName = 128
	// MaxTaskInput bounds the JSON of an input, and that of a result.
	MaxTaskInput = 512 << 10
	// MaxTaskKey bounds an idempotency key and a unique key, in bytes.
	MaxTaskKey = 256
	// MaxTaskMetadata bounds the JSON of a task's metadata.
	MaxTaskMetadata = 4 << 10
	// MaxTaskProgress bounds the JSON of one progress.
	MaxTaskProgress = 16 << 10
)

// TaskState says how far a task is.
type TaskState string

// The states of a task. The last four are ends; an operator may retry those that
// are not committed.
const (
	TaskPending   TaskState = "pending"   // waits for its time, or for a worker
	TaskRunning   TaskState = "running"   // a worker has it
	TaskCommitted TaskState = "committed" // done: its result is stored
	TaskFailed    TaskState = "failed"    // a worker said so, finally or as often as the policy allows
	TaskCancelled TaskState = "cancelled"
	TaskDead      TaskState = "dead" // its workers were lost more often than maxCrashes
)

// Ended reports whether nothing more becomes of the task by itself.
func (s TaskState) Ended() bool {
	return s == TaskCommitted || s == TaskFailed || s == TaskCancelled || s == TaskDead
}

// Known reports whether s is a state of a task.
func (s TaskState) Known() bool { return s == TaskPending || s == TaskRunning || s.Ended() }

// What crosses processes as JSON about tasks. Durations are such as "90s".
type (
	// TaskRetry says when an attempt that failed is followed by another.
	TaskRetry struct {
		// MaxAttempts counts the attempts that ended with an error or ran out of time;
		// 0 is 1: none follows.
		MaxAttempts int `json:"maxAttempts,omitempty"`
		// Backoff is the wait before the second attempt, "1s" when empty; each further
		// one is Factor (2) times as long, up to MaxBackoff ("1m").
		Backoff    string  `json:"backoff,omitempty"`
		Factor     float64 `json:"factor,omitempty"`
		MaxBackoff string  `json:"maxBackoff,omitempty"`
		// Jitter is the share of the wait that is random, 0 to 1; 0.1 when absent.
		Jitter *float64 `json:"jitter,omitempty"`
		// NonRetryable are codes after which none follows, beside those that never are
		// retried: INVALID_ARGUMENT, FAILED_PRECONDITION, UNIMPLEMENTED,
		// PERMISSION_DENIED and NOT_FOUND.
		NonRetryable []Code `json:"nonRetryable,omitempty"`
	}

	// TaskRegister says how the tasks of a name are run; a name that nobody has
	// registered has the defaults.
	TaskRegister struct {
		Name string `json:"name"`
		// Timeout bounds one attempt; "1m" when empty.
		Timeout string     `json:"timeout,omitempty"`
		Retry   *TaskRetry `json:"retry,omitempty"` // absent: one attempt
		// MaxCrashes is how many workers may be lost with a task; 3 when absent.
		MaxCrashes *int `json:"maxCrashes,omitempty"`
		// Concurrency bounds the attempts of this name that run at a time, over all
		// replicas; 0 is no bound.
		Concurrency int `json:"concurrency,omitempty"`
		// Retention is how long what has ended is kept; "" is FAIRLEAD_TASKS_RETENTION.
		Retention string `json:"retention,omitempty"`
	}

	// TaskEnqueue asks for a task.
	TaskEnqueue struct {
		Name  string          `json:"name"`
		Input json.RawMessage `json:"input,omitempty"` // null when absent
		// IdempotencyKey makes it the same task as an earlier one of that name and key,
		// while that runs and, once it is committed, as long as it is kept.
		IdempotencyKey string `json:"idempotencyKey,omitempty"`
		// UniqueKey makes it the same task as one of that name and key that has not
		// ended.
		UniqueKey string `json:"uniqueKey,omitempty"`
		Delay     string `json:"delay,omitempty"`
		RunAt     string `json:"runAt,omitempty"` // RFC 3339; by the clock of Postgres
		// Priority orders the tasks of a name: greater ones first; -100 to 100.
		Priority int `json:"priority,omitempty"`
		// Timeout bounds one attempt, instead of that of the name.
		Timeout  string          `json:"timeout,omitempty"`
		Metadata json.RawMessage `json:"metadata,omitempty"` // an object; the worker gets it
	}

	// TaskEnqueued answers a [TaskEnqueue].
	TaskEnqueued struct {
		ID string `json:"id"`
		// Existing says that a key made it a task that was there.
		Existing bool `json:"existing,omitempty"`
	}

	// TaskRun asks for a task and waits for its end.
	TaskRun struct {
		TaskEnqueue
		Wait string `json:"wait,omitempty"` // "30s" when empty, at most "10m"
	}

	// TaskAwait waits for the end of a task.
	TaskAwait struct {
		ID      string `json:"id"`
		Timeout string `json:"timeout,omitempty"` // "30s" when empty, at most "10m"
	}

	// TaskRef names a task.
	TaskRef struct {
		ID string `json:"id"`
	}

	// TaskName names the tasks of a name; "" is every name.
	TaskName struct {
		Name string `json:"name,omitempty"`
	}

	// TaskError is why an attempt, or a task, failed.
	TaskError struct {
		Code    Code   `json:"code"`
		Message string `json:"message,omitempty"`
		// Retryable overrides what the code and the policy say.
		Retryable *bool `json:"retryable,omitempty"`
		// RetryAfterMs is the wait before the next attempt, instead of the policy's.
		RetryAfterMs int64           `json:"retryAfterMs,omitempty"`
		Details      json.RawMessage `json:"details,omitempty"`
	}

	// Task is a task as it is now.
	Task struct {
		ID    string    `json:"id"`
		Name  string    `json:"name"`
		State TaskState `json:"state"`
		// Attempt is the number of the last attempt, 0 before the first.
		Attempt int `json:"attempt"`
		// Failures are the attempts that ended with an error, Crashes those whose
		// worker was lost.
		Failures       int             `json:"failures,omitempty"`
		Crashes        int             `json:"crashes,omitempty"`
		Fence          int64           `json:"fence"`
		Priority       int             `json:"priority,omitempty"`
		Input          json.RawMessage `json:"input,omitempty"` // of `get`, unless it is committed
		Result         json.RawMessage `json:"result,omitempty"`
		Error          *TaskError      `json:"error,omitempty"` // of the last attempt that failed
		Progress       json.RawMessage `json:"progress,omitempty"`
		Metadata       json.RawMessage `json:"metadata,omitempty"`
		IdempotencyKey string          `json:"idempotencyKey,omitempty"`
		UniqueKey      string          `json:"uniqueKey,omitempty"`
		CancelAsked    bool            `json:"cancelAsked,omitempty"` // it runs, and is to end
		CreatedAt      time.Time       `json:"createdAt"`
		RunAt          time.Time       `json:"runAt,omitzero"` // not before
		StartedAt      time.Time       `json:"startedAt,omitzero"`
		FinishedAt     time.Time       `json:"finishedAt,omitzero"`
	}

	// TaskList asks for a page of tasks, newest first.
	TaskList struct {
		Name   string    `json:"name,omitempty"`
		State  TaskState `json:"state,omitempty"`
		Limit  int       `json:"limit,omitempty"` // 50 when 0, at most 1000
		Cursor string    `json:"cursor,omitempty"`
	}

	// TaskPage answers a [TaskList]: without inputs.
	TaskPage struct {
		Tasks  []Task `json:"tasks"`
		Cursor string `json:"cursor,omitempty"` // of the next page; "" after the last
	}

	// TaskCounts says how many tasks there are of each state. A count of
	// [TaskCountCap] is at least as many.
	TaskCounts struct {
		Pending   int64 `json:"pending"`
		Running   int64 `json:"running"`
		Committed int64 `json:"committed"`
		Failed    int64 `json:"failed"`
		Cancelled int64 `json:"cancelled"`
		Dead      int64 `json:"dead"`
		Total     int64 `json:"total"`
		Capped    bool  `json:"capped,omitempty"` // one of them is
	}

	// TaskAttempt names an attempt, with the token that its worker was given.
	TaskAttempt struct {
		ID    string `json:"id"`
		Fence int64  `json:"fence"`
		Token string `json:"token"`
	}

	// TaskHeartbeat says that the worker of an attempt is alive.
	TaskHeartbeat struct {
		TaskAttempt
		Progress json.RawMessage `json:"progress,omitempty"`
		// LeaseMs promises the next one within so long: a worker that breaks it is
		// lost. Without it only the timeout counts.
		LeaseMs int64 `json:"leaseMs,omitempty"`
	}

	// TaskComplete commits the result of an attempt.
	TaskComplete struct {
		TaskAttempt
		Result json.RawMessage `json:"result,omitempty"` // null when absent
	}

	// TaskFail ends an attempt with an error.
	TaskFail struct {
		TaskAttempt
		Error TaskError `json:"error"`
	}

	// TaskStep stores the result of a step of a task, or looks for it: a step that
	// is stored stays as it is, whatever attempt asks.
	TaskStep struct {
		TaskAttempt
		Step   string          `json:"step"`             // 1-128 bytes
		Result json.RawMessage `json:"result,omitempty"` // absent: only look
	}

	// TaskStepped answers a [TaskStep].
	TaskStepped struct {
		Done   bool            `json:"done"` // it is stored
		Result json.RawMessage `json:"result,omitempty"`
	}

	// TaskHello says that a worker serves names.
	TaskHello struct {
		Names []string `json:"names"`
		// Worker tells one from another; Slots is how many attempts of these names it
		// takes at a time. Without them it is only said that somebody is there.
		Worker  string `json:"worker,omitempty"`
		Slots   int    `json:"slots,omitempty"`
		Leaving bool   `json:"leaving,omitempty"`
	}

	// TaskEnd is one end of a task, or of its attempt, on [Namespace.TaskEnds].
	TaskEnd struct {
		ID    string    `json:"id"`
		Fence int64     `json:"fence"` // of the attempt that ended
		State TaskState `json:"state"`
	}

	// TaskEnds are told by the replica that committed them.
	TaskEnds struct {
		Replica string    `json:"replica"`
		Ends    []TaskEnd `json:"ends"`
	}

	// TaskReplica is a replica of the tasks service that says that it is there, or
	// that it goes, on [Namespace.TaskReplicas].
	TaskReplica struct {
		ID      string `json:"id"`
		Leaving bool   `json:"leaving,omitempty"`
	}

	// TaskWake says that tasks of names are due, on [Namespace.TaskWakes]: a hint.
	TaskWake struct {
		Replica string   `json:"replica"`
		Names   []string `json:"names,omitempty"`
		// Policies says that what is registered has changed.
		Policies bool `json:"policies,omitempty"`
	}
)

// TaskCountCap is where the counts of [TaskCounts] end.
const TaskCountCap = 100_000

// Headers of an attempt, and of what its worker says.
const (
	HeaderTaskID         = "Fl-Task-Id"
	HeaderTaskAttempt    = "Fl-Task-Attempt"    // 1, 2, …
	HeaderTaskFence      = "Fl-Task-Fence"      // grows with each attempt
	HeaderTaskToken      = "Fl-Task-Token"      // heartbeat, complete and fail need it
	HeaderTaskDeadline   = "Fl-Task-Deadline"   // epoch ms, by the clock of the replica
	HeaderTaskTimeout    = "Fl-Task-Timeout-Ms" // of this attempt, from now
	HeaderTaskCancel     = "Fl-Task-Cancel"     // subject on which a message means: cancelled
	HeaderTaskMetadata   = "Fl-Task-Metadata"   // JSON object
	HeaderTaskProgress   = "Fl-Task-Progress"   // on a reply: progress (the body), not the end
	HeaderTaskLease      = "Fl-Task-Lease-Ms"   // on such a reply: the next one comes within
	HeaderIdempotencyKey = "Fl-Idempotency-Key" // the task's, else its id: the same for all attempts
	HeaderRetryable      = "Fl-Task-Retryable"  // on an error reply: "true" or "false"
)

// CheckTaskName returns an error unless name can be that of a task: 1-128 bytes
// of [A-Za-z0-9_-], beginning with a letter, and dots between.
func CheckTaskName(field, name string) error {
	ok := name != "" && len(name) <= MaxTaskName
	for token := range strings.SplitSeq(name, ".") {
		for i := 0; i < len(token); i++ {
			c := token[i]
			letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
			ok = ok && (letter || i > 0 && (c >= '0' && c <= '9' || c == '_' || c == '-'))
		}
		ok = ok && token != ""
	}
	if !ok {
		return InvalidField(field, "1-128 bytes of [A-Za-z0-9_-] and dots, each part beginning with a letter")
	}
	return nil
}

// Task returns the subject on which workers take the attempts of a name.
func (n Namespace) Task(name string) string { return string(n) + ".task." + name }

// TaskTopic returns the topic on which a task's progress and end are published.
func TaskTopic(id TaskID) string { return "task." + id.String() }

// TaskReply returns the reply subject of an attempt: it names who supervises it
// and says all that is needed to commit it elsewhere.
func (n Namespace) TaskReply(replica string, id TaskID, fence int64, token string) string {
	return n.Svc("tasks", "reply."+replica+"."+id.String()+"."+strconv.FormatInt(fence, 10)+"."+token)
}

// TaskReplies returns the pattern of all reply subjects, TaskRepliesOf that of
// one replica's.
func (n Namespace) TaskReplies() string { return n.Svc("tasks", "reply.*.*.*.*") }

// TaskRepliesOf returns the pattern of the reply subjects of one replica.
func (n Namespace) TaskRepliesOf(replica string) string {
	return n.Svc("tasks", "reply."+replica+".*.*.*")
}

// ParseTaskReply takes a reply subject apart; ok is false for every other one.
func (n Namespace) ParseTaskReply(subject string) (replica string, id TaskID, fence int64, token string, ok bool) {
	rest, ok := strings.CutPrefix(subject, n.Svc("tasks", "reply."))
	if !ok {
		return "", id, 0, "", false
	}
	parts := strings.Split(rest, ".")
	if len(parts) != 4 {
		return "", id, 0, "", false
	}
	id, err := ParseTaskID("id", parts[1])
	if err != nil {
		return "", id, 0, "", false
	}
	fence, err = strconv.ParseInt(parts[2], 10, 64)
	return parts[0], id, fence, parts[3], err == nil && fence > 0
}

// TaskCancel returns the subject on which a message cancels an attempt.
func (n Namespace) TaskCancel(id TaskID, fence int64) string {
	return string(n) + ".cancel." + id.String() + "-" + strconv.FormatInt(fence, 10)
}

// TaskReplicas, TaskEnds and TaskWakes are where the replicas of the tasks
// service talk to one another: that they are there, what has ended, and what is
// due.
func (n Namespace) TaskReplicas() string { return string(n) + ".tasks.replica" }

// TaskEnds returns the subject on which replicas say what has ended.
func (n Namespace) TaskEnds() string { return string(n) + ".tasks.ended" }

// TaskWakes returns the subject on which replicas say what is due.
func (n Namespace) TaskWakes() string { return string(n) + ".tasks.wake" }
