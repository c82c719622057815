package outbox

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"
)

// A thousand values of a key, at a peer that takes nothing: it is one message
// that waits, at the place of the first.
func TestLatestOfAKeyStandsWhereTheFirstStood(t *testing.T) {
	for _, proto := range []string{"fairlead.v1", ""} {
		for name, s := range map[string]setup{"raw": {}, "wrapped": {wrap: true}} {
			t.Run(fmt.Sprintf("%s/%q", name, proto), func(t *testing.T) {
				srv := serve(t, Config{QueueBytes: 1000}, s)
				p, ses := srv.dial(proto)
				plug := ses.stall(t)
				src := &Source{}
				ses.Send([]byte(`"before"`))
				for i := range 1000 {
					ses.DeliverLatest(sized(fmt.Sprint("a", i), 100), src, "a")
					ses.DeliverLatest(sized(fmt.Sprint("b", i), 100), nil, "b")
					if i == 500 {
						ses.Send([]byte(`"between"`))
						ses.DeliverLatest(sized("c0", 100), nil, "c")
					}
				}
				if got := ses.Stats(); got.Queued > 330 || got.Coalesced != 2*999 || src.Dropped() != 0 {
					t.Errorf("%d bytes queued, %d coalesced, %d dropped", got.Queued, got.Coalesced, src.Dropped())
				}
				p.unplug(plug)
				all, err := p.messages(5)
				if got, want := names(all), []string{"before", "a999", "b999", "between", "c0"}; err != nil || !slices.Equal(got, want) {
					t.Errorf("got %v (%v), want %v", got, err, want)
				}
				await(t, "idle", ses.Idle)
				if got := srv.Stats(); got.Coalesced != 2*999 || got.DroppedDisconnect+got.DroppedOldest+got.Conflated != 0 {
					t.Errorf("in all: %+v", got)
				}
			})
		}
	}
}

// The same load without keys is what closes a connection.
func TestTheSameWithoutKeysDisconnects(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 1000}, setup{})
	p, ses := srv.dial("")
	plug := ses.stall(t)
	for i := range 1000 {
		ses.DeliverLatest(sized(fmt.Sprint("a", i), 100), nil, "")
	}
	p.unplug(plug)
	if got, want := p.must(8).String(), `close 1013 "slow consumer"`; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

// A full queue has no place for a new key: the policy decides.
func TestAFullQueueTakesNoNewKey(t *testing.T) {
	for _, tc := range []struct {
		policy Policy
		want   []string // nil: closed
	}{
		{Disconnect, nil},
		{Conflate, nil},
		{DropOldest, []string{"k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9", "k10", "k11"}},
	} {
		t.Run(tc.policy.String(), func(t *testing.T) {
			srv := serve(t, Config{QueueBytes: 1000}, setup{})
			p, ses := srv.dial("")
			plug := ses.stall(t)
			src := &Source{Policy: tc.policy}
			for i := range 12 {
				ses.DeliverLatest(sized(fmt.Sprint("k", i), 100), src, fmt.Sprint(i))
			}
			p.unplug(plug)
			if tc.want == nil {
				if got, want := p.must(8).String(), `close 1013 "slow consumer"`; got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
				return
			}
			all, err := p.messages(len(tc.want))
			if got := names(all); err != nil || !slices.Equal(got, tc.want) || src.Dropped() != 2 {
				t.Errorf("got %v (%v), %d dropped, want %v", got, err, src.Dropped(), tc.want)
			}
		})
	}
}

// stalledQueue is a connection whose queue only its test empties.
func stalledQueue(bytes int) *Conn {
	o := New(Config{Flushers: 1, QueueBytes: bytes})
	c := &Conn{o: o, fl: o.flushers[0], slot: -1, queued: true, subprotocol: "fairlead.v1"}
	c.progress.Store(math.MinInt64 / 2)
	return c
}

// Keys that come and go leave nothing behind, although the queue is never empty.
func TestRotatingKeysLeaveNothingBehind(t *testing.T) {
	const waiting, rounds = 100, 300_000
	c := stalledQueue(1 << 20)
	frame := sized("", 20)
	for i := range waiting {
		c.DeliverLatest(frame, nil, fmt.Sprint("key", i))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range rounds {
		c.mu.Lock()
		c.q.pop()
		c.mu.Unlock()
		c.DeliverLatest(frame, nil, fmt.Sprint("key", waiting+i))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := len(c.q.slots); got != waiting {
		t.Errorf("%d slots for %d messages", got, waiting)
	}
	if got := cap(c.q.items); got > 8*waiting {
		t.Errorf("the slice grew to %d for %d messages", got, waiting)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 256<<10 {
		t.Errorf("grew by %d bytes in %d rounds", grown, rounds)
	}
	runtime.KeepAlive(c)
}

// A queue that had many keys is an ordinary one once it is empty.
func TestManyKeysAreForgotten(t *testing.T) {
	c := stalledQueue(10 << 20)
	for i := range 4 * keepSlots {
		c.DeliverLatest(sized("", 20), nil, fmt.Sprint("key", i))
	}
	q := c.q
	var ch chunk
	for c.take(&ch) {
		ch.build(true)
	}
	if q.slots != nil || slices.ContainsFunc(q.keys[:cap(q.keys)], func(key string) bool { return key != "" }) {
		t.Errorf("%d slots and some of %d keys are left", len(q.slots), cap(q.keys))
	}
}

// Queueing costs by the size of an item.
func TestItemStaysSmall(t *testing.T) {
	if got, want := unsafe.Sizeof(item{}), 4*unsafe.Sizeof(uintptr(0)); got != want {
		t.Errorf("an item has %d bytes, want %d", got, want)
	}
}

// Goroutines that each own some keys, others that send without, a peer that lags
// behind again and again: per key and per sender it reads upwards, each sender's
// messages without key all, and of each key the last.
func TestLatestFromAllSides(t *testing.T) {
	for _, tc := range []struct {
		proto string
		setup setup
	}{{"fairlead.v1", setup{}}, {"", setup{}}, {"fairlead.v1", setup{wrap: true}}} {
		t.Run(fmt.Sprintf("%q wrapped %v", tc.proto, tc.setup.wrap), func(t *testing.T) {
			const senders, each = 4, 2000
			srv := serve(t, Config{QueueBytes: 1 << 20}, tc.setup)
			p, ses := srv.dial(tc.proto)
			plug := ses.stall(t)
			var all sync.WaitGroup
			for s := range senders {
				all.Go(func() {
					src := &Source{Policy: Policy(s % 2 * 2)}
					for i := range each {
						for key := range 3 {
							ses.DeliverLatest(fmt.Appendf(nil, `"k %d%d %d %s"`, s, key, i, strings.Repeat("x", 500)), src, fmt.Sprintf("%d%d", s, key))
						}
						if i%50 == 0 {
							ses.Send(fmt.Appendf(nil, `"s %d %d"`, s, i))
						}
					}
				})
			}
			go func() {
				all.Wait()
				ses.Send([]byte(`"end 0 0"`))
			}()
			p.unplug(plug)
			last, plain := map[string]int{}, map[string]int{}
			for done := false; !done; {
				messages, err := p.messages(1)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range messages {
					var kind, name string
					var n int
					if _, err := fmt.Sscanf(strings.Trim(m, `"`), "%s %s %d", &kind, &name, &n); err != nil {
						t.Fatalf("%.40s: %v", m, err)
					}
					switch kind {
					case "k":
						if n < last[name] {
							t.Fatalf("key %s: %d after %d", name, n, last[name])
						}
						last[name] = n
					case "s":
						if n != 50*plain[name] {
							t.Fatalf("sender %s: %d, want %d", name, n, 50*plain[name])
						}
						plain[name]++
					default:
						done = true
					}
				}
			}
			for s := range senders {
				if got, want := plain[fmt.Sprint(s)], each/50; got != want {
					t.Errorf("sender %d: %d messages, want %d", s, got, want)
				}
				for key := range 3 {
					if got, want := last[fmt.Sprintf("%d%d", s, key)], each-1; got != want {
						t.Errorf("sender %d, key %d: the last was %d, want %d", s, key, got, want)
					}
				}
			}
			if srv.Stats().Coalesced == 0 {
				t.Error("nothing was coalesced")
			}
		})
	}
}

// BenchmarkDeliverLatest replaces one of some keys, or rotates through many at a
// peer that keeps up.
func BenchmarkDeliverLatest(b *testing.B) {
	for _, keys := range []int{1, 16, 10_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			c := stalledQueue(64 << 20)
			names := make([]string, keys)
			for i := range names {
				names[i] = fmt.Sprint("key", i)
			}
			var ch chunk
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				c.DeliverLatest(benchFrame, nil, names[i%keys])
				if i++; i%64 == 0 {
					for c.take(&ch) {
						ch.build(true)
					}
				}
			}
		})
	}
}

// A value that comes behind a fence does not take the place of one ahead of it,
// and what comes after takes its place as ever.
func TestNothingPassesAFence(t *testing.T) {
	c := stalledQueue(10_000)
	c.Fence() // of an empty queue
	c.DeliverLatest([]byte(`"a1"`), nil, "a")
	c.DeliverLatest([]byte(`"b1"`), nil, "b")
	c.Send([]byte(`"answer"`))
	c.Fence()
	for _, v := range []string{"a2", "a3"} {
		c.DeliverLatest([]byte(`"`+v+`"`), nil, "a")
	}
	c.Fence()
	c.DeliverLatest([]byte(`"a4"`), nil, "a")
	var got []string
	for c.q.live > 0 {
		got = append(got, string(c.q.pop().frame))
	}
	if want := []string{`"a1"`, `"b1"`, `"answer"`, `"a3"`, `"a4"`}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if len(c.q.slots) != 0 {
		t.Errorf("%d keys of an empty queue", len(c.q.slots))
	}
}
