// Package store keeps tasks: who has them, what became of them, and which number
// fences off whoever had them before.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Errors of a [Store]. Every other error means that the store did not answer:
// whether anything was written is not known then.
var (
	// ErrNotFound: there is no such task, or it was cleaned away.
	ErrNotFound = errors.New("no such task")
	// ErrState: the task is in a state in which that can't be done.
	ErrState = errors.New("the task is not in that state")
	// ErrOwner: the owner is not registered, or its lease ran out: it is somebody
	// else's to go on with what it had, and it needs a new number.
	ErrOwner = errors.New("the owner has no lease")
)

// Owner numbers one incarnation of a replica. 0 is nobody.
type Owner int64

// New is a task that is to be stored.
type New struct {
	ID             wire.TaskID // made by [wire.NewTaskID]; it is new
	Name           string
	Input          []byte // JSON
	IdempotencyKey string // "": none
	UniqueKey      string // "": none
	Priority       int
	Delay          time.Duration // after now, by the store's clock
	RunAt          time.Time     // instead of a delay; zero: none
	Timeout        time.Duration // 0: that of the name
	Metadata       []byte        // JSON object; nil: none
	Trace          string        // traceparent; "": none
	// Claim wants it running at once, for the owner: only where neither Delay nor
	// RunAt is set. Deadline is the timeout of the attempt then.
	Claim    bool
	Deadline time.Duration
}

// Inserted says what became of a [New]; the results have the order of the
// arguments.
type Inserted struct {
	ID       wire.TaskID // of the existing one, where it is
	Existing bool
	Running  bool // claimed: the attempt is number 1, its fence 1
}

// Attempt is a running attempt of a task, as its supervisor needs it.
type Attempt struct {
	ID             wire.TaskID
	Name           string
	Fence          int64
	Number         int // 1…
	Failures       int // so far
	Crashes        int // so far
	Priority       int
	Input          []byte
	IdempotencyKey string
	Metadata       []byte
	Trace          string
	Timeout        time.Duration // of the task; 0: that of the name
	// Left is what is left of the attempt's deadline, by the store's clock; Lease
	// is what its worker has promised to be heard within, 0: nothing that the
	// store knows of. Both matter only of attempts that are taken over.
	Left, Lease time.Duration
	CancelAsked bool
	// Started is when the attempt did, by the store's clock.
	Started time.Time
}

// Ref names an attempt.
type Ref struct {
	ID    wire.TaskID
	Fence int64
	// Owner is set by whoever acts on its own timer: nothing happens then unless it
	// still owns the attempt. What a worker said counts whoever owns it: 0.
	Owner Owner
}

// End is an attempt with which the task ends.
type End struct {
	Ref
	State     wire.TaskState  // committed, failed, cancelled or dead
	Result    []byte          // JSON, of committed
	Error     *wire.TaskError // of the others
	Failed    bool            // the attempt counts as one that failed
	Crashed   bool            // its worker was lost
	Retention time.Duration   // how long it is kept
}

// Back is an attempt after which the task waits for another one. A task that is
// to be cancelled is cancelled instead, in the same write.
type Back struct {
	Ref
	After     time.Duration   // the next attempt is not sooner, by the store's clock
	Error     *wire.TaskError // nil: keeps what is there
	Failed    bool            // the attempt counts as one that failed
	Crashed   bool            // its worker was lost
	Unstarted bool            // nobody took it: the attempt's number is given back
	Retention time.Duration   // where it is cancelled
}

// Outcome says what became of an [End] or a [Back]; the results have the order of
// the arguments.
type Outcome struct {
	// Done: it was this write. Otherwise the attempt had been given up before, or
	// was never: what is there says [Store.Get].
	Done  bool
	State wire.TaskState // what the task is now; "" unless Done
	Kept  *Kept          // of a task that has ended by this write; nil otherwise
	// Busy, of what is not Done: somebody writes to the task in a transaction that
	// has not ended, as who commits a result in SQL does. Nothing is known of the
	// attempt; the same is to be said again in a moment.
	Busy bool
}

// Kept is what the store alone knows of a task that has ended, as [Store.Get]
// returns it.
type Kept struct {
	Created, RunAt, Started, Finished time.Time // Started may be zero
	Fence                             int64
	Attempt                           int
	UniqueKey                         string
	Error                             *wire.TaskError // also of an attempt before the one that committed
}

// BusyError is an [Store.Insert] that stored nothing, because keys of some of its
// tasks are wanted in a transaction that has not ended: who stores tasks in SQL may
// take its time. It is an ABORTED. The others may be stored without them.
type BusyError struct {
	Tasks []int // which, by their place in the arguments; in order
}

// Error implements error.
func (e *BusyError) Error() string { return e.Unwrap().Error() }

// Unwrap returns the coded error.
func (*BusyError) Unwrap() error {
	return &wire.Error{Code: wire.Aborted, Message: "a transaction that has not ended wants a task with that key", RetryAfter: time.Second}
}

// Beat is what is known of a running attempt and is worth keeping: for `get`, and
// for who takes it over.
type Beat struct {
	Ref
	Lease    time.Duration // 0: keeps what is there
	Progress []byte        // JSON; nil: keeps what is there
}

// Due is a name of which tasks wait.
type Due struct {
	Name string
	In   time.Duration // until the first of them is due; 0: it is
}

// Query asks for a page of tasks, newest first.
type Query struct {
	Name   string         // "": every name
	State  wire.TaskState // "": every state
	Limit  int
	Before wire.TaskID // ids below; zero: all
}

// Policy is how the tasks of a name are run, with every default filled in.
type Policy struct {
	Name        string
	Timeout     time.Duration
	MaxAttempts int
	Backoff     time.Duration
	Factor      float64
	MaxBackoff  time.Duration
	Jitter      float64
	Final       []wire.Code // beside those that always are
	MaxCrashes  int
	Concurrency int           // 0: no bound
	Retention   time.Duration // 0: that of the service
}

// Store keeps tasks. Times are by its own clock alone; a caller says how long from
// now, never when. Every method may be called concurrently and by any number of
// replicas. Slices that are given belong to the store until it returns; what it
// returns is the caller's.
type Store interface {
	// Join returns the number of a new owner with a lease.
	Join(ctx context.Context, host string, lease time.Duration) (Owner, error)
	// Renew keeps the owner for a lease from now: [ErrOwner] where others may have
	// taken what it had.
	Renew(ctx context.Context, o Owner, lease time.Duration) error
	// Leave gives everything that the owner has to nobody, in one write, so that
	// others take it over at once: the attempts go on. It says how many there were.
	Leave(ctx context.Context, o Owner) (int, error)

	// Insert stores tasks, all or none of them; see [BusyError]. Rows for an owner
	// without a lease may be written: the sweep of [Store.Orphans] finds them.
	Insert(ctx context.Context, o Owner, tasks []New) ([]Inserted, error)
	// Due lists the names of which tasks are pending and due within a time, at most
	// so many.
	Due(ctx context.Context, within time.Duration, most int) ([]Due, error)
	// Claim makes up to n due tasks of a name the owner's: the first by priority,
	// time, id. With a concurrency above 0 no more of the name run than that, over
	// all owners. It returns them in that order. deadline is the timeout of those
	// that have none.
	Claim(ctx context.Context, o Owner, name string, n, concurrency int, deadline time.Duration) ([]Attempt, error)
	// End ends tasks, each by its attempt's fence. One that failed or died and is to be
	// cancelled is.
	End(ctx context.Context, ends []End) ([]Outcome, error)
	// Back has tasks wait for their next attempt, each by its attempt's fence.
	Back(ctx context.Context, backs []Back) ([]Outcome, error)
	// Beats keeps what is known of running attempts.
	Beats(ctx context.Context, beats []Beat) error
	// Adopt makes attempts the owner's that belong to nobody with a lease: their
	// workers were heard. It returns those that are the owner's now, without their
	// inputs: they have been handed out.
	Adopt(ctx context.Context, o Owner, refs []Ref) ([]Attempt, error)
	// Orphans makes up to n attempts the owner's that belong to nobody with a lease,
	// of which nothing was heard. It returns them as Adopt does.
	Orphans(ctx context.Context, o Owner, n int) ([]Attempt, error)

	// Owned returns all running attempts that are the owner's.
	Owned(ctx context.Context, o Owner) ([]Ref, error)

	// Cancel ends a pending task, and has a running one end: within grace by its
	// worker or by [Store.Kill]. It returns the task as it is then; [ErrState] and
	// the task where it has ended otherwise. It is kept for the retention of its name,
	// for this one where that has none.
	Cancel(ctx context.Context, id wire.TaskID, grace, retention time.Duration) (*wire.Task, error)
	// Kill ends up to n tasks whose grace is over, and returns the attempts that are
	// fenced off by it. They are kept as by [Store.Cancel].
	Kill(ctx context.Context, n int, retention time.Duration) ([]Ref, error)
	// Takeover fences off the attempt of a running task, which is pending then;
	// [ErrState] where it does not run.
	Takeover(ctx context.Context, id wire.TaskID) (*wire.Task, error)
	// Retry has a task begin again that failed, died or was cancelled; [ErrState]
	// where it did not, [wire.ErrAlreadyExists] where its unique key is another's by
	// now. Its fence goes on growing; its failures and crashes begin at 0.
	Retry(ctx context.Context, id wire.TaskID) (*wire.Task, error)

	// Get returns tasks, in the order of ids; nil for those that are not there. Of
	// two with one id the greater fence counts.
	Get(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error)
	// Peek is Get without what the tasks work on: inputs may be large, and many are
	// read again and again only for what became of them.
	Peek(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error)
	// Attempt returns a running attempt; nil where it does not run any more.
	Attempt(ctx context.Context, id wire.TaskID, fence int64) (*Attempt, error)
	List(ctx context.Context, q Query) ([]wire.Task, error)
	Counts(ctx context.Context, name string) (wire.TaskCounts, error)

	// Step stores the result of a step of a running attempt where there is none, and
	// returns what is stored, nil: nothing is. A nil result only looks. [ErrState]
	// where the attempt was given up.
	Step(ctx context.Context, ref Ref, step string, result []byte) ([]byte, error)

	// Register stores a policy; Policies returns all.
	Register(ctx context.Context, p Policy) error
	Policies(ctx context.Context) ([]Policy, error)
	// Secret is that of the tokens of attempts: the same for every replica, 32 bytes.
	Secret(ctx context.Context) ([]byte, error)

	// Clean removes up to about n of what is kept no longer, and says whether there
	// is more. It never waits long for a lock, nor holds one.
	Clean(ctx context.Context, n int) (more bool, err error)
	// Depth says how many tasks are due, at most [wire.TaskCountCap], and for how long
	// the oldest of them.
	Depth(ctx context.Context) (due int64, oldest time.Duration, err error)
}
