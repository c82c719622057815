package runner

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

var errAway = errors.New("the store is away")

// tap is a store that a test holds up, or has fail: a call before it is made, or
// its answer.
type tap struct {
	store.Store

	mu     sync.Mutex // guards what follows
	before func(call string) error
	after  func(call string) error
	calls  map[string]int
}

func newTap(of store.Store) *tap { return &tap{Store: of, calls: map[string]int{}} }

// on has fn called before each call; an error keeps the call from being made.
func (t *tap) on(fn func(call string) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.before = fn
}

// onAnswer has fn called after each call; an error is its answer then.
func (t *tap) onAnswer(fn func(call string) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.after = fn
}

// die has every call fail.
func (t *tap) die() { t.on(func(string) error { return errAway }) }

func (t *tap) count(call string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls[call]
}

func through[T any](t *tap, call string, fn func() (T, error)) (out T, err error) {
	t.mu.Lock()
	t.calls[call]++
	before, after := t.before, t.after
	t.mu.Unlock()
	var none T
	if before != nil {
		if err := before(call); err != nil {
			return none, err
		}
	}
	out, err = fn()
	if after != nil {
		if err := after(call); err != nil {
			return none, err
		}
	}
	return out, err
}

func plain(t *tap, call string, fn func() error) error {
	_, err := through(t, call, func() (struct{}, error) { return struct{}{}, fn() })
	return err
}

func (t *tap) Join(ctx context.Context, host string, lease time.Duration) (store.Owner, error) {
	return through(t, "Join", func() (store.Owner, error) { return t.Store.Join(ctx, host, lease) })
}

func (t *tap) Renew(ctx context.Context, o store.Owner, lease time.Duration) error {
	return plain(t, "Renew", func() error { return t.Store.Renew(ctx, o, lease) })
}

func (t *tap) Leave(ctx context.Context, o store.Owner) (int, error) {
	return through(t, "Leave", func() (int, error) { return t.Store.Leave(ctx, o) })
}

func (t *tap) Insert(ctx context.Context, o store.Owner, tasks []store.New) ([]store.Inserted, error) {
	return through(t, "Insert", func() ([]store.Inserted, error) { return t.Store.Insert(ctx, o, tasks) })
}

func (t *tap) Due(ctx context.Context, within time.Duration, most int) ([]store.Due, error) {
	return through(t, "Due", func() ([]store.Due, error) { return t.Store.Due(ctx, within, most) })
}

func (t *tap) Claim(ctx context.Context, o store.Owner, name string, n, concurrency int, deadline time.Duration) ([]store.Attempt, error) {
	return through(t, "Claim", func() ([]store.Attempt, error) { return t.Store.Claim(ctx, o, name, n, concurrency, deadline) })
}

func (t *tap) End(ctx context.Context, ends []store.End) ([]store.Outcome, error) {
	return through(t, "End", func() ([]store.Outcome, error) { return t.Store.End(ctx, ends) })
}

func (t *tap) Back(ctx context.Context, backs []store.Back) ([]store.Outcome, error) {
	return through(t, "Back", func() ([]store.Outcome, error) { return t.Store.Back(ctx, backs) })
}

func (t *tap) Beats(ctx context.Context, beats []store.Beat) error {
	return plain(t, "Beats", func() error { return t.Store.Beats(ctx, beats) })
}

func (t *tap) Adopt(ctx context.Context, o store.Owner, refs []store.Ref) ([]store.Attempt, error) {
	return through(t, "Adopt", func() ([]store.Attempt, error) { return t.Store.Adopt(ctx, o, refs) })
}

func (t *tap) Orphans(ctx context.Context, o store.Owner, n int) ([]store.Attempt, error) {
	return through(t, "Orphans", func() ([]store.Attempt, error) { return t.Store.Orphans(ctx, o, n) })
}

func (t *tap) Owned(ctx context.Context, o store.Owner) ([]store.Ref, error) {
	return through(t, "Owned", func() ([]store.Ref, error) { return t.Store.Owned(ctx, o) })
}

func (t *tap) Kill(ctx context.Context, n int, retention time.Duration) ([]store.Ref, error) {
	return through(t, "Kill", func() ([]store.Ref, error) { return t.Store.Kill(ctx, n, retention) })
}

func (t *tap) Get(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error) {
	return through(t, "Get", func() ([]*wire.Task, error) { return t.Store.Get(ctx, ids) })
}

func (t *tap) Peek(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error) { // a Get, for who holds it up
	return through(t, "Get", func() ([]*wire.Task, error) { return t.Store.Peek(ctx, ids) })
}

func (t *tap) Policies(ctx context.Context) ([]store.Policy, error) {
	return through(t, "Policies", func() ([]store.Policy, error) { return t.Store.Policies(ctx) })
}
