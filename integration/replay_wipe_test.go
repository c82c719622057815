package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// wiped is a stack whose stream is about to be lost: two gateways with a
// follower each, and the positions of the first 40 messages.
type wiped struct {
	*stack
	link      *link  // between the first gateway and NATS
	rules     string // the file
	topic     string
	stream    jetstream.Stream
	js        jetstream.JetStream
	followers []*follower
	positions []wire.Position
}

func beforeAWipe(t *testing.T) *wiped {
	t.Helper()
	const stored = 40
	server := natsdev.Test(t)
	file := rulesFile(t, fmt.Sprintf(replayedRules, 10_000))
	w := &wiped{stack: &stack{t: t}, rules: file, topic: unique("chat.room")}
	w.link = startLink(t, to(strings.TrimPrefix(server.ClientURL(), "nats://")), nil)
	startReplay(t, server.ClientURL(), file)
	for _, w.nats = range []string{"nats://" + w.link.addr(), server.ClientURL()} {
		w.add("FAIRLEAD_TOPICS_FILE=" + file)
	}
	var err error
	w.js, err = jetstream.New(w.worker())
	must(t, err)
	w.stream, err = w.js.Stream(within(t), "FL_CHAT")
	must(t, err)
	for i := range 2 {
		sub, err := w.as(i, "ann").Subscribe(within(t), w.topic, client.SubscribeOptions{Control: true})
		must(t, err)
		w.followers = append(w.followers, following(t, fmt.Sprintf("ann on gateway %d", i), sub))
	}
	probe := subscribe(t, w.as(1, "probe"), w.topic)
	w.put(0, stored)
	for range stored {
		m := next(t, probe)
		w.positions = append(w.positions, wire.Position{Seq: m.Seq, Ts: m.Ts})
	}
	for _, f := range w.followers {
		f.until(stored - 1)
	}
	return w
}

// put stores the numbers of [from, to) on the topic.
func (w *wiped) put(from, to int) {
	w.t.Helper()
	for i := from; i < to; i++ {
		_, err := w.js.Publish(within(w.t), "fl.topic."+w.topic, fmt.Append(nil, i))
		must(w.t, err)
	}
}

// told checks that a follower had old, was told once that messages are gone,
// and then had the rest of [0, to) in order.
func told(t *testing.T, f *follower, old, to int) {
	t.Helper()
	s := f.until(to - 1)
	if len(s.cuts) != 1 || s.cuts[0] != old || len(s.broken) > 0 {
		t.Errorf("%s: cut at %v, want once at %d; broken: %v", f.name, s.cuts, old, s.broken)
	}
	ascending(t, f.name, s.got, 0, to)
}

// truncatedResume resumes behind a position of the old log and checks that the
// client is told, and then has the numbers of [from, to).
func truncatedResume(t *testing.T, c *client.Client, topic string, after wire.Position, from, to int) {
	t.Helper()
	name := fmt.Sprintf("resume behind %v", after)
	sub := resume(t, c, topic, after)
	if p := sub.Position(); p.Recovered == nil || *p.Recovered || p.MissingFrom == nil || *p.MissingFrom != after.Seq+1 {
		t.Errorf("%s: got %+v, want recovered:false, missingFrom %d", name, p, after.Seq+1)
	}
	f := following(t, name, sub)
	s := f.until(to - 1)
	if len(s.cuts) != 1 || s.cuts[0] != 0 || len(s.broken) > 0 {
		t.Errorf("%s: cut at %v, want once before the first message; broken: %v", name, s.cuts, s.broken)
	}
	ascending(t, name, s.got, from, from+len(s.got))
	must(t, sub.Unsubscribe(within(t)))
}

// The stream is deleted under live gateways. Who publishes next makes it anew,
// its sequences begin again at 1, and every client is told before it gets what
// is new.
func TestADeletedStreamIsNoticed(t *testing.T) {
	t.Parallel()
	w := beforeAWipe(t)
	must(t, w.js.DeleteStream(within(t), "FL_CHAT"))
	ann := w.as(1, "publisher")
	r, err := ann.Publish(within(t), w.topic, "", 40, client.PublishOptions{})
	must(t, err)
	if r.Seq != 1 {
		t.Errorf("the new log begins at %d, want 1", r.Seq)
	}
	w.put(41, 60)
	for _, f := range w.followers {
		told(t, f, 40, 60)
	}
	for i := range 2 {
		c := w.as(i, "late")
		for _, at := range []int{0, 5, 25, 39} {
			truncatedResume(t, c, w.topic, w.positions[at], 40, 60)
		}
	}
}

// While a gateway has no way to NATS the stream is deleted, made anew, and
// filled beyond the sequence that the gateway knows: a number that fits proves
// nothing.
func TestAStreamThatWasReplacedMeanwhileIsNoticed(t *testing.T) {
	t.Parallel()
	w := beforeAWipe(t)
	w.link.cut()
	cfg := w.stream.CachedInfo().Config
	must(t, w.js.DeleteStream(within(t), "FL_CHAT"))
	_, err := w.js.CreateStream(within(t), cfg)
	must(t, err)
	w.put(40, 100)
	told(t, w.followers[1], 40, 100)
	w.link.restore()
	told(t, w.followers[0], 40, 100)
	w.put(100, 110)
	for i, f := range w.followers {
		told(t, f, 40, 110)
		c := w.as(i, "late")
		for _, at := range []int{0, 25, 39} {
			truncatedResume(t, c, w.topic, w.positions[at], 40, 110)
		}
	}
}

// Somebody purges the stream by hand, which NATS announces to nobody: sequences
// go on, and nothing proves what was between. A gateway may still have what was
// purged, and then the client has all of it; else it is told.
func TestAPurgedStreamIsNoticed(t *testing.T) {
	t.Parallel()
	w := beforeAWipe(t)
	must(t, w.stream.Purge(within(t)))
	w.add("FAIRLEAD_TOPICS_FILE=" + w.rules) // knows nothing of before
	for i := range w.gateways {
		sub := resume(t, w.as(i, "early"), w.topic, w.positions[10])
		switch p := sub.Position(); {
		case p.Recovered == nil || *p.Recovered && i == 2:
			t.Errorf("gateway %d, behind a message whose successors were purged: %+v, want recovered:false", i, p)
		case *p.Recovered:
			following(t, fmt.Sprintf("early on gateway %d", i), sub).whole(11, 40)
		}
	}
	w.put(40, 60)
	for _, f := range w.followers {
		s := f.until(59)
		if len(s.cuts) > 1 || len(s.cuts) == 1 && s.cuts[0] != 40 || len(s.broken) > 0 {
			t.Errorf("%s: cut at %v, want once at 40 at most; broken: %v", f.name, s.cuts, s.broken)
		}
		ascending(t, f.name, s.got, 0, 60)
	}
	for i := range w.gateways {
		c := w.as(i, "late")
		for _, at := range []int{0, 25} {
			truncatedResume(t, c, w.topic, w.positions[at], 40, 60)
		}
	}
}
