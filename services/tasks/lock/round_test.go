package lock

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// gated is a store that holds one write up, once it is armed.
type gated struct {
	Store
	armed       atomic.Bool
	asked, pass chan struct{}
}

func (g *gated) Put(ctx context.Context, w kv.Write) (uint64, error) {
	if strings.HasSuffix(w.Key, ".k") && g.armed.CompareAndSwap(true, false) {
		close(g.asked)
		<-g.pass
	}
	return g.Store.Put(ctx, w)
}

// queued waits until so many requests wait for whoever decides on the only lock.
func (l *Locks) queued(t *testing.T, n int) {
	t.Helper()
	eventually(t, "the requests wait together", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for key, c := range l.cells {
			if strings.HasSuffix(key, ".k") {
				c.mu.Lock()
				defer c.mu.Unlock()
				asked := 0
				for _, j := range c.queue {
					if j.action != keeping {
						asked++
					}
				}
				return asked == n
			}
		}
		return false
	})
}

// What is decided together is answered as if it had come one after the other.
func TestARenewalBesideTheRelease(t *testing.T) {
	t.Parallel()
	for name, others := range map[string]bool{"alone": false, "with another in line": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &gated{Store: NewMemory(time.Now), asked: make(chan struct{}), pass: make(chan struct{})}
			l := startReplica(t, Config{Store: store})
			a := acquire(t, l, wire.LockAcquire{Key: "k", TTL: "30s", ID: "a"})
			var b <-chan answered
			if others {
				b = later(t.Context(), l, wire.LockAcquire{Key: "k", TTL: "30s", ID: "b", Wait: "30s"})
				eventually(t, "it is in line", func() bool { return waiters(t, l, "k") == 1 })
			}
			renew := func() <-chan answered {
				got := make(chan answered, 1)
				go func() {
					g, err := l.Renew(t.Context(), wire.LockRenew{LockRelease: releaseOf("k", a), TTL: "30s"})
					got <- answered{g, err}
				}()
				return got
			}
			store.armed.Store(true)
			inHand := renew()
			receive(t, store.asked)
			again := later(t.Context(), l, wire.LockAcquire{Key: "k", TTL: "30s", ID: "a"})
			l.queued(t, 1)
			late := renew()
			l.queued(t, 2)
			released := make(chan error, 1)
			go func() {
				_, err := l.Release(t.Context(), releaseOf("k", a))
				released <- err
			}()
			l.queued(t, 3)
			close(store.pass)
			if got := receive(t, inHand); got.err != nil || got.Fence != a.Fence {
				t.Errorf("the renewal before: fence %d, %v, want %d", got.Fence, got.err, a.Fence)
			}
			must(t, receive(t, released))
			coded(t, receive(t, late).err, wire.FailedPrecondition, "")
			coded(t, receive(t, again).err, wire.Aborted, "")
			if others {
				got := receive(t, b)
				must(t, got.err)
				if got.Fence <= a.Fence {
					t.Errorf("the next one has fence %d, want more than %d", got.Fence, a.Fence)
				}
			}
		})
	}
}
