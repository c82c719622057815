package outbox

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"runtime"
	"testing"
	"time"
)

var benchFrame = []byte(`{"topic":"chat.lobby","event":"message","data":"` + string(bytes.Repeat([]byte("x"), 128)) + `"}`)

// BenchmarkDeliver queues to connections whose flushers don't run: the cost to
// whoever delivers.
func BenchmarkDeliver(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("connections=%d", n), func(b *testing.B) {
			o := New(Config{Flushers: 1, QueueBytes: 1 << 30})
			f := o.flushers[0]
			conns := make([]*Conn, n)
			for i := range conns {
				conns[i] = &Conn{o: o, fl: f, slot: -1, subprotocol: "fairlead.v1"}
			}
			src := &Source{}
			var ch chunk
			round := func() { // what a flusher does, without the system call
				f.round, f.dirty = f.dirty, f.round[:0]
				for _, c := range f.round {
					c.mu.Lock()
					c.queued = false
					for c.take(&ch) {
						ch.build(true)
					}
					c.mu.Unlock()
				}
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				conns[i%n].Deliver(benchFrame, src)
				if i++; i%(16*n) == 0 {
					round()
				}
			}
		})
	}
}

// BenchmarkDeliverAt is BenchmarkDeliver for a replayed topic: at peers that keep
// up, and at one that doesn't, where all but the first few drop a message.
func BenchmarkDeliverAt(b *testing.B) {
	for _, policy := range []Policy{Disconnect, DropOldest, Conflate} {
		for _, slow := range []bool{false, true} {
			if slow && policy == Disconnect {
				continue
			}
			b.Run(fmt.Sprintf("%v/slow=%v", policy, slow), func(b *testing.B) {
				o := New(Config{Flushers: 1})
				c := &Conn{o: o, fl: o.flushers[0], slot: -1, queued: true, subprotocol: "fairlead.v1"}
				c.blocked = slow
				c.progress.Store(math.MinInt64 / 2)
				src := newReplayed("chat.lobby", policy, true).Source
				var ch chunk
				marks := make([]Mark, 1<<16)
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					at := &marks[i%len(marks)]
					*at = Mark{int64(i + 1), int64(i), int64(i)}
					c.DeliverAt(benchFrame, src, at)
					if i++; !slow && i%16 == 0 {
						for c.take(&ch) {
							ch.build(true)
						}
					}
				}
			})
		}
	}
}

// BenchmarkFanOut delivers each message to n peers that read and discard, with
// at most window messages per peer outstanding; the time is per delivered message.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{1, 100, 500} {
		for _, window := range []int{1, 16} {
			b.Run(fmt.Sprintf("peers=%d/window=%d", n, window), func(b *testing.B) {
				srv := serve(b, Config{}, setup{})
				var sessions []*session
				for range n {
					p, ses := srv.dial("fairlead.v1")
					_ = p.SetDeadline(time.Time{})
					go func() { _, _ = io.Copy(io.Discard, p.br) }()
					sessions = append(sessions, ses)
				}
				src := &Source{}
				b.ReportAllocs()
				b.ResetTimer()
				sent := uint64(0)
				for range b.N/n + 1 {
					for _, ses := range sessions {
						ses.Deliver(benchFrame, src)
					}
					sent += uint64(n)
					for sent-srv.out() >= uint64(window*n) {
						runtime.Gosched()
					}
				}
				for srv.out() < sent {
					runtime.Gosched()
				}
				b.StopTimer()
				s := srv.Stats()
				b.ReportMetric(float64(s.MessagesOut)/float64(s.FramesOut), "msgs/frame")
			})
		}
	}
}

// BenchmarkRead reads small messages from one peer.
func BenchmarkRead(b *testing.B) {
	o := New(Config{})
	c := &Conn{o: o, fl: o.flushers[0], slot: -1}
	msg := bytes.NewReader(nil)
	b.ReportAllocs()
	for b.Loop() {
		msg.Reset(benchFrame)
		if _, err := c.readMessage(msg); err != nil {
			b.Fatal(err)
		}
		c.giveBack()
	}
}

// out is the number of messages written, cheaply.
func (s *server) out() (n uint64) {
	for _, f := range s.flushers {
		n += f.n.messagesOut.Load()
	}
	return n
}

// BenchmarkIdle reports what an idle connection costs, with its reading
// goroutine and the client's file descriptor (about 0.5 kB of it).
func BenchmarkIdle(b *testing.B) {
	const n = 2000
	srv := serve(b, Config{}, setup{quiet: true})
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		goroutines := runtime.NumGoroutine()
		for range n {
			srv.dial("fairlead.v1")
		}
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "heap-B/conn")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/n, "stack-B/conn")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/conn")
	}
}
