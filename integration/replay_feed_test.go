package integration

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// feeder stores the numbers from 0 up on a topic, one behind the other, as a
// worker does that never gives up: each under an id, again until JetStream has
// acknowledged it.
type feeder struct {
	t      *testing.T
	topic  string
	stored atomic.Int64 // numbers that were acknowledged
	quit   chan struct{}
	done   chan struct{}
	once   sync.Once
}

// feed starts a feeder that stores about so many numbers per second.
func feed(t *testing.T, natsURL, topic string, perSecond int) *feeder {
	t.Helper()
	js, err := jetstream.New(connect(t, natsURL))
	must(t, err)
	f := &feeder{t: t, topic: topic, quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		pace := time.NewTicker(time.Second / time.Duration(perSecond))
		defer pace.Stop()
		for {
			select {
			case <-f.quit:
				return
			case <-pace.C:
			}
			f.put(js)
		}
	}()
	t.Cleanup(func() { f.stop() })
	return f
}

// put stores the next number, unless the feeder is to end while nobody takes it.
func (f *feeder) put(js jetstream.JetStream) {
	n := strconv.FormatInt(f.stored.Load(), 10)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := js.Publish(ctx, "fl.topic."+f.topic, []byte(n), jetstream.WithMsgID(f.topic+"|"+n), jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil {
			f.stored.Add(1)
			return
		}
		select {
		case <-f.quit:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// more waits until n more numbers are stored.
func (f *feeder) more(n int) {
	f.t.Helper()
	want := f.stored.Load() + int64(n)
	eventually(f.t, fmt.Sprintf("%d numbers are stored on %s", want, f.topic), func() (any, bool) {
		got := f.stored.Load()
		return got, got >= want
	})
}

// stop ends the feeder and returns how many numbers are stored.
func (f *feeder) stop() int {
	f.once.Do(func() { close(f.quit) })
	<-f.done
	return int(f.stored.Load())
}

// follower reads a subscription whose messages are numbers, and notes whatever
// does not continue the message before.
type follower struct {
	t    *testing.T
	name string

	mu     sync.Mutex
	at     wire.Position
	got    []int
	cuts   []int // how many numbers had come each time that some were said to be gone
	broken []string
}

// behind subscribes to a topic behind a position and follows it.
func behind(t *testing.T, name string, c *client.Client, topic string, after wire.Position) *follower {
	t.Helper()
	return following(t, name, resume(t, c, topic, after))
}

// following follows a subscription from its position on.
func following(t *testing.T, name string, sub *client.Subscription) *follower {
	t.Helper()
	p := sub.Position()
	f := &follower{t: t, name: name, at: wire.Position{Seq: p.Seq, Ts: max(p.Ts, 0)}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := sub.Next(ctx)
			if err != nil {
				if ctx.Err() == nil {
					f.say("ended: %v", err)
				}
				return
			}
			f.take(m)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

func (f *follower) say(format string, v ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = append(f.broken, fmt.Sprintf(format, v...))
}

func (f *follower) take(m client.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.Control == "truncated" {
		f.cuts, f.at = append(f.cuts, len(f.got)), wire.Position{Seq: -1}
		return
	}
	if m.Seq == 0 { // of a topic that is not replayed
		f.at = wire.Position{Seq: -1}
	} else {
		if f.at.Seq >= 0 && (m.Prev > f.at.Seq || m.Seq <= f.at.Seq) {
			f.broken = append(f.broken, fmt.Sprintf("seq %d (prev %d) does not continue %d, behind %d numbers", m.Seq, m.Prev, f.at.Seq, len(f.got)))
		}
		f.at = wire.Position{Seq: m.Seq, Ts: m.Ts}
	}
	if m.Control != "" {
		return
	}
	n, err := strconv.Atoi(string(m.Data))
	if err != nil {
		f.broken = append(f.broken, "no number: "+string(m.Data))
		return
	}
	f.got = append(f.got, n)
}

// seen is what a follower has so far.
type seen struct {
	got    []int
	cuts   []int
	broken []string
	at     wire.Position
}

func (f *follower) seen() seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return seen{slices.Clone(f.got), slices.Clone(f.cuts), slices.Clone(f.broken), f.at}
}

// until waits until the follower has a number, and returns what it has then.
func (f *follower) until(n int) seen {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%s has number %d", f.name, n), func() (any, bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return fmt.Sprint(len(f.got), " numbers, ", f.cuts, f.broken), len(f.got) > 0 && f.got[len(f.got)-1] >= n
	})
	return f.seen()
}

// whole waits for the numbers of [from, to) and checks that each came once, in
// order, with none said to be gone.
func (f *follower) whole(from, to int) {
	f.t.Helper()
	s := f.until(to - 1)
	if len(s.broken) > 0 || len(s.cuts) > 0 {
		f.t.Errorf("%s: cut at %v, broken: %v", f.name, s.cuts, s.broken)
	}
	ascending(f.t, f.name, s.got, from, to)
}

// ascending checks that got is from, from+1, … to-1.
func ascending(t *testing.T, name string, got []int, from, to int) {
	t.Helper()
	for i, n := range got {
		if n != from+i {
			t.Errorf("%s: number %d came in place of %d (%d of %d)", name, n, from+i, len(got), to-from)
			return
		}
	}
	if len(got) != to-from {
		t.Errorf("%s: got %d numbers, want %d", name, len(got), to-from)
	}
}
