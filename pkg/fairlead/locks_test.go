package fairlead_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/lock"
)

// lockRig is workers, and the locks of the tasks service behind a way that can lose
// requests and answers.
type lockRig struct {
	*rig
	away  atomic.Bool                              // no request arrives
	lose  atomic.Pointer[func(msg *nats.Msg) bool] // of which answers are lost
	asked atomic.Int64
}

const behind = "behind."

func startLocks(t *testing.T, o fairlead.Options) *lockRig {
	t.Helper()
	r := &lockRig{rig: start(t, o)}
	nc, err := bus.Connect(t.Context(), bus.Config{URL: r.server.ClientURL()}, bus.Hooks{})
	must(t, err)
	t.Cleanup(nc.Close)
	l, err := lock.New(lock.Config{NATS: nc, Namespace: wire.DefaultNamespace})
	must(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	served, err := bus.Serve(nc, bus.Service{Name: "locks"}, bus.ServeConfig{}, l.Endpoints(func(name string) string { return behind + name })...)
	must(t, err)
	var passing sync.WaitGroup
	way := r.connect()
	sub, err := way.Subscribe("fl.svc.tasks.lock.*", func(msg *nats.Msg) { passing.Go(func() { r.pass(way, msg) }) })
	must(t, err)
	must(t, way.FlushTimeout(patience))
	t.Cleanup(func() {
		must(t, sub.Unsubscribe())
		stop()
		must(t, <-done)
		must(t, served.Drain(context.WithoutCancel(t.Context())))
		passing.Wait()
	})
	eventually(t, "locks can be had", func() bool { return l.Ready() == nil })
	return r
}

// pass hands a request on, and its answer back.
func (r *lockRig) pass(way *nats.Conn, msg *nats.Msg) {
	if r.away.Load() {
		return
	}
	r.asked.Add(1)
	reply, err := way.RequestMsg(&nats.Msg{Subject: behind + strings.TrimPrefix(msg.Subject, "fl.svc.tasks."), Data: msg.Data, Header: msg.Header}, patience)
	if err != nil {
		return
	}
	if lose := r.lose.Load(); lose == nil || !(*lose)(msg) {
		_ = msg.RespondMsg(&nats.Msg{Data: reply.Data, Header: reply.Header})
	}
}

// worker is one more worker.
func (r *lockRig) worker() *fairlead.Fairlead {
	r.t.Helper()
	f := fairlead.New(r.connect(), fairlead.Options{})
	r.t.Cleanup(f.Close)
	return f
}

func (r *lockRig) lock(f *fairlead.Fairlead, key string, o fairlead.LockOptions) *fairlead.Lock {
	r.t.Helper()
	k, err := f.Lock(r.t.Context(), key, o)
	must(r.t, err)
	return k
}

func lostCause(t *testing.T, ctx context.Context) {
	t.Helper()
	receive(t, ctx.Done())
	if cause := context.Cause(ctx); !errors.Is(cause, fairlead.ErrLockLost) {
		t.Errorf("it ended for %v, want ErrLockLost", cause)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	a, b := r.f, r.worker()
	one := r.lock(a, "orders", fairlead.LockOptions{})
	if one.Key() != "orders" || one.Fence() == 0 || !one.Held() || fairlead.LockFence(one.Context()) != one.Fence() || fairlead.LockFence(t.Context()) != 0 {
		t.Errorf("got the lock %s with fence %d, held %v", one.Key(), one.Fence(), one.Held())
	}
	_, err := b.Lock(t.Context(), "orders", fairlead.LockOptions{Wait: -1})
	if e := coded(t, err, wire.DeadlineExceeded); e.Details["key"] != "orders" {
		t.Errorf("the error %v names %v", err, e.Details)
	}
	_, err = b.Lock(t.Context(), "orders", fairlead.LockOptions{Wait: 50 * time.Millisecond})
	if e := coded(t, err, wire.DeadlineExceeded); e.Details["waitedMs"] != int64(50) {
		t.Errorf("the error %v has %v", err, e.Details)
	}
	second := make(chan *fairlead.Lock, 1)
	go func() {
		k, err := b.Lock(t.Context(), "orders", fairlead.LockOptions{Wait: patience})
		if err != nil {
			t.Errorf("the second: %v", err)
		}
		second <- k
	}()
	r.waits("orders", 1)
	must(t, one.Release(t.Context()))
	must(t, one.Release(t.Context()))
	two := receive(t, second)
	if two.Fence() <= one.Fence() || one.Held() || !two.Held() || one.Context().Err() == nil {
		t.Errorf("fences %d, %d; held %v, %v", one.Fence(), two.Fence(), one.Held(), two.Held())
	}
	must(t, two.Release(t.Context()))
	for _, o := range []fairlead.LockOptions{{TTL: time.Millisecond}, {TTL: 48 * time.Hour}} {
		_, err = a.Lock(t.Context(), "orders", o)
		coded(t, err, wire.InvalidArgument)
	}
	_, err = a.Lock(t.Context(), "", fairlead.LockOptions{})
	coded(t, err, wire.InvalidArgument)
}

// waits waits until so many stand in line for a lock.
func (r *lockRig) waits(key string, n int) {
	r.t.Helper()
	eventually(r.t, "somebody waits", func() bool {
		msg, err := r.other.Request(behind+"lock.get", []byte(`{"key":"`+key+`"}`), patience)
		return err == nil && strings.Contains(string(msg.Data), `"waiters":`+string(rune('0'+n)))
	})
}

// A lock is renewed by its own ttl, however short: two never have it, and what it
// protects never sees an older fence.
func TestLocksWithAShortTTL(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	var inside atomic.Int32
	var greatest atomic.Uint64
	var all sync.WaitGroup
	for range 2 {
		f := r.worker()
		all.Go(func() {
			for range 5 {
				err := f.WithLock(t.Context(), "k", fairlead.LockOptions{TTL: 200 * time.Millisecond, Wait: patience}, func(ctx context.Context) error {
					if n := inside.Add(1); n != 1 {
						t.Errorf("%d have the lock", n)
					}
					defer inside.Add(-1)
					if before := greatest.Swap(fairlead.LockFence(ctx)); before >= fairlead.LockFence(ctx) {
						t.Errorf("fence %d behind %d", fairlead.LockFence(ctx), before)
					}
					select {
					case <-time.After(300 * time.Millisecond): // above the ttl
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				if err != nil && !errors.Is(err, fairlead.ErrLockLost) { // on a slow machine
					t.Errorf("WithLock: %v", err)
				}
			}
		})
	}
	all.Wait()
}

// An answer that is lost costs nothing: asked again, it is the same grant.
func TestALockWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{Timeout: 500 * time.Millisecond})
	var lost atomic.Int32
	lose := func(msg *nats.Msg) bool {
		return strings.HasSuffix(msg.Subject, "acquire") && lost.Add(1) == 1
	}
	r.lose.Store(&lose)
	k := r.lock(r.f, "k", fairlead.LockOptions{Wait: 100 * time.Millisecond})
	if lost.Load() < 2 {
		t.Error("no answer was lost")
	}
	if !k.Held() {
		t.Error("it is not held")
	}
	must(t, k.Release(t.Context()))
}

// A service that is away for less than the ttl costs no lock; for longer, it is lost
// before another can have it, and the first's release takes nothing from that one.
func TestALockIsLost(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	const ttl = 600 * time.Millisecond
	k := r.lock(r.f, "k", fairlead.LockOptions{TTL: ttl})
	r.away.Store(true)
	lostCause(t, k.Context())
	if k.Held() {
		t.Error("it is held")
	}
	asked := r.asked.Load()
	r.away.Store(false)
	two := r.lock(r.worker(), "k", fairlead.LockOptions{TTL: 30 * time.Second, Wait: patience})
	if two.Fence() <= k.Fence() {
		t.Errorf("fence %d behind %d", two.Fence(), k.Fence())
	}
	if err := k.Release(t.Context()); !errors.Is(err, fairlead.ErrLockLost) {
		t.Errorf("the release of a lost lock: %v", err)
	}
	if r.asked.Load() == asked {
		t.Error("nothing was asked")
	}
	if _, err := r.worker().Lock(t.Context(), "k", fairlead.LockOptions{Wait: -1}); wire.CodeOf(err) != wire.DeadlineExceeded {
		t.Errorf("a third: %v", err)
	}
	must(t, two.Release(t.Context()))
}

// Whoever deletes the entry of a lock takes it from its holder, who hears of it
// long before the next renewal.
func TestALockThatIsDeleted(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	k := r.lock(r.f, "k", fairlead.LockOptions{TTL: time.Hour})
	eventually(t, "the holder hears that its lock is deleted", func() bool { // it begins to listen after a while
		msg := nats.NewMsg("$KV.fl_locks.v1.k")
		msg.Header["KV-Operation"] = []string{"DEL"}
		must(t, r.other.PublishMsg(msg))
		return k.Context().Err() != nil
	})
	lostCause(t, k.Context())
	err := r.f.WithLock(t.Context(), "j", fairlead.LockOptions{TTL: 300 * time.Millisecond}, func(ctx context.Context) error {
		r.away.Store(true)
		<-ctx.Done()
		return nil
	})
	if !errors.Is(err, fairlead.ErrLockLost) {
		t.Errorf("WithLock returned %v though the lock was lost", err)
	}
}

// Who stops waiting leaves the line; whoever is behind has the lock.
func TestAWaitIsCancelled(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	k := r.lock(r.f, "k", fairlead.LockOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	f := r.worker()
	go func() {
		_, err := f.Lock(ctx, "k", fairlead.LockOptions{Wait: patience})
		failed <- err
	}()
	r.waits("k", 1)
	cancel()
	coded(t, receive(t, failed), wire.Cancelled)
	r.waits("k", 0)
	// A lock is not released by the end of the context that it was acquired with.
	ctx, cancel = context.WithCancel(t.Context())
	j, err := f.Lock(ctx, "j", fairlead.LockOptions{})
	must(t, err)
	cancel()
	receive(t, j.Context().Done())
	if !j.Held() {
		t.Error("the lock is given up though nobody released it")
	}
	must(t, j.Release(ctx))
	must(t, k.Release(t.Context()))
}

// Close gives up what is locked, and ends every wait.
func TestCloseReleasesLocks(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	f := r.worker()
	k := r.lock(f, "k", fairlead.LockOptions{})
	other := r.lock(r.f, "other", fairlead.LockOptions{})
	failed := make(chan error, 1)
	go func() {
		_, err := f.Lock(t.Context(), "other", fairlead.LockOptions{Wait: time.Minute})
		failed <- err
	}()
	r.waits("other", 1)
	f.Close()
	if receive(t, failed) == nil {
		t.Error("a wait had the lock of another")
	}
	if k.Held() || k.Context().Err() == nil {
		t.Error("the lock is held")
	}
	must(t, r.lock(r.f, "k", fairlead.LockOptions{Wait: -1}).Release(t.Context()))
	must(t, other.Release(t.Context()))
	if _, err := f.Lock(t.Context(), "k", fairlead.LockOptions{}); !errors.Is(err, fairlead.ErrClosed) {
		t.Errorf("behind Close: %v", err)
	}
}

// What is done under a lock has it until it has returned: Drain waits for it, and
// ends its context once that takes too long.
func TestDrainWaitsForWhatIsUnderALock(t *testing.T) {
	t.Parallel()
	r := startLocks(t, fairlead.Options{})
	for _, hurried := range []bool{false, true} {
		f := r.worker()
		in, out, returned, drained := make(chan context.Context, 1), make(chan struct{}), make(chan error, 1), make(chan error, 1)
		go func() {
			returned <- f.WithLock(t.Context(), "k", fairlead.LockOptions{TTL: time.Hour}, func(ctx context.Context) error {
				in <- ctx
				<-out
				return nil
			})
		}()
		under := receive(t, in)
		ctx, hurry := context.WithCancel(t.Context())
		go func() { drained <- f.Drain(ctx) }()
		if hurried {
			hurry()
			<-under.Done()
		}
		_, err := r.f.Lock(t.Context(), "k", fairlead.LockOptions{Wait: 200 * time.Millisecond})
		coded(t, err, wire.DeadlineExceeded)
		if len(drained) > 0 || !hurried && under.Err() != nil {
			t.Errorf("Drain has returned: %v; the context has ended with %v", len(drained) > 0, under.Err())
		}
		close(out)
		must(t, receive(t, returned))
		if err := receive(t, drained); errors.Is(err, context.Canceled) != hurried {
			t.Errorf("Drain: %v", err)
		}
		hurry()
		must(t, r.lock(r.f, "k", fairlead.LockOptions{Wait: -1}).Release(t.Context()))
		err = f.WithLock(t.Context(), "k", fairlead.LockOptions{}, func(context.Context) error { return nil })
		if !errors.Is(err, fairlead.ErrClosed) {
			t.Errorf("behind Drain: %v", err)
		}
	}
}

// A grant that is too old when it is heard, and can't be renewed, is given back while
// the caller asks again: only that one is.
func TestAGrantThatIsTooOldIsGivenBack(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	var asked, released []string
	var mu sync.Mutex
	answer := func(subject string, what func(data []byte) any) {
		t.Helper()
		_, err := r.other.Subscribe("fl.svc.tasks.lock."+subject, func(msg *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			if said := what(msg.Data); said != nil {
				data, err := json.Marshal(said)
				must(t, err)
				must(t, msg.Respond(data))
			}
		})
		must(t, err)
	}
	answer("acquire", func(data []byte) any {
		var req wire.LockAcquire
		must(t, json.Unmarshal(data, &req))
		if !slices.Contains(asked, req.ID) {
			asked = append(asked, req.ID)
		}
		grant := wire.LockGrant{Fence: uint64(slices.Index(asked, req.ID)) + 1, Token: req.ID, ExpiresMs: 100}
		if grant.Fence == 1 {
			grant.ExpiresMs = 1
		}
		return grant
	})
	answer("renew", func([]byte) any { return nil })
	given := make(chan bool, 10)
	answer("release", func(data []byte) any {
		var req wire.LockRelease
		must(t, json.Unmarshal(data, &req))
		released = append(released, req.Token)
		given <- true
		return struct{}{}
	})
	must(t, r.other.FlushTimeout(patience))
	_, err := r.f.Lock(t.Context(), "k", fairlead.LockOptions{TTL: 100 * time.Millisecond, Wait: patience})
	must(t, err)
	receive(t, given)
	mu.Lock()
	defer mu.Unlock()
	if len(asked) < 2 || slices.Contains(released, asked[len(asked)-1]) || !slices.Contains(released, asked[0]) {
		t.Errorf("asked as %v, released %v: not the first, or the last", asked, released)
	}
}

// Without the service there is no lock.
func TestNobodyKeepsLocks(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	_, err := r.f.Lock(t.Context(), "k", fairlead.LockOptions{Wait: 300 * time.Millisecond})
	if e := coded(t, err, wire.Unavailable); e.Details["outcome"] != "none" {
		t.Errorf("details %v, want outcome none", e.Details)
	}
	err = r.f.WithLock(t.Context(), "k", fairlead.LockOptions{Wait: -1}, func(context.Context) error {
		t.Error("it ran without the lock")
		return nil
	})
	coded(t, err, wire.Unavailable)
}
