package tasks

import (
	"context"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

const (
	// askWait bounds what a caller waits for, so that one who asks while Postgres
	// hangs hears of it; what is refused at once needs none.
	askWait = 3 * time.Second
	// scanWait bounds what may read many rows.
	scanWait = 10 * time.Second
	// writeRate is how many bytes a second a batch is given more time for.
	writeRate = 4 << 20
)

// guarded is the store as the rest of the replica sees it: bounded in time,
// refused at once while Postgres is away, and its errors with the code that their
// callers are told.
type guarded struct {
	of store.Store
	pg *postgres
}

var _ store.Store = guarded{}

// asking calls fn for an answer.
func asking[T any](g guarded, ctx context.Context, wait time.Duration, fn func(context.Context) (T, error)) (out T, err error) {
	err = g.pg.do(ctx, wait, func(ctx context.Context) error {
		out, err = fn(ctx)
		return err
	})
	return out, err
}

// sized is the time that a batch of so many bytes is given.
func sized(bytes int) time.Duration {
	return askWait + time.Duration(bytes)*time.Second/writeRate
}

// Join is [store.Store.Join]. An owner that looks for a lease is not kept from it
// by the breaker: it knows itself when to try again, and finds Postgres first.
func (g guarded) Join(ctx context.Context, host string, lease time.Duration) (o store.Owner, err error) {
	err = g.pg.try(ctx, askWait, func(ctx context.Context) error { o, err = g.of.Join(ctx, host, lease); return err })
	return o, err
}

// Renew is [store.Store.Renew]; as with Join.
func (g guarded) Renew(ctx context.Context, o store.Owner, lease time.Duration) error {
	return g.pg.try(ctx, askWait, func(ctx context.Context) error { return g.of.Renew(ctx, o, lease) })
}

// Leave is [store.Store.Leave].
func (g guarded) Leave(ctx context.Context, o store.Owner) (int, error) {
	return asking(g, ctx, scanWait, func(ctx context.Context) (int, error) { return g.of.Leave(ctx, o) })
}

// Insert is [store.Store.Insert].
func (g guarded) Insert(ctx context.Context, o store.Owner, tasks []store.New) ([]store.Inserted, error) {
	size := 0
	for i := range tasks {
		size += len(tasks[i].Input) + len(tasks[i].Metadata)
	}
	return asking(g, ctx, sized(size), func(ctx context.Context) ([]store.Inserted, error) { return g.of.Insert(ctx, o, tasks) })
}

// Due is [store.Store.Due].
func (g guarded) Due(ctx context.Context, within time.Duration, most int) ([]store.Due, error) {
	return asking(g, ctx, scanWait, func(ctx context.Context) ([]store.Due, error) { return g.of.Due(ctx, within, most) })
}

// Claim is [store.Store.Claim].
func (g guarded) Claim(ctx context.Context, o store.Owner, name string, n, concurrency int, deadline time.Duration) ([]store.Attempt, error) {
	return asking(g, ctx, sized(n*4096), func(ctx context.Context) ([]store.Attempt, error) {
		return g.of.Claim(ctx, o, name, n, concurrency, deadline)
	})
}

// End is [store.Store.End].
func (g guarded) End(ctx context.Context, ends []store.End) ([]store.Outcome, error) {
	size := 0
	for i := range ends {
		size += len(ends[i].Result)
	}
	return asking(g, ctx, sized(size), func(ctx context.Context) ([]store.Outcome, error) { return g.of.End(ctx, ends) })
}

// Back is [store.Store.Back].
func (g guarded) Back(ctx context.Context, backs []store.Back) ([]store.Outcome, error) {
	return asking(g, ctx, sized(0), func(ctx context.Context) ([]store.Outcome, error) { return g.of.Back(ctx, backs) })
}

// Beats is [store.Store.Beats].
func (g guarded) Beats(ctx context.Context, beats []store.Beat) error {
	size := 0
	for i := range beats {
		size += len(beats[i].Progress)
	}
	return g.pg.do(ctx, sized(size), func(ctx context.Context) error { return g.of.Beats(ctx, beats) })
}

// Adopt is [store.Store.Adopt].
func (g guarded) Adopt(ctx context.Context, o store.Owner, refs []store.Ref) ([]store.Attempt, error) {
	return asking(g, ctx, sized(len(refs)*4096), func(ctx context.Context) ([]store.Attempt, error) { return g.of.Adopt(ctx, o, refs) })
}

// Orphans is [store.Store.Orphans].
func (g guarded) Orphans(ctx context.Context, o store.Owner, n int) ([]store.Attempt, error) {
	return asking(g, ctx, scanWait, func(ctx context.Context) ([]store.Attempt, error) { return g.of.Orphans(ctx, o, n) })
}

// Owned is [store.Store.Owned].
func (g guarded) Owned(ctx context.Context, o store.Owner) ([]store.Ref, error) {
	return asking(g, ctx, scanWait, func(ctx context.Context) ([]store.Ref, error) { return g.of.Owned(ctx, o) })
}

// Cancel is [store.Store.Cancel].
func (g guarded) Cancel(ctx context.Context, id wire.TaskID, grace, retention time.Duration) (*wire.Task, error) {
	return asking(g, ctx, askWait, func(ctx context.Context) (*wire.Task, error) { return g.of.Cancel(ctx, id, grace, retention) })
}

// Kill is [store.Store.Kill].
func (g guarded) Kill(ctx context.Context, n int, retention time.Duration) ([]store.Ref, error) {
	return asking(g, ctx, scanWait, func(ctx context.Context) ([]store.Ref, error) { return g.of.Kill(ctx, n, retention) })
}

// Takeover is [store.Store.Takeover].
func (g guarded) Takeover(ctx context.Context, id wire.TaskID) (*wire.Task, error) {
	return asking(g, ctx, askWait, func(ctx context.Context) (*wire.Task, error) { return g.of.Takeover(ctx, id) })
}

// Retry is [store.Store.Retry].
func (g guarded) Retry(ctx context.Context, id wire.TaskID) (*wire.Task, error) {
	return asking(g, ctx, askWait, func(ctx context.Context) (*wire.Task, error) { return g.of.Retry(ctx, id) })
}

// Get is [store.Store.Get].
func (g guarded) Get(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error) {
	return asking(g, ctx, sized(len(ids)*4096), func(ctx context.Context) ([]*wire.Task, error) { return g.of.Get(ctx, ids) })
}

// Peek is [store.Store.Peek].
func (g guarded) Peek(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error) {
	return asking(g, ctx, sized(len(ids)*4096), func(ctx context.Context) ([]*wire.Task, error) { return g.of.Peek(ctx, ids) })
}

// Attempt is [store.Store.Attempt].
func (g guarded) Attempt(ctx context.Context, id wire.TaskID, fence int64) (*store.Attempt, error) {
	return asking(g, ctx, askWait, func(ctx context.Context) (*store.Attempt, error) { return g.of.Attempt(ctx, id, fence) })
}

// List is [store.Store.List].
func (g guarded) List(ctx context.Context, q store.Query) ([]wire.Task, error) {
	return asking(g, ctx, scanWait, func(ctx context.Context) ([]wire.Task, error) { return g.of.List(ctx, q) })
}

// Counts is [store.Store.Counts].
func (g guarded) Counts(ctx context.Context, name string) (wire.TaskCounts, error) {
	return asking(g, ctx, scanWait, func(ctx context.Context) (wire.TaskCounts, error) { return g.of.Counts(ctx, name) })
}

// Step is [store.Store.Step].
func (g guarded) Step(ctx context.Context, ref store.Ref, step string, result []byte) ([]byte, error) {
	return asking(g, ctx, askWait, func(ctx context.Context) ([]byte, error) { return g.of.Step(ctx, ref, step, result) })
}

// Register is [store.Store.Register].
func (g guarded) Register(ctx context.Context, p store.Policy) error {
	return g.pg.do(ctx, askWait, func(ctx context.Context) error { return g.of.Register(ctx, p) })
}

// Policies is [store.Store.Policies].
func (g guarded) Policies(ctx context.Context) ([]store.Policy, error) {
	return asking(g, ctx, askWait, g.of.Policies)
}

// Secret is [store.Store.Secret].
func (g guarded) Secret(ctx context.Context) ([]byte, error) {
	return asking(g, ctx, askWait, g.of.Secret)
}

// Clean is [store.Store.Clean].
func (g guarded) Clean(ctx context.Context, n int) (bool, error) {
	return asking(g, ctx, scanWait, func(ctx context.Context) (bool, error) { return g.of.Clean(ctx, n) })
}

// Depth is [store.Store.Depth].
func (g guarded) Depth(ctx context.Context) (due int64, oldest time.Duration, err error) {
	err = g.pg.do(ctx, scanWait, func(ctx context.Context) error {
		due, oldest, err = g.of.Depth(ctx)
		return err
	})
	return due, oldest, err
}
