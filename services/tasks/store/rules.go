package store

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	secretSize = 32
	// ownerKept is how long it stays known who an owner was.
	ownerKept = time.Hour
	// brokenLease stands for a promise that was not kept: 0 is that there is none.
	brokenLease = time.Millisecond
)

// keyKind tells the two kinds of keys apart; keys are taken in this order.
type keyKind int16

const (
	idempotencyKey keyKind = 1 // also of what is committed, as long as it is kept
	uniqueKey      keyKind = 2 // of what has not ended
)

func keysOf(name, idempotency, unique string) (keys []taskKey) {
	if idempotency != "" {
		keys = append(keys, taskKey{idempotencyKey, name, idempotency})
	}
	if unique != "" {
		keys = append(keys, taskKey{uniqueKey, name, unique})
	}
	return keys
}

func (k taskKey) compare(o taskKey) int {
	return cmp.Or(cmp.Compare(k.kind, o.kind), strings.Compare(k.name, o.name), strings.Compare(k.key, o.key))
}

// claimed reports whether a task begins as a running one.
func (n *New) claimed() bool { return n.Claim && n.Delay <= 0 && n.RunAt.IsZero() }

func (n *New) attemptTimeout() time.Duration { return cmp.Or(n.Deadline, n.Timeout) }

// retries reports whether a task that ended so may begin again.
func retries(s wire.TaskState) bool {
	return s == wire.TaskFailed || s == wire.TaskCancelled || s == wire.TaskDead
}

func errTaken(by wire.TaskID) error {
	return wire.Errorf(wire.AlreadyExists, "its unique key is another task's by now").With("id", by.String())
}

func sortPolicies(all []Policy) {
	slices.SortFunc(all, func(a, b Policy) int { return strings.Compare(a.Name, b.Name) })
}

func sortDue(due []Due) {
	slices.SortFunc(due, func(a, b Due) int { return cmp.Or(cmp.Compare(a.In, b.In), strings.Compare(a.Name, b.Name)) })
}

// countsOf makes the counts of each state a reply.
func countsOf(counts map[wire.TaskState]int64) (c wire.TaskCounts) {
	of := func(state wire.TaskState) int64 {
		n := min(counts[state], wire.TaskCountCap)
		c.Capped = c.Capped || n == wire.TaskCountCap
		c.Total += n
		return n
	}
	c.Pending, c.Running, c.Committed = of(wire.TaskPending), of(wire.TaskRunning), of(wire.TaskCommitted)
	c.Failed, c.Cancelled, c.Dead = of(wire.TaskFailed), of(wire.TaskCancelled), of(wire.TaskDead)
	return c
}
