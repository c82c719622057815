package integration

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	roomPlain    = "topics:\n  - {name: room, match: \"room.>\", subscribe: user, publish: user}\n"
	roomReplayed = "topics:\n  - {name: room, match: \"room.>\", subscribe: user, publish: user, replay: {size: %d, ttl: %s}}\n"
)

// apply makes a text the rules of every process.
func apply(t *testing.T, natsURL, rules string) {
	t.Helper()
	out, errs, code := run(t, []string{"FAIRLEAD_NATS_URL=" + natsURL}, "", "rules", "apply", rulesFile(t, rules))
	if code != 0 {
		t.Fatalf("rules apply: exit code %d\n%s%s", code, out, errs)
	}
}

// ruled starts a replica and gateways that live by the rules of the bucket.
func ruled(t *testing.T, rules string, gateways int) *stack {
	t.Helper()
	s := &stack{t: t, nats: natsdev.Test(t).ClientURL()}
	apply(t, s.nats, rules)
	start(t, "replay", []string{"FAIRLEAD_NATS_URL=" + s.nats, "FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_LOG_FORMAT=json"}, "run", "replay")
	for range gateways {
		s.add()
	}
	return s
}

// A worker publishes all the time while a rule begins to replay its topic, and
// stops to. Subscribers are told once each time that they may have missed
// something; before and after it nothing is missing, and nothing comes twice.
func TestReplayIsTurnedOnAndOffUnderSubscribers(t *testing.T) {
	t.Parallel()
	s := ruled(t, roomPlain, 2)
	topic := unique("room")
	var followers []*follower
	for i := range 4 {
		sub, err := s.as(i, fmt.Sprintf("user%d", i)).Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
		must(t, err)
		followers = append(followers, following(t, fmt.Sprintf("user%d on gateway %d", i, i%2), sub))
	}
	w := murmur(t, s, topic)
	w.more(50)
	cuts := 0
	flip := func(rules string) {
		t.Helper()
		cuts++
		apply(t, s.nats, rules)
		for _, f := range followers {
			eventually(t, f.name+" is told", func() (any, bool) { got := f.seen(); return got.cuts, len(got.cuts) >= cuts })
		}
		w.more(100)
	}
	flip(fmt.Sprintf(roomReplayed, 10_000, "1h"))
	for i := range s.gateways { // what is stored since then is there for who comes back
		at := followers[i].seen().at
		n := w.more(20)
		late := behind(t, fmt.Sprintf("a resume on gateway %d", i), s.as(i, "late"), topic, wire.Position{Seq: at.Seq, Ts: at.Ts})
		got := late.until(n - 1)
		if len(got.cuts) > 0 || len(got.broken) > 0 {
			t.Errorf("%s: cut at %v, broken: %v", late.name, got.cuts, got.broken)
		}
		ascending(t, late.name, got.got, got.got[0], got.got[0]+len(got.got))
	}
	flip(roomPlain)
	flip(fmt.Sprintf(roomReplayed, 10_000, "1h"))
	n := w.stop()
	for _, f := range followers {
		got := f.until(n - 1)
		if len(got.cuts) != cuts || len(got.broken) > 0 {
			t.Errorf("%s: told at %v, want %d times; broken: %v", f.name, got.cuts, cuts, got.broken)
			continue
		}
		from, lost := 0, 0
		for _, end := range append(got.cuts, len(got.got)) {
			part := got.got[from:end]
			if len(part) == 0 {
				continue
			}
			if from > 0 {
				before := got.got[from-1]
				if part[0] <= before {
					t.Errorf("%s: %d came behind %d", f.name, part[0], before)
				}
				lost += part[0] - before - 1
			}
			ascending(t, fmt.Sprintf("%s, from number %d on", f.name, part[0]), part, part[0], part[0]+len(part))
			from = end
		}
		t.Logf("%s: %d numbers in %d stretches, %d lost between them", f.name, len(got.got), len(got.cuts)+1, lost)
	}
}

// murmurer publishes numbers as a plain worker, which nobody acknowledges.
type murmurer struct {
	t    *testing.T
	said atomic.Int64
	quit chan struct{}
	done chan struct{}
}

func murmur(t *testing.T, s *stack, topic string) *murmurer {
	t.Helper()
	nc := s.worker()
	m := &murmurer{t: t, quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(m.done)
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-m.quit:
				return
			case <-pace.C:
			}
			if err := nc.Publish("fl.topic."+topic, strconv.AppendInt(nil, m.said.Load(), 10)); err != nil {
				t.Errorf("publish: %v", err)
				return
			}
			m.said.Add(1)
		}
	}()
	t.Cleanup(func() { m.stop() })
	return m
}

// more waits until n more numbers are published, and returns how many there are.
func (m *murmurer) more(n int) int {
	m.t.Helper()
	want := m.said.Load() + int64(n)
	eventually(m.t, "more is published", func() (any, bool) { return m.said.Load(), m.said.Load() >= want })
	return int(want)
}

func (m *murmurer) stop() int {
	select {
	case <-m.quit:
	default:
		close(m.quit)
	}
	<-m.done
	return int(m.said.Load())
}

// Another size and age change the stream where it is; who is subscribed is not
// disturbed.
func TestAChangedRuleChangesItsStream(t *testing.T) {
	t.Parallel()
	s := ruled(t, fmt.Sprintf(roomReplayed, 10, "1h"), 1)
	topic := unique("room")
	js, err := jetstream.New(s.worker())
	must(t, err)
	shape := func() string {
		stream, err := js.Stream(within(t), "FL_ROOM")
		if err != nil {
			return err.Error()
		}
		cfg := stream.CachedInfo().Config
		return fmt.Sprintf("%d messages of a topic, for %s", cfg.MaxMsgsPerSubject, cfg.MaxAge)
	}
	becomes := func(want string) {
		t.Helper()
		eventually(t, "the stream keeps "+want, func() (any, bool) { got := shape(); return got, got == want })
	}
	becomes("11 messages of a topic, for 169h0m0s")
	ann := s.as(0, "ann")
	sub, err := ann.Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	f := following(t, "ann", sub)
	said := 0
	say := func(n int) {
		t.Helper()
		for range n {
			publish(t, ann, topic, strconv.Itoa(said))
			said++
		}
	}
	retained := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("the topic retains %d messages", want), func() (any, bool) {
			got := len(since(t, s.worker(), wire.ReplaySinceRequest{Topic: topic, Limit: 1000}).Messages)
			return got, got == want
		})
	}
	say(30)
	retained(10)
	apply(t, s.nats, fmt.Sprintf(roomReplayed, 20, "2h"))
	becomes("21 messages of a topic, for 170h0m0s")
	say(30)
	retained(20)
	apply(t, s.nats, fmt.Sprintf(roomReplayed, 5, "2h"))
	becomes("6 messages of a topic, for 170h0m0s")
	retained(5)
	say(5)
	f.whole(0, said)
}

// A stream that is there already and can't become what its rule says is left as
// it is, and the replay service says what to do.
func TestAStreamThatCannotBecomeWhatItsRuleSays(t *testing.T) {
	t.Parallel()
	nats := natsdev.Test(t).ClientURL()
	js, err := jetstream.New(connect(t, nats))
	must(t, err)
	_, err = js.CreateStream(within(t), jetstream.StreamConfig{Name: "FL_ROOM", Subjects: []string{"fl.topic.room.>"}, Storage: jetstream.MemoryStorage})
	must(t, err)
	apply(t, nats, fmt.Sprintf(roomReplayed, 10, "1h"))
	replica := start(t, "replay", []string{"FAIRLEAD_NATS_URL=" + nats, "FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_LOG_FORMAT=json"}, "run", "replay")
	line := replica.line(replica.stderr, "FL_ROOM")
	for _, part := range []string{"stream FL_ROOM can't become what rule room says", "its storage is Memory, not File", "delete the stream"} {
		if !strings.Contains(line, part) {
			t.Errorf("it says %s; want %q in it", line, part)
		}
	}
	stream, err := js.Stream(within(t), "FL_ROOM")
	must(t, err)
	if diff := cmp.Diff(jetstream.MemoryStorage, stream.CachedInfo().Config.Storage); diff != "" {
		t.Errorf("its storage (-want +got):\n%s", diff)
	}
	must(t, js.DeleteStream(within(t), "FL_ROOM"))
	eventually(t, "the stream is made as the rule says", func() (any, bool) {
		stream, err := js.Stream(within(t), "FL_ROOM")
		if err != nil {
			return err, false
		}
		return stream.CachedInfo().Config.Storage, stream.CachedInfo().Config.Storage == jetstream.FileStorage
	})
}

// A rule stops to replay while a client still reads its past: it is told, and
// has what comes live from then on.
func TestReplayIsTurnedOffWhileAClientCatchesUp(t *testing.T) {
	t.Parallel()
	s := ruled(t, fmt.Sprintf(roomReplayed, 10_000, "1h"), 1)
	topic := unique("room")
	ann := s.as(0, "ann")
	body := `"` + strings.Repeat("x", 50_000) + `"`
	for range 200 {
		publish(t, ann, topic, body)
	}
	thin := startLink(t, to(s.gateways[0].addr), nil)
	thin.rate.Store(4 << 20)
	bob := dial(t, "ws://"+thin.addr()+"/ws", client.Options{Token: token("bob", nil)})
	sub, err := bob.Subscribe(within(t), topic, client.SubscribeOptions{After: new(int64), Control: true})
	must(t, err)
	next(t, sub)
	apply(t, s.nats, roomPlain)
	past := 1
	for next(t, sub).Control != "truncated" {
		past++
	}
	if past >= 200 {
		t.Errorf("told behind %d messages of the past, want in the middle of it", past)
	}
	eventually(t, "the topic is not stored any more", func() (any, bool) {
		r, err := ann.Publish(within(t), topic, "", "after", client.PublishOptions{})
		must(t, err)
		return r.Seq, r.Seq == 0
	})
	publish(t, ann, topic, `"end"`)
	for {
		m := next(t, sub)
		if string(m.Data) == `"end"` {
			break
		}
		if m.Control != "" || string(m.Data) != `"after"` {
			t.Errorf("behind the change came %s, seq %d", m.Control, m.Seq)
		}
	}
}
