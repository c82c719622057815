package lock

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func benchReplicas(b *testing.B, n int) []*Locks {
	url := natsdev.Test(b).ClientURL()
	var all []*Locks
	for range n {
		nc, err := bus.Connect(b.Context(), bus.Config{URL: url}, bus.Hooks{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(nc.Close)
		l, err := New(Config{NATS: nc, Namespace: wire.DefaultNamespace})
		if err != nil {
			b.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- l.Run(b.Context()) }()
		b.Cleanup(func() { <-done })
		for l.Ready() != nil {
			if err := clock.Sleep(b.Context(), time.Millisecond); err != nil {
				b.Fatal(err)
			}
		}
		all = append(all, l)
	}
	return all
}

// A lock that nobody else wants: acquired and released.
func BenchmarkUncontended(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprint(clients, " at once"), func(b *testing.B) {
			l := benchReplicas(b, 1)[0]
			b.ReportAllocs()
			b.ResetTimer()
			each(b, clients, func(i, n int) {
				key := fmt.Sprint("k", i)
				g, err := l.Acquire(b.Context(), wire.LockAcquire{Key: key, TTL: "30s"})
				if err == nil {
					_, err = l.Release(b.Context(), wire.LockRelease{Key: key, Fence: g.Fence, Token: g.Token})
				}
				if err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// A lock that 16 want, over replicas: from one who releases it to the next.
func BenchmarkContended(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		b.Run(fmt.Sprint(replicas, " replicas"), func(b *testing.B) {
			all := benchReplicas(b, replicas)
			b.ResetTimer()
			each(b, 16, func(i, n int) {
				l := all[i%replicas]
				g, err := l.Acquire(b.Context(), wire.LockAcquire{Key: "k", TTL: "30s", Wait: "1m"})
				if err == nil {
					_, err = l.Release(b.Context(), wire.LockRelease{Key: "k", Fence: g.Fence, Token: g.Token})
				}
				if err != nil {
					b.Error(err)
				}
			})
		})
	}
}

func each(b *testing.B, clients int, do func(client, n int)) {
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			for n := i; n < b.N; n += clients {
				do(i, n)
			}
		})
	}
	all.Wait()
}
