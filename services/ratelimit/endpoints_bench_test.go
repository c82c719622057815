package ratelimit

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
)

// One key that everybody wants, a request for each take.
func BenchmarkConsumeHotKey(b *testing.B) {
	r := startRig(b, 1)
	const callers, conns = 256, 4
	var ncs [conns]*nats.Conn
	for i := range ncs {
		var err error
		if ncs[i], err = bus.Connect(b.Context(), bus.Config{URL: r.server.ClientURL()}, bus.Hooks{}); err != nil {
			b.Fatal(err)
		}
		defer ncs[i].Close()
	}
	subject, body := "fl.svc.ratelimit.consume."+r.replicas[0].id, []byte(`{"policy":"large","key":"hot"}`)
	b.ReportAllocs()
	b.SetParallelism(callers / 2)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := ncs[i%conns].Request(subject, body, rigPatience); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "takes/s")
	b.ReportMetric(float64(r.replicas[0].metrics.decided.Load())/float64(max(r.replicas[0].metrics.writes.Load(), 1)), "takes/write")
}
