package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Memory is a [Store] in the memory of one process: replicas that share it live
// and die in it. It looks at every task where Postgres has an index.
type Memory struct {
	now func() time.Time

	mu       sync.Mutex // guards all below
	live     map[wire.TaskID]*record
	done     map[wire.TaskID]*record
	keys     map[taskKey]heldKey
	owners   map[Owner]time.Time // until when its lease is
	last     Owner
	policies map[string]Policy
	secret   []byte
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store whose clock is now.
func NewMemory(now func() time.Time) *Memory {
	m := &Memory{
		now: now, live: map[wire.TaskID]*record{}, done: map[wire.TaskID]*record{}, keys: map[taskKey]heldKey{},
		owners: map[Owner]time.Time{}, policies: map[string]Policy{}, secret: make([]byte, secretSize),
	}
	rand.Read(m.secret) // never fails: it ends the process
	return m
}

// record is a task in memory. What it points to is never written to again, so
// that copies may share it.
type record struct {
	id                         wire.TaskID
	name                       string
	state                      wire.TaskState
	fence                      int64
	owner                      Owner
	attempt, failures, crashes int
	priority                   int
	input, result, progress    []byte
	metadata                   []byte
	err                        *wire.TaskError
	idempotencyKey, uniqueKey  string
	trace                      string
	timeout                    time.Duration
	created, runAt             time.Time
	started, deadline, beatBy  time.Time // of the running attempt
	killAt                     time.Time // it is to be cancelled
	finished, expires          time.Time
	steps                      map[string][]byte
}

// taskKey is a key of tasks of a name, heldKey who has it: until expires, or
// while the task lives.
type (
	taskKey struct {
		kind      keyKind
		name, key string
	}
	heldKey struct {
		task    wire.TaskID
		expires time.Time
	}
)

// free reports whether nobody has a key any more.
func (h heldKey) free(now time.Time) bool { return !h.expires.IsZero() && !h.expires.After(now) }

// keys returns the keys of a task.
func (r *record) keys() (keys []taskKey) { return keysOf(r.name, r.idempotencyKey, r.uniqueKey) }

// stopped clears what is of an attempt that runs.
func (r *record) stopped() {
	r.owner, r.deadline, r.beatBy, r.killAt = 0, time.Time{}, time.Time{}, time.Time{}
}

// clone returns a copy; of nothing, nil.
func clone(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}

func cloneError(e *wire.TaskError) *wire.TaskError {
	if e == nil {
		return nil
	}
	c := *e
	c.Details = clone(e.Details)
	if e.Retryable != nil {
		retryable := *e.Retryable
		c.Retryable = &retryable
	}
	return &c
}

// Join implements [Store].
func (m *Memory) Join(_ context.Context, _ string, lease time.Duration) (Owner, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last++
	m.owners[m.last] = m.now().Add(lease)
	return m.last, nil
}

// Renew implements [Store].
func (m *Memory) Renew(_ context.Context, o Owner, lease time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.leased(o) {
		return ErrOwner
	}
	m.owners[o] = m.now().Add(lease)
	return nil
}

// Leave implements [Store].
func (m *Memory) Leave(_ context.Context, o Owner) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.owners, o)
	n := 0
	for _, r := range m.live {
		if r.state == wire.TaskRunning && r.owner == o {
			r.owner = 0
			n++
		}
	}
	return n, nil
}

func (m *Memory) leased(o Owner) bool {
	until, ok := m.owners[o]
	return ok && until.After(m.now())
}

// running returns the record of an attempt that a [Ref] may act on, nil where it
// was given up.
func (m *Memory) running(ref Ref) *record {
	r := m.live[ref.ID]
	if r == nil || r.state != wire.TaskRunning || r.fence != ref.Fence || ref.Owner != 0 && ref.Owner != r.owner {
		return nil
	}
	return r
}

// Register implements [Store].
func (m *Memory) Register(_ context.Context, p Policy) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.Final = append([]wire.Code(nil), p.Final...)
	m.policies[p.Name] = p
	return nil
}

// Policies implements [Store].
func (m *Memory) Policies(context.Context) (all []Policy, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.policies {
		p.Final = append([]wire.Code(nil), p.Final...)
		all = append(all, p)
	}
	sortPolicies(all)
	return all, nil
}

// Secret implements [Store].
func (m *Memory) Secret(context.Context) ([]byte, error) { return clone(m.secret), nil }
