package ratelimit

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// benchmark has many callers consume in a closed loop, of a bucket on file.
func benchmark(b *testing.B, callers int, key func(caller, i int) string) {
	r := inJetStream(b, natsdev.Test(b).ClientURL(), 1)
	k := r.start(b, nil)
	l := limitOf("p", 1_000_000_000, 1, time.Second)
	var caller, denied atomic.Int64
	b.SetParallelism(callers / 2)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		me := int(caller.Add(1))
		for i := 0; pb.Next(); i++ {
			out, err := k.consume(context.Background(), key(me, i), []take{{l, 1}}, 1, false)
			if err != nil || out.granted != 1 {
				denied.Add(1)
			}
		}
	})
	b.StopTimer()
	if n := denied.Load(); n > 0 {
		b.Errorf("%d were not given", n)
	}
	m := k.metrics
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
	b.ReportMetric(float64(m.decided.Load())/float64(max(m.writes.Load(), 1)), "decisions/write")
	b.ReportMetric(float64(m.writes.Load())/b.Elapsed().Seconds(), "writes/s")
	b.ReportMetric(float64(m.conflicts.Load()), "conflicts")
}

func BenchmarkHotKey(b *testing.B) {
	for _, callers := range []int{2, 16, 256, 1024} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			benchmark(b, callers, func(int, int) string { return "hot" })
		})
	}
}

func BenchmarkManyKeys(b *testing.B) {
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprint("user", i)
	}
	for _, callers := range []int{16, 256, 1024} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			benchmark(b, callers, func(caller, i int) string { return keys[(caller*7919+i)%len(keys)] })
		})
	}
}

// BenchmarkDenials is of a key that has nothing left: nothing is written.
func BenchmarkDenials(b *testing.B) {
	r := inJetStream(b, natsdev.Test(b).ClientURL(), 1)
	k := r.start(b, nil)
	l := slow("p", 1)
	take1(b, k, "used up", l, 1)
	b.SetParallelism(128)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if out, err := k.consume(context.Background(), "used up", []take{{l, 1}}, 1, false); err != nil || out.granted > 0 {
				b.Error(out, err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}
