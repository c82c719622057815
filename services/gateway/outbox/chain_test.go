package outbox

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// chains checks what one peer reads. The messages of a replayed topic and the
// skip frames between them are a chain without holes.
type chains struct {
	at   map[string]int64 // by topic, the position
	read map[string]int   // messages, skip frames not counted
}

func newChains() *chains {
	return &chains{map[string]int64{}, map[string]int{}}
}

func (ch *chains) check(message string) error {
	var m struct {
		Op, Topic string
		Seq, Prev int64
	}
	if message[0] == '"' {
		return nil // a reply
	}
	if err := json.Unmarshal([]byte(message), &m); err != nil {
		return fmt.Errorf("%w: %s", err, message)
	}
	if m.Topic == "" {
		return nil
	}
	if m.Op != "skip" {
		ch.read[m.Topic]++
	}
	if m.Seq == 0 {
		return nil // no place in the chain
	}
	if at := ch.at[m.Topic]; m.Prev != at || m.Seq <= at {
		return fmt.Errorf("read %.90s at position %d", message, at)
	}
	ch.at[m.Topic] = m.Seq
	return nil
}

func (ch *chains) checkAll(messages []string) error {
	for _, m := range messages {
		if err := ch.check(m); err != nil {
			return err
		}
	}
	return nil
}

// randomQueue puts random messages through one connection's queue and returns
// what is wrong with what leaves it.
func randomQueue(seed uint64, batch, skips bool, policies ...Policy) error {
	const bound, room = 2000, 100 // bytes of the queue, and of a skip frame
	r := rand.New(rand.NewPCG(seed, 7))
	o := New(Config{Flushers: 1, QueueBytes: bound, FrameBytes: 300 + r.IntN(1000)})
	c := &Conn{o: o, fl: o.flushers[0], slot: -1, queued: true} // the test is the flusher
	if batch {
		c.subprotocol = "fairlead.v1"
	}
	c.progress.Store(math.MinInt64 / 2)
	var topics []*replayed
	for i, p := range policies {
		topics = append(topics, newReplayed(fmt.Sprint("t", i), p, skips))
	}
	chain := newChains()
	var ch chunk
	take := func() error {
		if !c.take(&ch) {
			return nil
		}
		n := ch.messages
		ch.build(batch)
		wire := slices.Concat(ch.lead, ch.body)
		p := &peer{br: bufio.NewReader(bytes.NewReader(wire))}
		messages, err := p.messages(n)
		if err != nil {
			return err
		}
		return chain.checkAll(messages)
	}
	for step := range 600 {
		c.blocked = r.IntN(4) > 0
		t := topics[r.IntN(len(topics))]
		var err error
		switch op := r.IntN(100); {
		case op < 12:
			err = take()
		case op < 15:
			c.Send([]byte(`"` + strings.Repeat("r", r.IntN(300)) + `"`))
		case op < 18:
			t.sent++
			c.Deliver(fmt.Appendf(nil, `{"topic":%q}`, t.name), t.Source)
		case op < 22:
			t.deliver(c, r.IntN(bound-200))
		default:
			t.deliver(c, r.IntN(200))
		}
		if err == nil && c.q != nil {
			err = sound(c.q, bound+2*len(topics)*room)
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if c.closing {
			return nil // too much that may not be dropped
		}
	}
	for c.q != nil {
		if err := take(); err != nil {
			return fmt.Errorf("at the end: %w", err)
		}
	}
	for _, t := range topics {
		if got, want := chain.at[t.name], t.last.Seq; got != want {
			return fmt.Errorf("%s ended at %d, want %d", t.name, got, want)
		}
		if got, want := chain.read[t.name]+int(t.Dropped()), t.sent; got != want {
			return fmt.Errorf("%s: %d read or counted as dropped, want %d", t.name, got, want)
		}
	}
	return nil
}

// sound reports where the sums that q keeps are wrong or too large.
func sound(q *queue, bound int) error {
	live, n := len(q.gaps), 0
	for _, g := range q.gaps {
		n += g.size
	}
	for _, it := range q.items[q.head:] {
		if it.frame != nil {
			live++
			n += len(it.frame)
		}
	}
	switch {
	case live != q.live || n != q.bytes:
		return fmt.Errorf("counts %d frames of %d bytes, has %d of %d", q.live, q.bytes, live, n)
	case n > bound:
		return fmt.Errorf("%d bytes are queued, want %d at most", n, bound)
	case len(q.at) > len(q.items):
		return fmt.Errorf("%d marks for %d frames", len(q.at), len(q.items))
	}
	return nil
}

var mixes = map[string][]Policy{
	"drop-oldest":   {DropOldest},
	"conflate":      {Conflate},
	"drop-oldest/3": {DropOldest, DropOldest, DropOldest},
	"conflate/3":    {Conflate, Conflate, Conflate},
	"both":          {DropOldest, Conflate, DropOldest, Conflate},
}

func TestChainsOfRandomQueuesAreWhole(t *testing.T) {
	for name, policies := range mixes {
		for _, batch := range []bool{true, false} {
			for seed := range uint64(80) {
				if err := randomQueue(seed, batch, true, policies...); err != nil {
					t.Fatalf("%s, arrays %v, seed %d: %v", name, batch, seed, err)
				}
			}
		}
	}
}

// Without skip frames the check above finds the holes.
func TestChainsWithoutSkipFramesAreBroken(t *testing.T) {
	for name, policies := range mixes {
		for _, batch := range []bool{true, false} {
			found := 0
			for seed := range uint64(20) {
				if err := randomQueue(seed, batch, false, policies...); err != nil && strings.Contains(err.Error(), "at position") {
					found++
				}
			}
			if found < 10 {
				t.Errorf("%s, arrays %v: holes in %d of 20 chains", name, batch, found)
			}
		}
	}
}

// slowPeer has one goroutine per topic deliver to a peer that lags behind again
// and again, and returns what is wrong with what it reads.
func slowPeer(t *testing.T, proto string, s setup, skips bool) error {
	const rounds, perRound = 2, 1500
	srv := serve(t, Config{QueueBytes: 64 << 10}, s)
	p, ses := srv.dial(proto)
	topics := []*replayed{
		newReplayed("a", DropOldest, skips), newReplayed("b", Conflate, skips),
		newReplayed("c", DropOldest, skips), newReplayed("d", Conflate, skips),
	}
	chain := newChains()
	for round := range rounds {
		p.patient()
		ses.Send([]byte(`{"plug":"` + strings.Repeat("x", 12<<20) + `"}`))
		await(t, "blocked", func() bool {
			ses.mu.Lock()
			defer ses.mu.Unlock()
			return ses.behindNow()
		})
		var all, after sync.WaitGroup
		defer after.Wait()
		for i, topic := range topics {
			r := rand.New(rand.NewPCG(uint64(round), uint64(i)))
			all.Go(func() {
				for range perRound {
					topic.deliver(ses.Conn, r.IntN(1500))
				}
			})
		}
		all.Go(func() {
			for range 20 {
				ses.Send([]byte(`"reply"`))
			}
		})
		end := fmt.Sprintf(`{"end":%d}`, round)
		after.Go(func() {
			all.Wait()
			ses.Send([]byte(end))
		})
		// The peer reads while they deliver.
		for done := false; !done; {
			messages, err := p.messages(1)
			if err != nil {
				return err
			}
			if err := chain.checkAll(messages); err != nil {
				return err
			}
			done = slices.Contains(messages, end)
		}
		after.Wait()
		// What was lost of a topic that has no later message comes last.
		for behind := true; behind; {
			behind = false
			for _, topic := range topics {
				behind = behind || chain.at[topic.name] != topic.last.Seq
			}
			if !behind {
				break
			}
			messages, err := p.messages(1)
			if err != nil {
				return fmt.Errorf("%w at %v", err, chain.at)
			}
			if err := chain.checkAll(messages); err != nil {
				return err
			}
		}
	}
	for _, topic := range topics {
		if topic.Dropped() == 0 {
			t.Errorf("%s lost nothing", topic.name)
		}
		if got, want := chain.read[topic.name]+int(topic.Dropped()), topic.sent; got != want {
			t.Errorf("%s: %d read or counted as dropped, want %d", topic.name, got, want)
		}
	}
	return nil
}

func TestChainsOfASlowPeerAreWhole(t *testing.T) {
	for _, proto := range []string{"fairlead.v1", ""} {
		for name, s := range map[string]setup{"raw": {}, "wrapped": {wrap: true}} {
			t.Run(fmt.Sprintf("%s/%q", name, proto), func(t *testing.T) {
				if err := slowPeer(t, proto, s, true); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestASlowPeerWithoutSkipFramesFindsHoles(t *testing.T) {
	for _, proto := range []string{"fairlead.v1", ""} {
		if err := slowPeer(t, proto, setup{}, false); err == nil || !strings.Contains(err.Error(), "at position") {
			t.Errorf("got %v, want a hole", err)
		}
	}
}
