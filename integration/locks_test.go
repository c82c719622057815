package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// startLockTasks starts replicas of the tasks service whose Postgres is away, and
// waits until all of them keep locks, which need none.
func startLockTasks(t *testing.T, replicas int) *taskStack {
	t.Helper()
	s := bareTasksOn(t, natsdev.Test(t).ClientURL(), "postgres://fairlead@127.0.0.1:"+freePort(t)+"/none")
	for range replicas {
		s.launch()
	}
	s.keepLocks(replicas)
	return s
}

func (s *taskStack) keepLocks(replicas int) {
	s.t.Helper()
	eventually(s.t, "all replicas are there", func() (any, bool) {
		n := s.ping()
		return n, n == replicas
	})
	eventually(s.t, "locks are kept", func() (any, bool) {
		for range 4 * replicas {
			if err := s.raw("lock.get", `{"key":"none"}`, nil); err != nil {
				return err, false
			}
		}
		return nil, true
	})
}

// lockRefused fails the test unless an endpoint refuses a request with a code.
func (s *taskStack) lockRefused(endpoint, body string, code wire.Code) *wire.Error {
	s.t.Helper()
	err := s.raw(endpoint, body, nil)
	e := wire.AsErrorOrNil(err)
	if e == nil || e.Code != code {
		s.t.Fatalf("%s %s: got %v, want %s", endpoint, body, err, code)
	}
	return e
}

// holderOf is what a renewal or release of a grant says.
func holderOf(key string, g wire.LockGrant) string {
	return fmt.Sprintf(`"key":%q,"fence":%d,"token":%q`, key, g.Fence, g.Token)
}

// locker is one more worker on a connection of its own.
func (s *taskStack) locker(url string) *fairlead.Fairlead {
	s.t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	must(s.t, err)
	s.t.Cleanup(nc.Close)
	f := fairlead.New(nc, fairlead.Options{})
	s.t.Cleanup(f.Close)
	return f
}

// lockWaiters waits until so many stand in line for a lock.
func (s *taskStack) lockWaiters(key string, n int) {
	s.t.Helper()
	eventually(s.t, "they stand in line", func() (any, bool) {
		got := askTasks[wire.LockState](s, "lock.get", fmt.Sprintf(`{"key":%q}`, key))
		return got, got.Waiters == n
	})
}

// What a worker in any language sees of a lock, with plain requests.
func TestLocks(t *testing.T) {
	t.Parallel()
	s := anyLocks(t, 2)
	report := unique("report")
	one := askTasks[wire.LockGrant](s, "lock.acquire", `{"key":"`+report+`","ttl":"30s"}`)
	if one.Fence == 0 || one.Token == "" || one.ExpiresMs <= 0 || one.ExpiresMs > 30_000 {
		t.Errorf("got the grant %+v", one)
	}
	if e := s.lockRefused("lock.acquire", `{"key":"`+report+`","ttl":"30s","wait":"50ms"}`, wire.DeadlineExceeded); e.Details["outcome"] != "none" {
		t.Errorf("the wait that is over has the details %v", e.Details)
	}
	if got := askTasks[wire.LockState](s, "lock.get", `{"key":"`+report+`"}`); !got.Held || got.Fence != one.Fence || got.Waiters != 0 {
		t.Errorf("got the state %+v", got)
	}
	if got := askTasks[wire.LockGrant](s, "lock.renew", `{`+holderOf(report, one)+`,"ttl":"1m"}`); got.Fence != one.Fence || got.ExpiresMs < 40_000 {
		t.Errorf("renewed to %+v", got)
	}
	next := make(chan wire.LockGrant, 1)
	go func() {
		var g wire.LockGrant
		if err := s.raw("lock.acquire", `{"key":"`+report+`","ttl":"300ms","wait":"30s"}`, &g); err != nil {
			t.Errorf("the second: %v", err)
		}
		next <- g
	}()
	s.lockWaiters(report, 1)
	askTasks[struct{}](s, "lock.release", `{`+holderOf(report, one)+`}`)
	two := receive(t, next)
	if two.Fence <= one.Fence {
		t.Errorf("fence %d behind %d", two.Fence, one.Fence)
	}
	// The second is paused, and loses the lock; what it does then hurts nobody.
	three := askTasks[wire.LockGrant](s, "lock.acquire", `{"key":"`+report+`","ttl":"30s","wait":"30s"}`)
	if three.Fence <= two.Fence {
		t.Errorf("fence %d behind %d", three.Fence, two.Fence)
	}
	s.lockRefused("lock.renew", `{`+holderOf(report, two)+`,"ttl":"30s"}`, wire.FailedPrecondition)
	s.lockRefused("lock.release", `{`+holderOf(report, two)+`}`, wire.FailedPrecondition)
	if got := askTasks[wire.LockState](s, "lock.get", `{"key":"`+report+`"}`); got.Fence != three.Fence {
		t.Errorf("got the state %+v, want that of %d", got, three.Fence)
	}
	for body, field := range map[string]string{
		`{}`: "key", `{"key":"k"}`: "ttl", `{"key":"k","ttl":"soon"}`: "ttl", `{"key":"k","ttl":"1s","wait":"1h"}`: "wait", `{"key":"","ttl":"1s"}`: "key",
	} {
		if e := s.lockRefused("lock.acquire", body, wire.InvalidArgument); e.Details["field"] != field {
			t.Errorf("%s: the error names %v, want %s", body, e.Details, field)
		}
	}
	if s.replicas != nil { // the tasks themselves are away, with Postgres
		s.lockRefused("counts", `{}`, wire.Unavailable)
	}
}

// lockTerm is a time in which somebody had a lock, as they saw it.
type lockTerm struct {
	fence    uint64
	from, to time.Time
}

// Replicas are killed, with those who wait in them: everybody gets the lock in
// their turn, never two at a time, and fences only grow.
func TestLocksThoughReplicasAreKilled(t *testing.T) {
	t.Parallel()
	s := startLockTasks(t, 2)
	const workers, kills, least = 6, 2, 60
	var mu sync.Mutex
	var terms []lockTerm
	had := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(terms)
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range workers {
		f := s.locker(s.nats)
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				k, err := f.Lock(t.Context(), "k", fairlead.LockOptions{TTL: 2 * time.Second, Wait: patience})
				if err != nil {
					t.Errorf("lock: %v", err)
					return
				}
				one := lockTerm{fence: k.Fence(), from: time.Now()}
				select {
				case <-time.After(10 * time.Millisecond):
				case <-k.Context().Done():
				}
				one.to = time.Now()
				if k.Held() {
					mu.Lock()
					terms = append(terms, one)
					mu.Unlock()
				}
				_ = k.Release(t.Context()) // it ends by its ttl
			}
		})
	}
	for victim := range kills {
		before := had()
		eventually(t, "they have the lock in turn", func() (any, bool) { n := had(); return n, n >= before+least/(kills+1) })
		s.replicas[victim].kill()
		s.replicas[victim] = s.relaunch()
	}
	eventually(t, "they have the lock in turn", func() (any, bool) { n := had(); return n, n >= least })
	close(stop)
	all.Wait()
	slices.SortFunc(terms, func(a, b lockTerm) int { return a.from.Compare(b.from) })
	for i := 1; i < len(terms); i++ {
		a, b := terms[i-1], terms[i]
		if b.fence <= a.fence || b.from.Before(a.to) {
			t.Errorf("%d had it until %s, %d from %s", a.fence, a.to.Format(time.StampMicro), b.fence, b.from.Format(time.StampMicro))
		}
	}
}

// relaunch starts a replica in place of one that was killed.
func (s *taskStack) relaunch() *process {
	s.t.Helper()
	p := s.launch()
	s.replicas = s.replicas[:len(s.replicas)-1]
	s.keepLocks(2)
	return p
}

// A replica dies with requests in it that have places in line: asked again with
// their ids they have the same places, in whatever order they ask.
func TestAPlaceInLineOutlivesItsReplica(t *testing.T) {
	t.Parallel()
	s := startLockTasks(t, 2)
	wait := func(key, id string) *nats.Subscription {
		inbox := s.nc.NewInbox()
		sub, err := s.nc.SubscribeSync(inbox)
		must(t, err)
		must(t, s.nc.PublishRequest("fl.svc.tasks.lock.acquire", inbox, []byte(`{"key":"`+key+`","ttl":"1m","wait":"1m","id":"`+id+`"}`)))
		return sub
	}
	const keys = 8 // one of the two replicas has some of the second
	key := func(i int) string { return fmt.Sprint("k", i) }
	var first [keys]wire.LockGrant
	for i := range keys {
		first[i] = askTasks[wire.LockGrant](s, "lock.acquire", `{"key":"`+key(i)+`","ttl":"1m"}`)
		wait(key(i), "second")
		s.lockWaiters(key(i), 1)
		wait(key(i), "third")
		s.lockWaiters(key(i), 2)
	}
	s.replicas[0].kill()
	var second, third [keys]*nats.Subscription
	for i := range keys {
		third[i] = wait(key(i), "third")
		second[i] = wait(key(i), "second")
	}
	for i := range keys {
		s.lockWaiters(key(i), 2)
		eventually(t, "the lock is released", func() (any, bool) { // the dead one may still be on the server
			err := s.raw("lock.release", `{`+holderOf(key(i), first[i])+`}`, nil)
			return err, err == nil
		})
		m, err := second[i].NextMsg(patience)
		must(t, err)
		if code := m.Header.Get("Nats-Service-Error-Code"); code != "" {
			t.Errorf("the second of %s: %s %s", key(i), code, m.Data)
		}
		if n, _, err := third[i].Pending(); err != nil || n > 0 {
			t.Errorf("the third of %s has an answer", key(i))
		}
	}
}

// A worker that is cut off from NATS has lost its lock, and its lead, before
// another one has it, and never do two lead.
func TestALeaderIsCutOff(t *testing.T) {
	t.Parallel()
	s := startLockTasks(t, 2)
	way := startLink(t, to(strings.TrimPrefix(s.nats, "nats://")), nil)
	var mu sync.Mutex
	var terms []lockTerm
	began := make(chan string, 100)
	stand := func(f *fairlead.Fairlead, name string) *fairlead.Leader {
		l, err := f.Lead(t.Context(), "sweeper", fairlead.LeaderOptions{TTL: time.Second, Pause: 10 * time.Millisecond, OnError: func(error) {}}, func(ctx context.Context) error {
			one := lockTerm{fence: fairlead.LockFence(ctx), from: time.Now()}
			began <- name
			<-ctx.Done()
			one.to = time.Now()
			mu.Lock()
			defer mu.Unlock()
			terms = append(terms, one)
			return context.Cause(ctx)
		})
		must(t, err)
		return l
	}
	cut := stand(s.locker("nats://"+way.addr()), "cut")
	if got := receive(t, began); got != "cut" {
		t.Fatalf("%s leads", got)
	}
	other := stand(s.locker(s.nats), "other")
	s.lockWaiters("leader:sweeper", 1)
	for range 2 {
		way.cut()
		if got := receive(t, began); got != "other" {
			t.Fatalf("%s leads, though it is cut off", got)
		}
		if cut.IsLeader() {
			t.Error("the one that is cut off leads still")
		}
		way.restore()
		s.lockWaiters("leader:sweeper", 1)
		must(t, other.Stop(t.Context())) // which hands over at once
		if got := receive(t, began); got != "cut" {
			t.Fatalf("%s leads behind a stop", got)
		}
		other = stand(s.locker(s.nats), "other")
		s.lockWaiters("leader:sweeper", 1)
	}
	must(t, cut.Stop(t.Context()))
	must(t, other.Stop(t.Context()))
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(terms, func(a, b lockTerm) int { return cmp.Compare(a.fence, b.fence) })
	for i := 1; i < len(terms); i++ {
		if terms[i].from.Before(terms[i-1].to) {
			t.Errorf("%d led until %s, %d from %s", terms[i-1].fence, terms[i-1].to, terms[i].fence, terms[i].from)
		}
	}
	if len(terms) < 5 {
		t.Errorf("%d terms, want 5", len(terms))
	}
}

// All replicas die while a worker has a lock: it goes on as long as the ttl allows,
// and keeps it where one is back in time.
func TestALockWithoutAnyReplica(t *testing.T) {
	t.Parallel()
	s := startLockTasks(t, 1)
	f := s.locker(s.nats)
	long, err := f.Lock(t.Context(), "long", fairlead.LockOptions{TTL: time.Minute})
	must(t, err)
	short, err := f.Lock(t.Context(), "short", fairlead.LockOptions{TTL: time.Second})
	must(t, err)
	s.replicas[0].kill()
	if _, err := f.Lock(t.Context(), "other", fairlead.LockOptions{Wait: -1}); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("without a replica: %v", err)
	}
	receive(t, short.Context().Done())
	if cause := context.Cause(short.Context()); !errors.Is(cause, fairlead.ErrLockLost) {
		t.Errorf("the short lock ended for %v", cause)
	}
	s.launch()
	s.keepLocks(1)
	if !long.Held() {
		t.Error("the long lock is lost")
	}
	again, err := f.Lock(t.Context(), "short", fairlead.LockOptions{Wait: patience})
	must(t, err)
	if again.Fence() <= short.Fence() {
		t.Errorf("fence %d behind %d", again.Fence(), short.Fence())
	}
	must(t, long.Release(t.Context()))
	must(t, again.Release(t.Context()))
}
