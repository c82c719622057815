package bridge

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// A topic that the rules keep loses nothing while NATS is away; for the others it
// is said that they may have.
func TestNATSAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, plainRules+"\ntopics: [{name: kept, match: db.kept, replay: {}}]\n")
	x := r.start()
	nc := r.connect()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FL_KEPT", Subjects: []string{"fl.topic.db.kept"}}); err != nil {
		t.Fatal(err)
	}
	r.listener(x)
	r.rows("db.kept", 0, 20)
	r.rows("db.orders", 0, 20)
	r.eventually("they came", func() (any, bool) { n := x.counts.published.Load(); return n, n == 40 })
	r.nats.Shutdown()
	r.rows("db.kept", 20, 40)
	r.rows("db.orders", 20, 40)
	r.eventually("they wait", func() (any, bool) {
		n := x.counts.received.Load()
		return n, n == 80 && x.outlet.waiting.Load() == 40
	})
	if err := r.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	r.eventually("they are published", func() (any, bool) { n := x.counts.published.Load(); return n, n == 80 })
	r.eventually("the gap is announced", func() (any, bool) {
		gaps := r.heard.gaps("fl.event.bridge.gap." + channel)
		return gaps, len(gaps) > 0 && gaps[len(gaps)-1].Reason == "nats"
	})
	var kept []int
	stream, err := js.Stream(t.Context(), "FL_KEPT")
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); ; seq++ {
		msg, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			break
		}
		n := -1
		if msg.Header.Get("Fl-Event") != "bridge.gap" {
			fmt.Sscan(string(msg.Data), &n)
		}
		kept = append(kept, n)
	}
	want := []int{}
	for i := range 40 {
		want = append(want, i)
	}
	if !slices.Equal(slices.DeleteFunc(slices.Clone(kept), func(n int) bool { return n == -1 }), want) {
		t.Errorf("the stream has %v, want each change once", kept)
	}
}

// Without the table, as in a database that is not up to date, changes are
// published all the same.
func TestWithoutTheTable(t *testing.T) {
	t.Parallel()
	r := newRig(t, plainRules)
	r.exec("drop table fairlead.bridge_topic")
	x := r.start(func(b *Bridge) { b.grace = 0 })
	r.listener(x)
	r.rows("db.users", 0, 5)
	r.eventually("they came", func() (any, bool) {
		got := r.heard.on("db.users")
		return got, slices.Equal(got, []int{0, 1, 2, 3, 4})
	})
	if r.log.count("bridge can't keep the topics") != 1 {
		t.Error("nothing, or too much, is said of it")
	}
}

// More than may wait is lost, and announced once there is room.
func TestOverflow(t *testing.T) {
	t.Parallel()
	r := newRig(t, plainRules)
	x := r.start()
	r.listener(x)
	r.row("db.orders", 0)
	r.eventually("it came", func() (any, bool) { return nil, slices.Contains(r.heard.on("db.orders"), 0) })
	x.outlet.waiting.Add(maxWaiting)
	r.row("db.orders", 1)
	r.eventually("it is dropped", func() (any, bool) { return nil, x.counts.dropped[full].Load() == 1 })
	x.outlet.waiting.Add(-maxWaiting)
	r.eventually("the gap is announced", func() (any, bool) {
		gaps := r.heard.gaps("fl.topic.db.orders")
		return gaps, len(gaps) == 2 && gaps[1].Reason == "lost"
	})
	r.row("db.orders", 2)
	r.eventually("it goes on", func() (any, bool) {
		got := r.heard.on("db.orders")
		return got, slices.Equal(got, []int{-1, 0, -1, 2})
	})
}

// What could not be written down when a topic was first used is, once the
// database is brought up to date.
func TestTableComesLater(t *testing.T) {
	t.Parallel()
	r := newRig(t, plainRules)
	r.exec("alter table fairlead.bridge_topic rename to later")
	x := r.start()
	r.listener(x)
	r.row("db.users", 0)
	r.eventually("it came", func() (any, bool) { return nil, slices.Contains(r.heard.on("db.users"), 0) })
	r.exec("alter table fairlead.later rename to bridge_topic")
	r.eventually("the topic is written down", func() (any, bool) {
		return nil, r.number("select count(*) from fairlead.bridge_topic where namespace = 'fl' and channel = $1 and topic = 'db.users'", channel) == 1
	})
	if r.log.count("bridge can't keep") != 0 {
		t.Error("a table that was soon there is worth no word")
	}
}

// Changes that wait for NATS when their listener loses its place are not published
// behind those of who has it now.
func TestWhatWaitsIsSuperseded(t *testing.T) {
	t.Parallel()
	r := newRig(t, plainRules)
	h, url := through(t, r.url)
	first := r.startAt(url)
	r.listener(first)
	r.row("db.orders", 0)
	r.eventually("it came", func() (any, bool) { return nil, slices.Contains(r.heard.on("db.orders"), 0) })
	r.nats.Shutdown()
	r.rows("db.orders", 1, 6)
	r.eventually("changes wait", func() (any, bool) { n := first.outlet.waiting.Load(); return n, n == 5 })
	h.vanish()
	second := r.start()
	r.eventually("the other one listens", func() (any, bool) {
		return nil, first.counts.listening.Load() == 0 && second.counts.listening.Load() == 1
	})
	if err := r.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	r.eventually("the gap is announced when all are back", func() (any, bool) {
		gaps := r.heard.gaps("fl.topic.db.orders")
		return gaps, len(gaps) > 0 && gaps[len(gaps)-1].Reason == "nats"
	})
	r.row("db.orders", 6)
	r.eventually("changes come again", func() (any, bool) {
		got := r.heard.on("db.orders")
		return got, slices.Contains(got, 6) && first.outlet.all.Load() == 0
	})
	got := r.heard.on("db.orders")
	if n := first.counts.dropped[superseded].Load(); check(got) != nil || slices.Contains(got, 1) || n != 5 {
		t.Errorf("%v: got %v, and %d changes dropped; want none of the 5 that waited", check(got), got, n)
	}
}
