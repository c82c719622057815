package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// step is one thing that happens to a queue.
type step struct {
	what   stepKind
	policy Policy // of send and renew
	key    int    // of renew
	size   int    // of send and renew: bytes; of take: bytes of an array
	behind bool   // the peer takes nothing for now
}

type stepKind uint8

const (
	send  stepKind = iota // a message without a key
	renew                 // one with a key
	take                  // what one write carries leaves the queue
)

var steps = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
	return step{
		what:   rapid.SampledFrom([]stepKind{send, renew, renew, renew, take}).Draw(t, "what"),
		policy: rapid.SampledFrom([]Policy{Disconnect, Disconnect, DropOldest, Conflate}).Draw(t, "policy"),
		key:    rapid.IntRange(0, 5).Draw(t, "key"),
		size:   rapid.IntRange(20, 120).Draw(t, "size"),
		behind: rapid.Bool().Draw(t, "behind"),
	}
}), 0, 120)

// entry is a message in the naive queue that the real one is held against.
type entry struct {
	frame  string
	key    string
	policy Policy
}

// naive is the queue as it is meant to be, without regard to cost.
type naive struct {
	bound     int
	all       []entry
	coalesced uint64
	closed    bool
}

func (q *naive) bytes() (n int) {
	for _, e := range q.all {
		n += len(e.frame)
	}
	return n
}

// shed drops the oldest that may be lost until n more bytes fit.
func (q *naive) shed(n int) bool {
	kept := 0
	for _, e := range q.all {
		if e.policy != DropOldest {
			kept += len(e.frame)
		}
	}
	if kept > 0 && kept+n > q.bound {
		return false
	}
	for len(q.all) > 0 && q.bytes()+n > q.bound {
		i := slices.IndexFunc(q.all, func(e entry) bool { return e.policy == DropOldest })
		if i < 0 {
			return false
		}
		q.all = slices.Delete(q.all, i, i+1)
	}
	return true
}

func (q *naive) put(e entry, behind bool) {
	behind = behind || q.bytes() > q.bound/2
	if e.policy == Conflate && e.key == "" && behind {
		for i, other := range slices.Backward(q.all) {
			if other.policy == Conflate && other.key == "" {
				q.all[i] = e
				q.closed = !q.shed(0)
				return
			}
		}
	}
	if q.shed(len(e.frame)) {
		q.all = append(q.all, e)
	} else if e.policy != DropOldest {
		q.closed = true
	}
}

func (q *naive) renew(e entry, behind bool) {
	of := func(other entry) bool { return other.key == e.key }
	if i := slices.IndexFunc(q.all, of); i >= 0 {
		more := len(e.frame) - len(q.all[i].frame)
		fits := len(q.all) == 1 || q.bytes()+more <= q.bound || q.shed(more)
		if i = slices.IndexFunc(q.all, of); i >= 0 {
			q.coalesced++
			if fits {
				q.all[i] = e
				return
			}
			q.all = slices.Delete(q.all, i, i+1)
		}
	}
	q.put(e, behind)
}

// play runs the steps and returns the first difference to the naive queue.
func play(all []step, latest func(c *Conn, frame []byte, src *Source, key string)) error {
	const bound = 600
	o := New(Config{Flushers: 1, QueueBytes: bound})
	c := &Conn{o: o, fl: o.flushers[0], slot: -1, queued: true, subprotocol: "fairlead.v1"} // the test is the flusher
	c.progress.Store(math.MinInt64 / 2)
	sources := [policies]*Source{{}, {Policy: DropOldest}, {Policy: Conflate}}
	model := &naive{bound: bound}
	for n, s := range all {
		c.blocked = s.behind
		e := entry{frame: fmt.Sprintf(`"%d%s"`, n, strings.Repeat(".", s.size)), policy: s.policy}
		switch s.what {
		case send:
			c.Deliver([]byte(e.frame), sources[s.policy])
			model.put(e, s.behind)
		case renew:
			e.key = fmt.Sprint("key", s.key)
			latest(c, []byte(e.frame), sources[s.policy], e.key)
			model.renew(e, s.behind)
		case take:
			var ch chunk
			c.o.cfg.FrameBytes = 4 * s.size
			if c.take(&ch) {
				for _, it := range ch.items[ch.from:] {
					if it.frame == nil {
						continue
					}
					if len(model.all) == 0 || model.all[0].frame != string(it.frame) {
						return fmt.Errorf("step %d: took %.20s, want the first of %.20v", n, it.frame, model.all)
					}
					model.all = model.all[1:]
				}
			}
		}
		if c.closing != model.closed {
			return fmt.Errorf("step %d: closed %v, want %v", n, c.closing, model.closed)
		}
		if model.closed {
			return nil
		}
		if err := same(c, model); err != nil {
			return fmt.Errorf("step %d: %w", n, err)
		}
	}
	return nil
}

// same compares what waits in c with what should.
func same(c *Conn, model *naive) error {
	var got, want []string
	if c.q != nil {
		for _, it := range c.q.items[c.q.head:] {
			if it.frame != nil {
				got = append(got, string(it.frame))
			}
		}
		if err := errors.Join(sound(c.q, math.MaxInt), exact(c.q)); err != nil {
			return err
		}
	}
	for _, e := range model.all {
		want = append(want, e.frame)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("queued %.20q, want %.20q", got, want)
	}
	if got := c.Stats().Coalesced; got != model.coalesced {
		return fmt.Errorf("counts %d coalesced, want %d", got, model.coalesced)
	}
	return nil
}

// exact reports where the slots are not those of the queued frames.
func exact(q *queue) error {
	keys := 0
	for i, key := range q.keys {
		if key == "" {
			continue
		}
		keys++
		if at, ok := q.slots[key]; !ok || at != i || i < q.head || q.items[i].frame == nil {
			return fmt.Errorf("frame %d has the key %s, whose slot is %d", i, key, at)
		}
	}
	if keys != len(q.slots) || len(q.keys) > len(q.items) {
		return fmt.Errorf("%d slots for %d keys of %d frames", len(q.slots), keys, len(q.items))
	}
	return nil
}

func TestLatestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := play(steps.Draw(t, "steps"), (*Conn).DeliverLatest); err != nil {
			t.Fatal(err)
		}
	})
}

// What does not replace, or replaces at the end, is told apart.
func TestModelNoticesWhatIsNotTheLatest(t *testing.T) {
	for name, wrong := range map[string]func(c *Conn, frame []byte, src *Source, key string){
		"queues it behind the other": func(c *Conn, frame []byte, src *Source, _ string) { c.Deliver(frame, src) },
		"moves it to the end": func(c *Conn, frame []byte, src *Source, key string) {
			if c.q != nil {
				if i, ok := c.q.slots[key]; ok {
					c.q.remove(i)
				}
			}
			c.DeliverLatest(frame, src, key)
		},
		"keeps a key of each source": func(c *Conn, frame []byte, src *Source, key string) {
			c.DeliverLatest(frame, src, key+src.Policy.String())
		},
		"keeps the first": func(c *Conn, frame []byte, src *Source, key string) {
			if c.q != nil {
				if _, ok := c.q.slots[key]; ok {
					return
				}
			}
			c.DeliverLatest(frame, src, key)
		},
	} {
		found := 0
		for seed := range 50 {
			if play(steps.Example(seed), wrong) != nil {
				found++
			}
		}
		if found < 10 {
			t.Errorf("%s: noticed in %d of 50 queues", name, found)
		}
	}
}

// Keys and the gaps of replayed topics share a queue: neither disturbs the
// other, in whatever order frames leave it.
func TestLatestBesideGaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := New(Config{Flushers: 1, QueueBytes: 1500, FrameBytes: rapid.IntRange(200, 1200).Draw(t, "frame")})
		c := &Conn{o: o, fl: o.flushers[0], slot: -1, queued: true, subprotocol: "fairlead.v1"}
		c.progress.Store(math.MinInt64 / 2)
		topics := []*replayed{newReplayed("a", DropOldest, true), newReplayed("b", Conflate, true), newReplayed("c", DropOldest, true)}
		sources := []*Source{nil, {Policy: DropOldest}}
		chain, last := newChains(), map[int]int{}
		flush := func() {
			var ch chunk
			if !c.take(&ch) {
				return
			}
			for _, it := range ch.items[ch.from:] {
				if it.frame == nil {
					continue
				}
				if err := chain.check(string(it.frame)); err != nil {
					t.Fatal(err)
				}
				var m struct{ Key, N int }
				if err := json.Unmarshal(it.frame, &m); err != nil {
					t.Fatal(err)
				}
				if m.N > 0 && m.N <= last[m.Key] {
					t.Fatalf("key %d: read %d after %d", m.Key, m.N, last[m.Key])
				}
				last[m.Key] = max(last[m.Key], m.N)
			}
		}
		sent := map[int]int{}
		for n := range rapid.IntRange(1, 150).Draw(t, "steps") {
			c.blocked = rapid.IntRange(0, 3).Draw(t, "blocked") > 0
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				flush()
			case 1, 2, 3, 4:
				rapid.SampledFrom(topics).Draw(t, "topic").deliver(c, rapid.IntRange(0, 200).Draw(t, "size"))
			default:
				key := rapid.IntRange(1, 4).Draw(t, "key")
				src := sources[key%2]
				frame := fmt.Appendf(nil, `{"key":%d,"n":%d,"pad":"%s"}`, key, n+1, strings.Repeat("x", rapid.IntRange(0, 100).Draw(t, "pad")))
				c.DeliverLatest(frame, src, fmt.Sprint(key))
				if src == nil {
					sent[key] = n + 1
				}
			}
			if c.closing {
				t.Fatal("closed, though all but a few bytes may be dropped")
			}
			if c.q != nil {
				if err := errors.Join(sound(c.q, 1500+6*100), exact(c.q)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for c.q != nil {
			flush()
		}
		for _, topic := range topics {
			if got, want := chain.at[topic.name], topic.last.Seq; got != want {
				t.Fatalf("%s ended at %d, want %d", topic.name, got, want)
			}
		}
		for key, n := range sent {
			if last[key] != n {
				t.Fatalf("key %d: the last read is %d, want %d", key, last[key], n)
			}
		}
	})
}
