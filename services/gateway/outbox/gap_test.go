package outbox

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
)

// replayed is a topic that numbers its messages, with holes between the numbers.
type replayed struct {
	*Source
	name string
	last Mark
	sent int
}

func newReplayed(name string, policy Policy, skips bool) *replayed {
	r := &replayed{Source: &Source{Policy: policy}, name: name}
	if skips {
		r.Skip = func(dst []byte, from, to Mark) []byte {
			return fmt.Appendf(dst, `{"op":"skip","topic":%q,"seq":%d,"prev":%d,"ts":%d}`, name, to.Seq, from.Prev, to.Ts)
		}
	}
	return r
}

// next returns the topic's next message, padded by pad bytes.
func (r *replayed) next(pad int) ([]byte, *Mark) {
	r.sent++
	r.last = Mark{r.last.Seq + 1 + int64(r.sent%3), r.last.Seq, r.last.Ts + 1}
	return fmt.Appendf(nil, `{"topic":%q,"seq":%d,"prev":%d,"ts":%d,"data":"%s"}`,
		r.name, r.last.Seq, r.last.Prev, r.last.Ts, strings.Repeat("x", pad)), &r.last
}

func (r *replayed) deliver(c *Conn, pad int) {
	frame, at := r.next(pad)
	mark := *at
	c.DeliverAt(frame, r.Source, &mark)
}

// short names a message by topic and sequence, a skip frame by its range.
func short(message string) string {
	var m struct {
		Op, Topic string
		Seq, Prev int64
	}
	switch err := json.Unmarshal([]byte(message), &m); {
	case err != nil:
		return strings.Trim(message, `".`)
	case m.Op == "skip":
		return fmt.Sprintf("skip %s %d-%d", m.Topic, m.Prev, m.Seq)
	}
	return fmt.Sprint(m.Topic, m.Seq)
}

func TestLossesAreTold(t *testing.T) {
	// Messages of 100 and skip frames of about 45 bytes in a queue of 1000.
	type numbered struct {
		*Source
		name string
		seq  int64
	}
	deliver := func(s *session, n *numbered, size int) {
		n.seq++
		head := fmt.Sprintf(`{"topic":%q,"seq":%d,"pad":"`, n.name, n.seq)
		frame := head + strings.Repeat(".", size-len(head)-2) + `"}`
		s.DeliverAt([]byte(frame), n.Source, &Mark{Seq: n.seq, Prev: n.seq - 1})
	}
	many := func(s *session, n *numbered, count int) {
		for range count {
			deliver(s, n, 100)
		}
	}
	cases := []struct {
		name string
		fill func(s *session, a, b *numbered)
		a, b Policy
		want string
		lost [2]uint64
	}{
		{"the oldest, by one frame ahead of what was kept", func(s *session, a, _ *numbered) {
			many(s, a, 100)
		}, DropOldest, DropOldest, "skip a 0-91, a92, a93, a94, a95, a96, a97, a98, a99, a100", [2]uint64{91, 0}},
		{"each source for itself", func(s *session, a, b *numbered) {
			for range 10 {
				many(s, a, 1)
				many(s, b, 1)
			}
		}, DropOldest, DropOldest, "skip b 0-5, b6, skip a 0-6, a7, b7, a8, b8, a9, b9, a10, b10", [2]uint64{6, 5}},
		{"frames without a place are not told of", func(s *session, a, _ *numbered) {
			for range 100 {
				s.Deliver(sized("x", 100), a.Source)
			}
		}, DropOldest, DropOldest, "x, x, x, x, x, x, x, x, x, x", [2]uint64{90, 0}},
		{"what others pushed out, once the queue drains", func(s *session, a, _ *numbered) {
			many(s, a, 9)
			s.Send(sized("reply", 900))
		}, DropOldest, DropOldest, "reply, skip a 0-9", [2]uint64{9, 0}},
		{"small ones, whose skip frame takes the room", func(s *session, a, _ *numbered) {
			s.Send(sized("reply", 950))
			deliver(s, a, 40)
			deliver(s, a, 50)
		}, DropOldest, DropOldest, "reply, skip a 0-2", [2]uint64{2, 0}},
		{"a new one that does not fit, behind what was kept", func(s *session, a, _ *numbered) {
			s.Send(sized("reply", 600))
			many(s, a, 2)
			deliver(s, a, 500)
			deliver(s, a, 500)
		}, DropOldest, DropOldest, "reply, a1, a2, skip a 2-4", [2]uint64{2, 0}},
		{"a new one that does not fit, ahead of the next", func(s *session, a, _ *numbered) {
			s.Send(sized("reply", 600))
			many(s, a, 2)
			deliver(s, a, 500)
			deliver(s, a, 90)
		}, DropOldest, DropOldest, "reply, a1, a2, skip a 2-3, a4", [2]uint64{1, 0}},
		{"two new ones that do not fit, with what is between", func(s *session, a, _ *numbered) {
			s.Send(sized("reply", 600))
			many(s, a, 2)
			deliver(s, a, 500)
			deliver(s, a, 90)
			deliver(s, a, 500)
			deliver(s, a, 90)
		}, DropOldest, DropOldest, "reply, a1, a2, skip a 2-5, a6", [2]uint64{3, 0}},
		{"the oldest and then what is between it and a new one", func(s *session, a, _ *numbered) {
			s.Send(sized("reply", 600))
			many(s, a, 2)
			deliver(s, a, 500)
			deliver(s, a, 90)
			deliver(s, a, 90)
		}, DropOldest, DropOldest, "reply, skip a 0-3, a4, a5", [2]uint64{3, 0}},
		{"conflated, ahead of the newer one and at its place", func(s *session, a, b *numbered) {
			many(s, a, 50)
			s.Send(sized("reply", 100))
			many(s, b, 50)
			many(s, a, 1)
		}, Conflate, Conflate, "skip a 0-50, a51, reply, skip b 0-49, b50", [2]uint64{50, 49}},
		{"conflated, nothing to tell", func(s *session, a, b *numbered) {
			many(s, a, 1)
			many(s, b, 1)
		}, Conflate, Conflate, "a1, b1", [2]uint64{}},
		{"conflated, with and without a place", func(s *session, a, _ *numbered) {
			many(s, a, 2)
			s.Deliver(sized("x", 100), a.Source)
			s.Deliver(sized("y", 100), a.Source)
		}, Conflate, Conflate, "y, skip a 0-2", [2]uint64{3, 0}},
		{"conflated, with a place again", func(s *session, a, _ *numbered) {
			many(s, a, 2)
			s.Deliver(sized("x", 100), a.Source)
			many(s, a, 1)
		}, Conflate, Conflate, "skip a 0-2, a3", [2]uint64{3, 0}},
	}
	for _, tc := range cases {
		for _, proto := range []string{"fairlead.v1", ""} {
			t.Run(fmt.Sprintf("%s/%q", tc.name, proto), func(t *testing.T) {
				srv := serve(t, Config{QueueBytes: 1000}, setup{})
				p, ses := srv.dial(proto)
				plug := ses.stall(t)
				a := &numbered{newReplayed("a", tc.a, true).Source, "a", 0}
				b := &numbered{newReplayed("b", tc.b, true).Source, "b", 0}
				tc.fill(ses, a, b)
				p.unplug(plug)
				var got []string
				for n := strings.Count(tc.want, ",") + 1; len(got) < n; {
					messages, err := p.messages(1)
					if err != nil {
						t.Fatalf("%v behind %v", err, got)
					}
					for _, m := range messages {
						got = append(got, short(m))
					}
				}
				if got := strings.Join(got, ", "); got != tc.want {
					t.Errorf("got  %s\nwant %s", got, tc.want)
				}
				if got := [2]uint64{a.Dropped(), b.Dropped()}; got != tc.lost {
					t.Errorf("sources count %v dropped, want %v", got, tc.lost)
				}
				s := ses.Stats()
				if got, want := s.DroppedOldest+s.Conflated, tc.lost[0]+tc.lost[1]; got != want || s.DroppedDisconnect != 0 {
					t.Errorf("the connection counts %d dropped, want %d; %+v", got, want, s)
				}
				await(t, "idle", ses.Idle)
				ses.Send([]byte(`"more"`))
				if got, want := string(p.must(1).payload), `"more"`; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			})
		}
	}
}

func TestGapsJoinWhatIsContiguous(t *testing.T) {
	for _, tc := range []struct {
		name string
		lost []Mark
		want string
	}{
		{"one", []Mark{{5, 4, 1}}, "4-5"},
		{"several", []Mark{{5, 4, 1}, {8, 5, 2}, {9, 8, 3}}, "4-9"},
		{"overlapping", []Mark{{5, 4, 1}, {8, 3, 2}}, "4-8"},
		{"the same again", []Mark{{5, 4, 1}, {8, 5, 2}, {5, 4, 1}, {9, 8, 3}}, "4-9"},
		{"a hole that no policy made stays visible", []Mark{{5, 4, 1}, {8, 7, 2}, {9, 8, 3}}, "7-9"},
		{"numbers that begin anew", []Mark{{5, 4, 1}, {1, 0, 2}, {2, 1, 3}}, "0-2"},
	} {
		g := gap{from: tc.lost[0], to: tc.lost[0]}
		for _, m := range tc.lost[1:] {
			g.extend(m, m)
		}
		if got := fmt.Sprintf("%d-%d", g.from.Prev, g.to.Seq); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
		if got, want := g.to, tc.lost[len(tc.lost)-1]; got != want {
			t.Errorf("%s: ends with %v, want %v", tc.name, got, want)
		}
	}
}

// A peer that never reads costs a bound queue and one gap per source, however
// much is dropped; and dropping does not allocate once there is a gap.
func TestGapsOfAStalledPeerStaySmall(t *testing.T) {
	for _, policy := range []Policy{DropOldest, Conflate} {
		o := New(Config{Flushers: 1, QueueBytes: 1000})
		c := &Conn{o: o, fl: o.flushers[0], slot: -1, queued: true, blocked: true}
		c.progress.Store(math.MinInt64 / 2)
		c.Send([]byte(`"first"`))
		var topics []*replayed
		for i := range 3 {
			topics = append(topics, newReplayed(fmt.Sprint(i), policy, true))
		}
		for range 30_000 {
			for _, topic := range topics {
				topic.deliver(c, 10)
			}
		}
		if err := sound(c.q, 1000+3*100); err != nil || cap(c.q.items) > 512 || cap(c.q.at) > 512 || len(c.q.gaps) != 3 {
			t.Errorf("%v: %v, %d gaps, slices of %d and %d", policy, err, len(c.q.gaps), cap(c.q.items), cap(c.q.at))
		}
		frame, at := topics[0].next(10)
		marks := make([]Mark, 300)
		for i := range marks {
			marks[i] = Mark{at.Seq + int64(i), at.Seq + int64(i) - 1, at.Ts + int64(i)}
		}
		i := 0
		if got := testing.AllocsPerRun(200, func() {
			c.DeliverAt(frame, topics[0].Source, &marks[i])
			i++
		}); got != 0 {
			t.Errorf("%v: %v allocations per dropped message", policy, got)
		}
	}
}
