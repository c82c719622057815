package replay

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// testLog checks that what open returns keeps each promise of [Log]. Every
// subtest opens an empty log that takes the topics below `t.`. The log may stamp
// messages with a clock of its own, as a stream does, so nothing is published
// after a test has moved now.
func testLog(t *testing.T, open func(t *testing.T, r Retention, now func() time.Time) Log) {
	for _, c := range contract {
		t.Run(c.sentence, func(t *testing.T) {
			r := Retention{Size: 3, TTL: time.Hour, Dedupe: time.Minute}
			if c.size > 0 {
				r.Size = c.size
			}
			if c.size == fullOfBytes {
				r.Bytes = 16 << 10
			}
			clock := &movedClock{}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			p := &probe{T: t, ctx: ctx, log: open(t, r, clock.now), clock: clock, retention: r}
			p.open = func() *probe {
				other := *p
				other.log = open(t, r, clock.now)
				return &other
			}
			c.test(p)
		})
	}
}

// tooLong is a topic that nobody can publish to.
var tooLong = "t." + strings.Repeat("x", wire.MaxSubject)

// fullOfBytes is a size that a topic never comes to: its log is bounded by bytes,
// to less than twenty messages of [probe.fill].
const fullOfBytes = 1000

// contract is what the comments of [Log] say, sentence by sentence. Size is 3
// unless a case says otherwise, the TTL an hour.
var contract = []struct {
	sentence string
	size     int
	test     func(p *probe)
}{
	{"methods may be called concurrently", 200, testConcurrent},
	{"errors a caller can act on are wire errors", 0, func(p *probe) {
		for what, err := range p.callsWith(tooLong) {
			var coded *wire.Error
			if !errors.As(err, &coded) || coded.Code != wire.InvalidArgument {
				p.Errorf("%s of a topic that is too long: %v, want %s", what, err, wire.InvalidArgument)
			}
		}
	}},
	{"a topic retains its newest Size messages", 0, func(p *probe) {
		all := p.publishEach("t.a", "t.b", 5)
		p.wantMessages(p.since("t.a", wire.Position{}), all[2:])
	}},
	{"a topic retains what is younger than TTL", 0, func(p *probe) {
		all := p.publishApart("t.a", 2)
		p.clock.set(all[0].Ts + p.retention.TTL.Milliseconds() - 1)
		p.wantMessages(p.since("t.a", wire.Position{}), all)
		p.clock.set(all[0].Ts + p.retention.TTL.Milliseconds())
		p.wantMessages(p.since("t.a", wire.Position{}), all[1:])
	}},
	{"what is kept beyond is never returned and never counted", 0, func(p *probe) {
		all := p.publishN("t.a", 4)
		p.wantMessages(p.since("t.a", wire.Position{}), all[1:])
		p.wantMessages(p.since("t.a", wire.Position{Seq: all[0].Seq - 1}), all[1:])
		p.wantMessages(p.last("t.a", 10), all[1:])
		p.wantTopics("", "", 10, wire.ReplaySummary{Topic: "t.a", Count: 3, Seq: all[3].Seq})
		p.clearTopic("t.a")
		p.wantMessages(p.since("t.a", wire.Position{}), nil)
		p.wantMessages(p.last("t.a", 10), nil)
		p.wantTopics("", "", 10)
	}},

	{"Since returns the messages after a position, oldest first", 10, func(p *probe) {
		all := p.publishEach("t.a", "t.b", 6)
		for i, at := range all {
			p.wantMessages(p.since("t.a", at), all[i+1:])
			p.wantMessages(p.since("t.a", wire.Position{Seq: at.Seq}), all[i+1:])
		}
	}},
	{"Since returns what was published", 0, func(p *probe) {
		e := Entry{Topic: "t.a", Event: "said", Payload: []byte(`{"a" : [1,  "é"]}`), User: "ann lee", Exclude: "conn-1"}
		at := p.append(e)
		p.publishN("t.a", 1)
		page := p.since("t.a", wire.Position{})
		got := page.Messages[0]
		want := wire.ReplayMessage{Position: wire.Position{Seq: at.Seq, Ts: got.Ts}, Event: e.Event, Payload: e.Payload, User: e.User, Exclude: e.Exclude}
		if diff := cmp.Diff(want, got); diff != "" {
			p.Errorf("message (-want +got):\n%s", diff)
		}
		if bare := page.Messages[1]; bare.Event != wire.DefaultEvent || bare.User != "" || bare.Exclude != "" {
			p.Errorf("message stored without event, user and exclude: %+v", bare)
		}
	}},
	{"with Last Since returns the newest", 5, func(p *probe) {
		all := p.publishN("t.a", 7)
		p.wantMessages(p.last("t.a", 2), all[5:])
		p.wantMessages(p.last("t.a", 100), all[2:])
		page := p.ask(Query{Topic: "t.a", After: all[6], Last: 1, Limit: 100, Bytes: 1 << 20})
		p.wantMessages(page, all[6:])
	}},
	{"Since returns no more than Limit messages", 10, func(p *probe) {
		all := p.publishN("t.a", 5)
		for limit := 1; limit <= 6; limit++ {
			page := p.ask(Query{Topic: "t.a", Limit: limit, Bytes: 1 << 20})
			p.wantMessages(page, all[:min(limit, 5)])
		}
	}},
	{"Since returns about Bytes of payload, but one message if there is any", 10, func(p *probe) {
		payload := []byte(`"` + strings.Repeat("x", 98) + `"`)
		for range 5 {
			p.append(Entry{Topic: "t.a", Payload: payload})
		}
		for _, c := range []struct{ bytes, least, most int }{{1, 1, 1}, {100, 1, 2}, {250, 2, 3}, {1000, 5, 5}} {
			page := p.ask(Query{Topic: "t.a", Limit: 100, Bytes: c.bytes})
			if n := len(page.Messages); n < c.least || n > c.most {
				p.Errorf("%d bytes: %d messages of 100, want %d to %d", c.bytes, n, c.least, c.most)
			}
		}
	}},
	{"More says that others follow", 10, func(p *probe) {
		all := p.publishN("t.a", 7)
		for _, q := range []Query{{Limit: 2, Bytes: 1 << 20}, {Limit: 100, Bytes: 2}, {Limit: 7, Bytes: 1 << 20}} {
			var got []wire.ReplayMessage
			for q.Topic = "t.a"; ; q.After = got[len(got)-1].Position {
				page := p.ask(q)
				got = append(got, page.Messages...)
				if !page.More || len(page.Messages) == 0 {
					break
				}
			}
			p.wantMessages(&wire.ReplayPage{Messages: got}, all)
		}
	}},

	{"Truncated is never false when a message is evicted", 0, func(p *probe) {
		empty := p.at("t.a")
		all := p.publishN("t.a", 5)
		for _, at := range []wire.Position{empty, all[0], {Seq: all[0].Seq}} {
			p.wantMessages(p.truncated("t.a", at), all[2:])
		}
	}},
	{"Truncated is never false when a message has expired", 0, func(p *probe) {
		empty := p.at("t.a")
		all := p.publishApart("t.a", 3)
		p.clock.set(all[1].Ts + p.retention.TTL.Milliseconds())
		for _, at := range []wire.Position{empty, all[0], {Seq: all[0].Seq}} {
			p.wantMessages(p.truncated("t.a", at), all[2:])
		}
		p.clock.set(all[2].Ts + p.retention.TTL.Milliseconds())
		for _, at := range []wire.Position{empty, all[0], all[1]} {
			p.wantMessages(p.truncated("t.a", at), nil)
		}
	}},
	{"Truncated is true only when a message is gone: Size missed", 0, func(p *probe) {
		all := p.publishEach("t.a", "t.b", 5)
		p.wantMessages(p.whole("t.a", all[1]), all[2:])
		p.wantMessages(p.whole("t.a", wire.Position{Seq: all[1].Seq}), all[2:])
		p.truncated("t.a", all[0])
	}},
	{"Truncated is true only when a message is gone: caught up", 0, func(p *probe) {
		all := p.publishN("t.a", 5)
		p.wantMessages(p.whole("t.a", all[4]), nil)
		p.wantMessages(p.whole("t.a", wire.Position{Seq: all[4].Seq}), nil)
	}},
	{"Truncated is true only when a message is gone: all expired, the last was seen", 0, func(p *probe) {
		all := p.publishApart("t.a", 2)
		p.clock.set(all[0].Ts + p.retention.TTL.Milliseconds())
		p.wantMessages(p.whole("t.a", all[0]), all[1:])
		p.clock.set(all[1].Ts + (p.retention.TTL + memory).Milliseconds() - 1)
		p.wantMessages(p.whole("t.a", all[1]), nil)
	}},
	{"Truncated is true only when a message is gone: position of an empty topic", 0, func(p *probe) {
		first := p.at("t.a")
		p.wantMessages(p.whole("t.a", first), nil)
		p.publishN("t.b", 8) // more than are kept: the beginning of the log is gone
		p.wantMessages(p.whole("t.a", first), nil)
		second := p.at("t.a")
		all := p.publishN("t.a", 3)
		p.wantMessages(p.whole("t.a", first), all)
		p.wantMessages(p.whole("t.a", second), all)
		p.clock.set(all[0].Ts + p.retention.TTL.Milliseconds() - 1)
		p.wantMessages(p.whole("t.a", second), all)
	}},
	{"above Bytes the oldest of any topic goes", fullOfBytes, func(p *probe) {
		a, b := p.fill("t.a", 2), p.fill("t.b", 2)
		c := p.fill("t.c", 40)
		p.wantMessages(p.since("t.a", wire.Position{}), nil)
		p.wantMessages(p.since("t.b", wire.Position{}), nil)
		kept := p.since("t.c", wire.Position{}).Messages
		if len(kept) < 10 || len(kept) > 20 {
			p.Fatalf("%d messages are kept", len(kept))
		}
		p.wantMessages(p.whole("t.c", kept[0].Position), c[40-len(kept)+1:])
		p.wantMessages(p.truncated("t.c", c[39-len(kept)]), c[40-len(kept):])
		p.wantMessages(p.truncated("t.a", a[0]), nil)
		p.wantMessages(p.truncated("t.b", b[0]), nil)
	}},
	{"Truncated is never false when Bytes took what was behind an empty topic", fullOfBytes, func(p *probe) {
		first := p.at("t.a")
		p.fill("t.a", 2)
		p.fill("t.b", 40)
		p.wantHead("t.a", wire.Position{})
		p.wantMessages(p.truncated("t.a", first), nil)
		second := p.at("t.a")
		all := p.fill("t.a", 1)
		p.wantMessages(p.truncated("t.a", first), all)
		p.wantMessages(p.whole("t.a", second), all)
		p.clearTopic("t.a")
		p.fill("t.b", 40) // and what told of the clear
		for _, at := range []wire.Position{first, second} {
			p.wantMessages(p.truncated("t.a", at), nil)
		}
	}},
	{"Truncated is true when the position's message is not there with that time", 0, func(p *probe) {
		all, others := p.publishN("t.a", 2), p.publishN("t.b", 1)
		for _, at := range []wire.Position{
			{Seq: all[0].Seq, Ts: all[0].Ts + 1},
			{Seq: all[0].Seq, Ts: all[0].Ts - 1},
			others[0],
		} {
			p.wantMessages(p.truncated("t.a", at), all)
		}
	}},
	{"Truncated is true when the log is another one", 0, func(p *probe) {
		old := p.publishApart("t.a", 3)
		empty := p.at("t.b") // behind what the other log has, and then before it
		p.later(max(old[2].Ts, -empty.Ts))
		other := p.open()
		other.wantMessages(other.truncated("t.a", old[2]), nil)
		other.wantMessages(other.truncated("t.b", empty), nil)
		all := other.publishN("t.a", 3)
		others := other.publishN("t.b", 1)
		for _, at := range old {
			other.wantMessages(other.truncated("t.a", at), all)
		}
		other.wantMessages(other.truncated("t.b", empty), others)
	}},
	{"Truncated is true when the position is older than what the log could remember", 0, func(p *probe) {
		empty := p.at("t.a")
		all := p.publishN("t.b", 1)
		oldest := -empty.Ts + (p.retention.TTL + memory).Milliseconds()
		p.clock.set(oldest)
		p.wantMessages(p.whole("t.a", empty), nil)
		p.clock.set(oldest + 1)
		p.wantMessages(p.truncated("t.a", empty), nil)
		p.clock.set(all[0].Ts + (p.retention.TTL + memory).Milliseconds() + 1)
		p.wantMessages(p.truncated("t.a", empty), nil)
	}},
	{"after 0 without a time is never truncated", 0, func(p *probe) {
		p.wantMessages(p.whole("t.a", wire.Position{}), nil)
		all := p.publishN("t.a", 5)
		p.wantMessages(p.whole("t.a", wire.Position{}), all[2:])
		p.clearTopic("t.a")
		p.wantMessages(p.whole("t.a", wire.Position{}), nil)
		all = p.publishN("t.a", 1)
		p.wantMessages(p.whole("t.a", wire.Position{}), all)
		p.clear()
		p.wantMessages(p.whole("t.a", wire.Position{}), nil)
		all = p.publishN("t.a", 1)
		p.clock.set(all[0].Ts + p.retention.TTL.Milliseconds())
		p.wantMessages(p.whole("t.a", wire.Position{}), nil)
	}},
	{"a position past the head is truncated only with a time", 0, func(p *probe) {
		all := p.publishN("t.a", 2)
		past := wire.Position{Seq: all[1].Seq + 1000}
		p.wantMessages(p.whole("t.a", past), nil)
		past.Ts = all[1].Ts
		p.wantMessages(p.truncated("t.a", past), all)
	}},
	{"with Last nothing is ever truncated", 0, func(p *probe) {
		all := p.publishN("t.a", 5)
		if page := p.last("t.a", 2); page.Truncated || page.MissingFrom != 0 {
			p.Errorf("truncated %v, missing from %d", page.Truncated, page.MissingFrom)
		}
		p.clearTopic("t.a")
		page := p.ask(Query{Topic: "t.a", After: all[0], Last: 2, Limit: 100, Bytes: 1 << 20})
		if page.Truncated {
			p.Error("truncated after a clear")
		}
	}},
	{"a message that was stored before the call is never missing", 200, func(p *probe) {
		at := p.at("t.a")
		for i := range 100 {
			stored := p.append(Entry{Topic: "t.a", Payload: []byte(fmt.Sprint(i))})
			page := p.whole("t.a", at)
			if len(page.Messages) != 1 || page.Messages[0].Seq != stored.Seq {
				p.Fatalf("after %v: %v, want %d", at, seqsOf(page.Messages), stored.Seq)
			}
			at = page.Messages[0].Position
		}
	}},
	{"Prev is the message before on the topic as far as that is kept", 0, func(p *probe) {
		all := p.publishEach("t.a", "t.b", 2)
		p.wantPrev(p.since("t.a", wire.Position{}), 0, all[0].Seq)
		p.wantPrev(p.since("t.a", all[0]), all[0].Seq)
		all = append(all, p.publishEach("t.a", "t.b", 3)...)
		p.wantPrev(p.since("t.a", all[1]), all[1].Seq, all[2].Seq, all[3].Seq)
		p.wantPrev(p.last("t.a", 1), all[3].Seq)
	}},
	{"Base is what the messages follow", 0, func(p *probe) {
		empty := p.at("t.a")
		all := p.publishEach("t.a", "t.b", 6)
		for _, at := range all[2:] {
			if got := p.whole("t.a", at).Base; got != at {
				p.Errorf("base of what follows %v: %v", at, got)
			}
		}
		for _, page := range []*wire.ReplayPage{
			p.since("t.a", wire.Position{}), p.truncated("t.a", all[0]), p.truncated("t.a", empty), p.last("t.a", 2),
		} {
			if got, want := page.Base, (wire.Position{Seq: page.Messages[0].Prev}); got != want {
				p.Errorf("base %v, want %v", got, want)
			}
			if diff := cmp.Diff(page.Messages, p.whole("t.a", page.Base).Messages); diff != "" {
				p.Errorf("what follows the base %v (-page +again):\n%s", page.Base, diff)
			}
		}
		p.clearTopic("t.a")
		if page := p.truncated("t.a", all[5]); page.Base != page.At {
			p.Errorf("base of an empty page %v, want where a listener begins, %v", page.Base, page.At)
		}
	}},
	{"MissingFrom is the first that may be gone", 0, func(p *probe) {
		all := p.publishN("t.a", 6)
		for i, at := range all {
			page, want := p.since("t.a", at), int64(0)
			if i < 2 {
				want = at.Seq + 1
			}
			if page.MissingFrom != want {
				p.Errorf("after %v: missing from %d, want %d", at, page.MissingFrom, want)
			}
		}
	}},

	{"Head returns the newest message, zero where there is none", 0, func(p *probe) {
		p.wantHead("t.a", wire.Position{})
		p.publishN("t.b", 2)
		p.wantHead("t.a", wire.Position{})
		for range 5 {
			at := p.append(Entry{Topic: "t.a", Payload: []byte("1")})
			p.publishN("t.b", 1)
			page := p.last("t.a", 1)
			if page.Messages[0].Seq != at.Seq || page.Head != page.Messages[0].Position {
				p.Errorf("newest %v, head %v, want %d", page.Messages[0].Position, page.Head, at.Seq)
			}
			p.wantHead("t.a", page.Messages[0].Position)
		}
	}},
	{"Head returns the position of who begins to listen now", 0, func(p *probe) {
		p.publishN("t.b", 2)
		at := p.at("t.a")
		if !at.Empty() {
			p.Errorf("position of an empty topic: %v, want a negative time", at)
		}
		if page := p.since("t.a", wire.Position{}); page.At.Seq != at.Seq || !page.At.Empty() {
			p.Errorf("At of a page of an empty topic: %v, want %v", page.At, at)
		}
		for range 5 {
			all := p.publishN("t.a", 1)
			p.wantMessages(p.whole("t.a", at), all)
			if at = p.at("t.a"); at != all[0] {
				p.Errorf("position %v, want the head %v", at, all[0])
			}
			if page := p.since("t.a", wire.Position{}); page.At != at {
				p.Errorf("At of a page: %v, want %v", page.At, at)
			}
		}
	}},
	{"the head stays known after all messages expired", 0, func(p *probe) {
		all := p.publishN("t.a", 2)
		p.clock.set(all[1].Ts + (p.retention.TTL + memory).Milliseconds() - 1)
		p.wantHead("t.a", all[1])
		if page := p.since("t.a", wire.Position{}); page.Head != all[1] || len(page.Messages) != 0 {
			p.Errorf("head of a page %v, %d messages, want %v and none", page.Head, len(page.Messages), all[1])
		}
	}},
	{"Head sees a message that was stored before the call", 0, func(p *probe) {
		for i := range 100 {
			stored := p.append(Entry{Topic: "t.a", Payload: []byte(fmt.Sprint(i))})
			if head, at := p.head("t.a"); head.Seq != stored.Seq || at != head {
				p.Fatalf("head %v, position %v, want %d", head, at, stored.Seq)
			}
		}
	}},
	{"Heads returns the newest of each topic up to upTo, zero where there is none", 0, func(p *probe) {
		topics := []string{"t.a", "t.none", "t.b"}
		a := p.publishN("t.a", 5)
		b := p.publishN("t.b", 1)
		heads, upTo := p.heads(topics)
		if diff := cmp.Diff([]wire.Position{a[4], {}, b[0]}, heads); diff != "" {
			p.Errorf("heads (-want +got):\n%s", diff)
		}
		if upTo < b[0].Seq {
			p.Errorf("up to %d, want %d or more", upTo, b[0].Seq)
		}
		a = p.publishN("t.a", 1)
		if heads, upTo = p.heads(topics); upTo >= a[0].Seq && heads[0] != a[0] {
			p.Errorf("head %v up to %d, want %v", heads[0], upTo, a[0])
		}
	}},

	{"Append stores behind all others and returns where", 0, func(p *probe) {
		last := int64(0)
		for i := range 6 {
			stored := p.append(Entry{Topic: fmt.Sprintf("t.%d", i%2), Payload: []byte(fmt.Sprint(i))})
			if stored.Seq <= last || stored.Duplicate {
				p.Errorf("stored %+v behind %d", stored, last)
			}
			last = stored.Seq
			page := p.last(fmt.Sprintf("t.%d", i%2), 1)
			if got := page.Messages[0]; got.Seq != last || string(got.Payload) != fmt.Sprint(i) {
				p.Errorf("newest %d %s, want %d %d", got.Seq, got.Payload, last, i)
			}
		}
	}},
	{"Append stores an ID once within the dedupe window", 0, func(p *probe) {
		e := Entry{Topic: "t.a", Payload: []byte("1"), ID: "one"}
		first := p.append(e)
		p.publishN("t.a", 5) // the message itself is gone
		for _, e.Topic = range []string{"t.a", "t.b"} {
			if got, want := p.append(e), (wire.ReplayStored{Seq: first.Seq, Duplicate: true}); got != want {
				p.Errorf("again on %s: %+v, want %+v", e.Topic, got, want)
			}
		}
		p.wantHead("t.b", wire.Position{})
		e.ID, e.Topic = "two", "t.a"
		if got := p.append(e); got.Duplicate || got.Seq <= first.Seq {
			p.Errorf("another ID: %+v", got)
		}
		if page := p.last("t.a", 1); string(page.Messages[0].Payload) != "1" {
			p.Errorf("newest %s", page.Messages[0].Payload)
		}
	}},
	{"an error of Append has details.outcome", 0, func(p *probe) {
		ctx, cancel := context.WithCancel(p.ctx)
		cancel()
		for what, e := range map[string]struct {
			ctx   context.Context
			topic string
		}{"cancelled": {ctx, "t.a"}, "topic too long": {p.ctx, tooLong}} {
			_, err := p.log.Append(e.ctx, Entry{Topic: e.topic, Payload: []byte("1")})
			if err == nil {
				p.Errorf("%s: stored", what)
				continue
			}
			if got := wire.AsError(err).Details["outcome"]; got != "none" && got != "unknown" {
				p.Errorf("%s: %v, outcome %v", what, err, got)
			}
		}
	}},
	{"AppendAll stores all one behind the other", 200, func(p *probe) {
		var work sync.WaitGroup
		for w := range 4 {
			work.Go(func() {
				var entries []Entry
				for i := range 10 {
					entries = append(entries, Entry{Topic: fmt.Sprintf("t.%d", i%2), Payload: fmt.Appendf(nil, `"%d-%d"`, w, i)})
				}
				stored, err := p.log.AppendAll(p.ctx, entries)
				if err != nil || len(stored) != len(entries) {
					p.Errorf("stored %d: %v", len(stored), err)
					return
				}
				for i, at := range stored {
					if want := stored[0].Seq + int64(i); at.Seq != want || at.Duplicate {
						p.Errorf("entry %d: %+v, want %d", i, at, want)
					}
					page := p.ask(Query{Topic: entries[i].Topic, After: wire.Position{Seq: at.Seq - 1}, Limit: 1, Bytes: 100})
					if got, want := string(page.Messages[0].Payload), string(entries[i].Payload); page.Messages[0].Seq != at.Seq || got != want {
						p.Errorf("at %d: %d %s, want %s", at.Seq, page.Messages[0].Seq, got, want)
					}
				}
			})
		}
		work.Wait()
	}},
	{"AppendAll stores none where it can't store all", 0, func(p *probe) {
		p.append(Entry{Topic: "t.b", Payload: []byte("1"), ID: "one"})
		for what, bad := range map[string]Entry{
			"stored before":  {Topic: "t.b", Payload: []byte("2"), ID: "one"},
			"topic too long": {Topic: tooLong, Payload: []byte("2")},
		} {
			good := Entry{Topic: "t.a", Payload: []byte("1")}
			stored, err := p.log.AppendAll(p.ctx, []Entry{good, bad, good})
			if err == nil {
				p.Errorf("%s: stored %v", what, stored)
			}
			p.wantHead("t.a", wire.Position{})
		}
	}},

	{"ClearTopic removes all messages of a topic and truncates its positions", 0, func(p *probe) {
		empty := p.at("t.a")
		all := p.publishN("t.a", 2)
		p.clearTopic("t.a")
		gone := []wire.Position{empty, all[0], all[1], {Seq: all[0].Seq}, {Seq: all[1].Seq}}
		for _, at := range gone {
			p.wantMessages(p.truncated("t.a", at), nil)
		}
		p.wantMessages(p.last("t.a", 10), nil)
		p.wantMessages(p.whole("t.a", p.at("t.a")), nil)
		begin := p.at("t.a")
		all = p.publishN("t.a", 1)
		for _, at := range gone {
			p.wantMessages(p.truncated("t.a", at), all)
		}
		p.wantMessages(p.whole("t.a", begin), all)
		all = append(all, p.publishN("t.a", 6)...) // what told of the clear is evicted
		for _, at := range append(gone, begin) {
			p.wantMessages(p.truncated("t.a", at), all[4:])
		}
	}},
	{"ClearTopic leaves other topics their messages and positions", 0, func(p *probe) {
		empty := p.at("t.b")
		others := p.publishEach("t.b", "t.a", 3)
		p.clearTopic("t.a")
		p.wantMessages(p.whole("t.b", empty), others)
		for i, at := range others {
			p.wantMessages(p.whole("t.b", at), others[i+1:])
		}
	}},
	{"Clear removes the messages of all topics and truncates their positions", 0, func(p *probe) {
		empty := p.at("t.a")
		a, b := p.publishN("t.a", 2), p.publishN("t.b", 2)
		p.clear()
		gone := func(a1, b1 []wire.Position) {
			p.Helper()
			for _, at := range []wire.Position{empty, a[0], a[1], {Seq: a[0].Seq}, {Seq: a[1].Seq}} {
				p.wantMessages(p.truncated("t.a", at), a1)
			}
			for _, at := range b {
				p.wantMessages(p.truncated("t.b", at), b1)
			}
		}
		gone(nil, nil)
		begin := p.at("t.a")
		p.wantMessages(p.whole("t.a", begin), nil)
		b1 := p.publishN("t.b", 1)
		gone(nil, b1) // t.a has nothing yet, the log has
		p.wantMessages(p.whole("t.a", begin), nil)
		a1 := p.publishN("t.a", 1)
		gone(a1, b1)
		p.wantMessages(p.whole("t.a", begin), a1)
	}},

	{"Topics returns topics with messages in order of their names", 0, func(p *probe) {
		c, a := p.publishN("t.c", 1), p.publishN("t.a", 5)
		b := p.publishN("t.b.x", 2)
		summary := map[string]wire.ReplaySummary{
			"a": {Topic: "t.a", Count: 3, Seq: a[4].Seq}, "b": {Topic: "t.b.x", Count: 2, Seq: b[1].Seq}, "c": {Topic: "t.c", Count: 1, Seq: c[0].Seq},
		}
		p.wantTopics("", "", 10, summary["a"], summary["b"], summary["c"])
		p.wantTopics("t.*", "", 10, summary["a"], summary["c"])
		p.wantTopics("t.b.>", "", 10, summary["b"])
		p.wantTopics("", "t.a", 10, summary["b"], summary["c"])
		p.wantTopics("", "t.aa", 1, summary["b"])
		p.wantTopics("t.*", "t.b", 1, summary["c"])
		p.wantTopics("", "t.c", 10)
		p.clear()
		p.wantTopics("", "", 10)
	}},
}

// testConcurrent has readers follow a topic that several write to: each sees
// every message once, in order.
func testConcurrent(p *probe) {
	const writers, each = 4, 25
	at := p.at("t.a")
	var work sync.WaitGroup
	for w := range writers {
		work.Go(func() {
			for i := range each {
				if _, err := p.log.Append(p.ctx, Entry{Topic: "t.a", Payload: fmt.Appendf(nil, `"%d-%d"`, w, i)}); err != nil {
					p.Error(err)
				}
			}
		})
	}
	for range 4 {
		work.Go(func() {
			after, seen := at, map[string]bool{}
			for len(seen) < writers*each {
				page, err := p.log.Since(p.ctx, Query{Topic: "t.a", After: after, Limit: 7, Bytes: 1 << 20})
				if err != nil || page.Truncated {
					p.Errorf("after %v, %d seen: %v, %+v", after, len(seen), err, page)
					return
				}
				for _, m := range page.Messages {
					if m.Seq <= after.Seq || seen[string(m.Payload)] {
						p.Errorf("%d %s after %v, seen %v", m.Seq, m.Payload, after, seen[string(m.Payload)])
						return
					}
					after, seen[string(m.Payload)] = m.Position, true
				}
			}
		})
	}
	work.Wait()
}

// movedClock is the present until it is set.
type movedClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *movedClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return time.Now()
	}
	return c.at
}

func (c *movedClock) set(ms int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = time.UnixMilli(ms)
}

// probe is a log with what the cases ask of it.
type probe struct {
	*testing.T
	ctx       context.Context
	log       Log
	open      func() *probe // another log
	clock     *movedClock
	retention Retention
}

func (p *probe) append(e Entry) wire.ReplayStored {
	p.Helper()
	stored, err := p.log.Append(p.ctx, e)
	if err != nil {
		p.Fatalf("append to %s: %v", e.Topic, err)
	}
	return stored
}

// publishN stores n messages and returns their positions.
func (p *probe) publishN(topic string, n int) (all []wire.Position) {
	p.Helper()
	for range n {
		stored := p.append(Entry{Topic: topic, Payload: []byte(`{}`)})
		head, _ := p.head(topic)
		if head.Seq != stored.Seq || head.Ts <= 0 {
			p.Fatalf("head %v, want %d", head, stored.Seq)
		}
		all = append(all, head)
	}
	return all
}

// fill stores n messages of about a kilobyte and returns their positions.
func (p *probe) fill(topic string, n int) (all []wire.Position) {
	p.Helper()
	payload := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	for range n {
		p.append(Entry{Topic: topic, Payload: payload})
		head, _ := p.head(topic)
		all = append(all, head)
	}
	return all
}

// publishEach is publishN with a message of another topic behind each.
func (p *probe) publishEach(topic, other string, n int) (all []wire.Position) {
	p.Helper()
	for range n {
		all = append(all, p.publishN(topic, 1)...)
		p.publishN(other, 1)
	}
	return all
}

// publishApart is publishN with no two messages in the same millisecond.
func (p *probe) publishApart(topic string, n int) (all []wire.Position) {
	p.Helper()
	for i := range n {
		if i > 0 {
			p.later(all[i-1].Ts)
		}
		all = append(all, p.publishN(topic, 1)...)
	}
	return all
}

// later returns once the clock is past ts.
func (p *probe) later(ts int64) {
	p.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().UnixMilli() <= ts; runtime.Gosched() {
		if time.Now().After(deadline) {
			p.Fatalf("the log's clock is ahead: %d", ts)
		}
	}
}

func (p *probe) ask(q Query) *wire.ReplayPage {
	p.Helper()
	page, err := p.log.Since(p.ctx, q)
	if err != nil {
		p.Fatalf("since %+v: %v", q, err)
	}
	return page
}

func (p *probe) since(topic string, at wire.Position) *wire.ReplayPage {
	p.Helper()
	return p.ask(Query{Topic: topic, After: at, Limit: 1000, Bytes: 1 << 20})
}

func (p *probe) last(topic string, n int) *wire.ReplayPage {
	p.Helper()
	return p.ask(Query{Topic: topic, Last: n, Limit: 1000, Bytes: 1 << 20})
}

// truncated is since where something is gone, whole is since where nothing is.
func (p *probe) truncated(topic string, at wire.Position) *wire.ReplayPage {
	p.Helper()
	page := p.since(topic, at)
	if !page.Truncated || page.MissingFrom != at.Seq+1 {
		p.Errorf("%s after %v: truncated %v, missing from %d, want true and %d", topic, at, page.Truncated, page.MissingFrom, at.Seq+1)
	}
	return page
}

func (p *probe) whole(topic string, at wire.Position) *wire.ReplayPage {
	p.Helper()
	page := p.since(topic, at)
	if page.Truncated {
		p.Errorf("%s after %v: truncated", topic, at)
	}
	return page
}

func (p *probe) head(topic string) (head, at wire.Position) {
	p.Helper()
	head, at, err := p.log.Head(p.ctx, topic)
	if err != nil {
		p.Fatalf("head of %s: %v", topic, err)
	}
	return head, at
}

func (p *probe) at(topic string) wire.Position {
	p.Helper()
	_, at := p.head(topic)
	return at
}

func (p *probe) heads(topics []string) ([]wire.Position, int64) {
	p.Helper()
	heads, upTo, err := p.log.Heads(p.ctx, topics)
	if err != nil || len(heads) != len(topics) {
		p.Fatalf("%d heads: %v", len(heads), err)
	}
	return heads, upTo
}

func (p *probe) clearTopic(topic string) {
	p.Helper()
	if err := p.log.ClearTopic(p.ctx, topic); err != nil {
		p.Fatalf("clear %s: %v", topic, err)
	}
}

func (p *probe) clear() {
	p.Helper()
	if err := p.log.Clear(p.ctx); err != nil {
		p.Fatalf("clear: %v", err)
	}
}

// callsWith makes each call that takes a topic.
func (p *probe) callsWith(topic string) map[string]error {
	ctx, errs := p.ctx, map[string]error{}
	_, errs["Since"] = p.log.Since(ctx, Query{Topic: topic, Limit: 1, Bytes: 1})
	_, _, errs["Head"] = p.log.Head(ctx, topic)
	_, errs["Append"] = p.log.Append(ctx, Entry{Topic: topic, Payload: []byte("1")})
	_, errs["AppendAll"] = p.log.AppendAll(ctx, []Entry{{Topic: topic, Payload: []byte("1")}})
	errs["ClearTopic"] = p.log.ClearTopic(ctx, topic)
	return errs
}

func (p *probe) wantMessages(page *wire.ReplayPage, want []wire.Position) {
	p.Helper()
	got := make([]wire.Position, 0, len(want))
	for _, m := range page.Messages {
		got = append(got, m.Position)
	}
	if !slices.Equal(got, want) {
		p.Errorf("messages %v, want %v", got, want)
	}
}

func (p *probe) wantPrev(page *wire.ReplayPage, want ...int64) {
	p.Helper()
	var got []int64
	for _, m := range page.Messages {
		got = append(got, m.Prev)
	}
	if !slices.Equal(got, want) {
		p.Errorf("previous %v, want %v", got, want)
	}
}

func (p *probe) wantHead(topic string, want wire.Position) {
	p.Helper()
	if head, _ := p.head(topic); head != want {
		p.Errorf("head of %s %v, want %v", topic, head, want)
	}
}

func (p *probe) wantTopics(match, cursor string, limit int, want ...wire.ReplaySummary) {
	p.Helper()
	got, err := p.log.Topics(p.ctx, match, cursor, limit)
	if err != nil {
		p.Fatalf("topics: %v", err)
	}
	if !slices.Equal(got, want) {
		p.Errorf("topics %q after %q: %v, want %v", match, cursor, got, want)
	}
}

func seqsOf(messages []wire.ReplayMessage) (seqs []int64) {
	for _, m := range messages {
		seqs = append(seqs, m.Seq)
	}
	return seqs
}
