package outbox

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// sized returns a JSON string of exactly n bytes that begins with name.
func sized(name string, n int) []byte {
	return []byte(`"` + name + strings.Repeat(".", n-2-len(name)) + `"`)
}

func names(messages []string) []string {
	var all []string
	for _, m := range messages {
		all = append(all, strings.Trim(m, `".`))
	}
	return all
}

func TestSlowConsumerIsClosedBehindTheFrameUnderWay(t *testing.T) {
	for _, proto := range []string{"fairlead.v1", ""} {
		var told, queued atomic.Int64
		onSlow := func(c *Conn, n int) {
			told.Add(1)
			queued.Store(int64(n))
		}
		srv := serve(t, Config{QueueBytes: 1000, OnSlow: onSlow}, setup{})
		p, ses := srv.dial(proto)
		plug := ses.stall(t)
		src := &Source{}
		for range 10 {
			ses.Deliver(sized("", 100), src)
		}
		if ses.isClosing() {
			t.Fatal("closed at the bound, not above it")
		}
		for range 5 {
			ses.Deliver(sized("", 100), src)
		}
		if got, want := src.Dropped(), uint64(11); got != want {
			t.Errorf("source counts %d dropped, want %d", got, want)
		}
		p.unplug(plug)
		if got, want := p.must(8).String(), `close 1013 "slow consumer"`; got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		p.write(headClose, []byte{0x03, 0xF5})
		if got, want := *ses.result(t), (ClosedError{1013, "slow consumer", false}); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		await(t, "OnSlow", func() bool { return told.Load() > 0 })
		total := srv.Stats()
		if told.Load() != 1 || queued.Load() != 1100 || total.Slow != 1 || total.DroppedDisconnect != 11 {
			t.Errorf("told %d times of %d bytes, %+v", told.Load(), queued.Load(), total)
		}
	}
}

func TestSlowConsumerThatNeverReadsIsReset(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 1000, CloseGrace: 100 * time.Millisecond}, setup{})
	_, ses := srv.dial("")
	ses.stall(t)
	ses.Send(sized("a", 600))
	ses.Send(sized("b", 600))
	if got := ses.result(t); got.Code != 1013 {
		t.Errorf("got %v, want 1013", got)
	}
	await(t, "unregistered", func() bool { return srv.Stats().Connections == 0 })
}

func TestPoliciesKeepWhatTheyPromise(t *testing.T) {
	const bound = 1000
	last := func(n, of int) []string {
		var all []string
		for i := of - n; i < of; i++ {
			all = append(all, fmt.Sprint("a", i))
		}
		return all
	}
	cases := []struct {
		name string
		fill func(s *session, a, b *Source)
		a, b Policy
		want []string
		lost [2]uint64
	}{
		{"drop-oldest keeps the newest that fit", func(s *session, a, _ *Source) {
			for i := range 100 {
				s.Deliver(sized(fmt.Sprint("a", i), 100), a)
			}
		}, DropOldest, DropOldest, last(10, 100), [2]uint64{90, 0}},
		{"drop-oldest spares what others queued", func(s *session, a, b *Source) {
			s.Deliver(sized("b0", 300), b)
			for i := range 50 {
				s.Deliver(sized(fmt.Sprint("a", i), 100), a)
				if i == 24 {
					s.Send(sized("reply", 200))
				}
			}
		}, DropOldest, Disconnect, append([]string{"b0", "reply"}, last(5, 50)...), [2]uint64{45, 0}},
		{"drop-oldest gives way to the others", func(s *session, a, b *Source) {
			for i := range 10 {
				s.Deliver(sized(fmt.Sprint("a", i), 100), a)
			}
			s.Deliver(sized("b0", 300), b)
			s.Send(sized("reply", 400))
			s.Deliver(sized("b1", 300), b)
		}, DropOldest, Disconnect, []string{"b0", "reply", "b1"}, [2]uint64{10, 0}},
		{"drop-oldest drops the new one where nothing else can go", func(s *session, a, b *Source) {
			s.Deliver(sized("b0", 950), b)
			s.Deliver(sized("a0", 100), a)
			s.Deliver(sized("a1", 40), a)
		}, DropOldest, Disconnect, []string{"b0", "a1"}, [2]uint64{1, 0}},
		{"drop-oldest takes one larger than the bound when alone", func(s *session, a, _ *Source) {
			s.Deliver(sized("a0", 100), a)
			s.Deliver(sized("a1", 3*bound), a)
		}, DropOldest, DropOldest, []string{"a1"}, [2]uint64{1, 0}},
		{"conflate keeps the latest at its place", func(s *session, a, b *Source) {
			s.Deliver(sized("a0", 100), a)
			s.Send(sized("reply", 100))
			s.Deliver(sized("b0", 100), b)
			for i := range 1000 {
				s.Deliver(sized(fmt.Sprint("a", i), 100+i%50), a)
				s.Deliver(sized(fmt.Sprint("b", i), 100+i%50), b)
			}
		}, Conflate, Conflate, []string{"a999", "reply", "b999"}, [2]uint64{1000, 1000}},
		{"conflate and drop-oldest together", func(s *session, a, b *Source) {
			s.Deliver(sized("a0", 200), a)
			for i := range 20 {
				s.Deliver(sized(fmt.Sprint("b", i), 200), b)
			}
			s.Deliver(sized("a1", 600), a) // grows: b makes room
		}, Conflate, DropOldest, []string{"a1", "b18", "b19"}, [2]uint64{1, 18}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			srv := serve(t, Config{QueueBytes: bound}, setup{})
			p, ses := srv.dial("fairlead.v1")
			plug := ses.stall(t)
			a, b := &Source{Policy: tc.a}, &Source{Policy: tc.b}
			tc.fill(ses, a, b)
			if got := ses.Stats().Queued; got > bound && len(tc.want) > 1 {
				t.Errorf("%d bytes queued, bound %d", got, bound)
			}
			p.unplug(plug)
			all, err := p.messages(len(tc.want))
			if err != nil {
				t.Fatalf("got %v, then %v, want %v", names(all), err, tc.want)
			}
			if got := names(all); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if got := [2]uint64{a.Dropped(), b.Dropped()}; got != tc.lost {
				t.Errorf("sources count %v dropped, want %v", got, tc.lost)
			}
			s := ses.Stats()
			if got, want := s.DroppedOldest+s.Conflated+s.DroppedDisconnect, tc.lost[0]+tc.lost[1]; got != want {
				t.Errorf("the connection counts %d dropped, want %d", got, want)
			}
			await(t, "idle", ses.Idle)
			ses.Send([]byte(`"more"`))
			if got, want := string(p.must(1).payload), `"more"`; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestConflateThatCannotKeepTheLatestDisconnects(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 1000}, setup{})
	p, ses := srv.dial("")
	plug := ses.stall(t)
	for range 11 {
		ses.Deliver(sized("a", 100), &Source{Policy: Conflate})
	}
	p.unplug(plug)
	if got, want := p.must(8).String(), `close 1013 "slow consumer"`; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

func TestConflateLeavesAPeerThatKeepsUpAlone(t *testing.T) {
	srv := serve(t, Config{}, setup{})
	p, ses := srv.dial("fairlead.v1")
	src := &Source{Policy: Conflate}
	for i := range 100 {
		ses.Deliver(sized(fmt.Sprint(i), 100), src)
	}
	if got, err := p.messages(100); err != nil || src.Dropped() != 0 {
		t.Errorf("got %d messages, %v, %d dropped", len(got), err, src.Dropped())
	}
}

func TestAnyFrameFitsIntoAnEmptyQueue(t *testing.T) {
	srv := serve(t, Config{QueueBytes: 100}, setup{})
	p, ses := srv.dial("")
	plug := ses.stall(t)
	ses.Deliver(sized("large", 5000), &Source{})
	p.unplug(plug)
	if got, want := len(p.must(1).payload), 5000; got != want {
		t.Errorf("got %d bytes, want %d", got, want)
	}
}
