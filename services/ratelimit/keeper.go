package ratelimit

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	shards = 64 // a power of two
	// maxCells bounds the keys whose state is in memory.
	maxCells = 131_072
	// idle is how long a cell stays that nobody asks for.
	idle      = time.Minute
	idleEvery = 5 * time.Second
	// flushers is how many keys are read or written at a time.
	flushers = 128
)

// keeperConfig is what a keeper works with.
type keeperConfig struct {
	Store Store
	ID    string // of the replica: no two have the same, also not one after another
	// Now is the time of the NATS server.
	Now     func() time.Time
	Metrics *metrics
	Log     *slog.Logger // nil: nothing is said
	Cells   int          // that are held at most; maxCells when 0
	Waiting int          // for one key at most; maxWaiting when 0
}

// keeper decides for every key, by one write for all who wait for it.
//
// Whoever asks joins the cell of the key. A cell with somebody in it is in line
// for one of the flushers, which takes all who wait, decides them in order on a
// copy of the state, writes the copy if anything changed, and answers when it is
// stored. Who comes meanwhile waits for the next round: the busier the key, the
// more a write carries. See [flusher.round].
type keeper struct {
	cfg     keeperConfig
	metrics *metrics
	seed    maphash.Seed
	shards  [shards]shard
	began   time.Time
	waiters sync.Pool

	line line

	number atomic.Uint64 // of the newest batch
	// What is older than forgotten is void, unless it was asked for in this epoch.
	epoch     atomic.Uint64
	forgotten atomic.Uint64
	changed   atomic.Pointer[changes] // of the limits
}

type shard struct {
	mu    sync.RWMutex
	cells map[string]*cell // by the key as it is asked for
}

func newKeeper(cfg keeperConfig) *keeper {
	cfg.Cells, cfg.Waiting = cmp.Or(cfg.Cells, maxCells), cmp.Or(cfg.Waiting, maxWaiting)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	k := &keeper{cfg: cfg, metrics: cfg.Metrics, seed: maphash.MakeSeed(), began: time.Now()}
	for i := range k.shards {
		k.shards[i].cells = map[string]*cell{}
	}
	k.waiters.New = func() any { return &waiter{done: make(chan struct{}, 1)} }
	k.line.init()
	// Of another replica with the same id, before this one, no batch has a number
	// that this one gives.
	k.number.Store(uint64(k.began.UnixNano()))
	return k
}

// run decides until ctx is done, and evicts cells that nobody asks for. What waits
// then is answered that the replica is stopping.
func (k *keeper) run(ctx context.Context) {
	var running sync.WaitGroup
	for range flushers {
		running.Go(func() {
			f := flusher{keeper: k}
			for c := k.line.next(); c != nil; c = k.line.next() {
				f.flush(ctx, c)
			}
		})
	}
	for clock.Sleep(ctx, idleEvery) == nil {
		k.evictIdle()
	}
	k.line.close()
	running.Wait()
	for _, c := range k.line.rest() {
		k.refuse(c)
	}
}

// consume wants takes of one key, all or none, n times in order; look says what
// would become of them. The takes stay as they are until it returns, and if ctx
// ends first, for good.
func (k *keeper) consume(ctx context.Context, key string, takes []take, n int64, look bool) (outcome, error) {
	r := request{action: consuming, takes: takes, n: n}
	if look {
		r.action = peeking
	}
	a, err := k.ask(ctx, key, r)
	return a.outcome, err
}

// refund gives tokens back. It is not the first where the same refund was made
// before, within a minute.
func (k *keeper) refund(ctx context.Context, key string, limit *rules.Limit, cost int64, id string) (remaining int64, revision uint64, first bool, err error) {
	a, err := k.ask(ctx, key, request{action: refunding, takes: []take{{limit, cost}}, id: id})
	return a.remaining, a.revision, a.changed, err
}

// reset fills a bucket, and ends its ban. Of an entry that can't be read it makes
// an empty one.
func (k *keeper) reset(ctx context.Context, key string, limit *rules.Limit) (revision uint64, err error) {
	a, err := k.ask(ctx, key, request{action: resetting, takes: []take{{limit: limit}}})
	return a.revision, err
}

// unban ends a ban; the bucket stays as it is.
func (k *keeper) unban(ctx context.Context, key string, limit *rules.Limit) (revision uint64, err error) {
	a, err := k.ask(ctx, key, request{action: unbanning, takes: []take{{limit: limit}}})
	return a.revision, err
}

// ban keeps a key from everything of a policy, for d from now.
func (k *keeper) ban(ctx context.Context, key string, limit *rules.Limit, d time.Duration) (revision uint64, until time.Time, err error) {
	a, err := k.ask(ctx, key, request{action: banning, takes: []take{{limit: limit}}, ban: d})
	return a.revision, a.until, err
}

// drop takes a policy out of a key, and reports whether it was in.
func (k *keeper) drop(ctx context.Context, key, policy string) (dropped bool, err error) {
	a, err := k.ask(ctx, key, request{action: dropping, policy: policy})
	return a.changed, err
}

// keys calls yield for every key that has an entry, as it is asked for, until
// yield returns false.
func (k *keeper) keys(ctx context.Context, yield func(key string) bool) error {
	return k.cfg.Store.Keys(ctx, func(name string) bool {
		token, ok := strings.CutPrefix(name, entryPrefix)
		if !ok {
			return true
		}
		key, err := wire.UnescapeToken(token)
		return err != nil || yield(key)
	})
}

// entryPrefix begins the keys of entries in the bucket. It is the version of what
// they mean: those of another one are other keys.
const entryPrefix = "v1."

// forget makes what is known of a key void where it is older than a revision.
func (k *keeper) forget(key string, revision uint64) {
	s := k.shard(key)
	s.mu.RLock()
	c := s.cells[key]
	s.mu.RUnlock()
	if c != nil {
		c.void(revision)
	}
}

// forgetAll makes everything void that is older than a revision.
func (k *keeper) forgetAll(revision uint64) {
	for was := k.forgotten.Load(); was < revision && !k.forgotten.CompareAndSwap(was, revision); was = k.forgotten.Load() {
	}
	k.epoch.Add(1) // not before: who is of the new epoch was asked for after this
}

func (k *keeper) shard(key string) *shard {
	return &k.shards[maphash.String(k.seed, key)&(shards-1)]
}

// ask waits until a request of a key is decided and stored.
func (k *keeper) ask(ctx context.Context, key string, r request) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, err
	}
	w := k.waiters.Get().(*waiter)
	w.request, w.ctx = r, ctx
	w.changes = k.changes()
	w.deadline, _ = ctx.Deadline()
	if r.action == peeking || r.action == adjusting {
		w.came = time.Now()
	}
	for {
		c, err := k.cell(key)
		if err != nil {
			return answer{}, err
		}
		switch c.join(w, k.cfg.Waiting) {
		case joinGone:
			continue
		case joinFull:
			k.metrics.refused.Add(1)
			return answer{}, errFull
		case joinedFirst:
			k.metrics.waiting.Add(1)
			if !k.line.push(c) {
				k.refuse(c)
			}
		case joinedOthers:
			k.metrics.waiting.Add(1)
		}
		break
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		// A flusher may have it: it stays as it is.
		return answer{}, fmt.Errorf("wait for a decision: %w", ctx.Err())
	}
	a := w.answer
	*w = waiter{done: w.done}
	k.waiters.Put(w)
	return a, a.err
}

// cell returns the cell of a key, and makes it where there is none.
func (k *keeper) cell(key string) (*cell, error) {
	s := k.shard(key)
	s.mu.RLock()
	c := s.cells[key]
	s.mu.RUnlock()
	if c != nil {
		return c, nil
	}
	name, err := wire.Namespace("").LimitEntry(key) // the namespace is in the bucket's name
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cells[key]; c != nil {
		return c, nil
	}
	if len(s.cells) >= max(k.cfg.Cells/shards, 1) && !k.evictOne(s) {
		k.metrics.refused.Add(1)
		return nil, errCrowded
	}
	c = &cell{key: name}
	c.used.Store(int64(time.Since(k.began)))
	s.cells[key] = c
	k.metrics.cells.Add(1)
	return c, nil
}

// evictOne makes room in a shard: of some cells the one that was used least
// recently, if nobody uses it, else any of them.
func (k *keeper) evictOne(s *shard) bool {
	var few [16]string
	some := few[:0]
	oldest := 0
	for key, c := range s.cells { // in no order
		some = append(some, key)
		if c.used.Load() < s.cells[some[oldest]].used.Load() {
			oldest = len(some) - 1
		}
		if len(some) == len(few) {
			break
		}
	}
	some[0], some[oldest] = some[oldest], some[0]
	for _, key := range some {
		if s.cells[key].evict() {
			delete(s.cells, key)
			k.metrics.cells.Add(-1)
			return true
		}
	}
	return false
}

// evictIdle removes the cells that nobody asked for lately.
func (k *keeper) evictIdle() {
	before := int64(time.Since(k.began) - idle)
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		for key, c := range s.cells {
			if c.used.Load() < before && c.evict() {
				delete(s.cells, key)
				k.metrics.cells.Add(-1)
			}
		}
		s.mu.Unlock()
	}
}

// refuse answers everybody in a cell that no flusher will take.
func (k *keeper) refuse(c *cell) {
	for {
		all := c.takeWaiting()
		k.metrics.waiting.Add(-int64(len(all)))
		for _, w := range all {
			w.answer = answer{err: errStopping}
			w.finish()
		}
		if !c.finished(all) {
			break
		}
	}
	if c.turn.drop() {
		k.leave(c)
	}
}

// leave gives the turn of a cell to who is next.
func (k *keeper) leave(c *cell) {
	if c.turn.pass() && !k.line.push(c) {
		k.refuse(c)
	}
}
