package runner

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// BenchmarkEndToEnd is a task from the request to its committed result, of 1024
// callers, with a store in memory: what is left is the runner, NATS, and a worker
// that answers at once, all in this process.
func BenchmarkEndToEnd(b *testing.B) {
	for _, bench := range []struct {
		name  string
		await bool
	}{{"enqueue", false}, {"run", true}} {
		b.Run(bench.name, func(b *testing.B) {
			r := newRig(b)
			p := r.replica(func(c *Config) { c.OwnerLease = 15 * time.Second })
			r.worker("bench", func(msg *nats.Msg) { _ = msg.Respond([]byte(`{"ok":true}`)) })
			p.Hello(wire.TaskHello{Names: []string{"bench"}, Worker: "w", Slots: 4096})
			ctx := context.Background()
			var committed atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(512) // of two processors
			b.ResetTimer()
			began := processorTime(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					got, err := p.Enqueue(ctx, store.New{ID: wire.NewTaskID(time.Now()), Name: "bench", Input: []byte(`{"n":1}`)})
					if err != nil {
						b.Error(err)
						return
					}
					if !bench.await {
						continue
					}
					if task, err := p.Await(ctx, got.ID); err != nil || task.State != wire.TaskCommitted {
						b.Error(task, err)
						return
					}
					committed.Add(1)
				}
			})
			eventually(b, "all to be committed", func() bool { return p.metrics.committed.Load() >= int64(b.N) })
			b.StopTimer()
			b.ReportMetric(float64((processorTime(b)-began).Nanoseconds())/1e3/float64(b.N), "cpu-µs/task") // whatever else the machine does
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
			if written, writes := p.ends.figures(); writes > 0 {
				b.ReportMetric(float64(written)/float64(writes), "rows/write")
			}
		})
	}
}

// processorTime is what this process has used of its processors.
func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
