package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func rate(topic string, messages, bytes float64, subscribers int64) wire.TopicRate {
	return wire.TopicRate{Topic: topic, Messages: messages, Bytes: bytes, Subscribers: subscribers}
}

func TestRatesAreSumsOverAllGateways(t *testing.T) {
	now := time.Unix(1000, 0)
	table := newRateTable("own", 12*time.Second)
	table.put("own", []wire.TopicRate{rate("a", 10, 100, 1), rate("b", 30, 30, 0)}, now)
	table.put("g2", []wire.TopicRate{rate("a", 25.5, 255, 2), rate("quiet", 0, 0, 7)}, now)
	table.put("g3", []wire.TopicRate{rate("c", 30, 40, 0)}, now)
	r := table.merge()
	want := []wire.TopicRate{rate("a", 35.5, 355, 3), rate("c", 30, 40, 0), rate("b", 30, 30, 0)}
	if diff := cmp.Diff(want, r.top(10)); diff != "" {
		t.Errorf("top (-want +got)\n%s", diff)
	}
	if got := r.top(1); len(got) != 1 || got[0].Topic != "a" {
		t.Errorf("got %v for the top topic", got)
	}
	if got, want := r.of("quiet"), rate("quiet", 0, 0, 7); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := r.of("unknown"), rate("unknown", 0, 0, 0); got != want || r.gateways != 3 {
		t.Errorf("got %v of %d gateways, want %v of 3", got, r.gateways, want)
	}
	table.put("g2", []wire.TopicRate{rate("a", 1, 1, 1)}, now) // replaces, does not add
	if got, want := table.merge().of("a"), rate("a", 11, 101, 2); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A gateway that is silent for too long counts no more, one that leaves at once;
// a gateway does not forget itself.
func TestRatesOfGatewaysThatAreGone(t *testing.T) {
	now := time.Unix(1000, 0)
	table := newRateTable("own", 12*time.Second)
	for _, gateway := range []string{"own", "silent", "leaving", "alive"} {
		table.put(gateway, []wire.TopicRate{rate("a", 1, 1, 1)}, now)
	}
	table.drop("leaving")
	if got := table.merge().of("a").Messages; got != 3 {
		t.Errorf("got %v once one has left, want 3", got)
	}
	table.put("alive", []wire.TopicRate{rate("a", 1, 1, 1)}, now.Add(10*time.Second))
	if table.expire(now.Add(12 * time.Second)) {
		t.Error("a slice of 12 s was forgotten")
	}
	if !table.expire(now.Add(12*time.Second+1)) || table.merge().of("a").Messages != 2 {
		t.Errorf("got %v, want 2 without the one that is silent", table.merge().of("a").Messages)
	}
	if !table.expire(now.Add(time.Hour)) || table.merge().of("a").Messages != 1 {
		t.Errorf("got %v after an hour, want this gateway's own", table.merge().of("a").Messages)
	}
}

func TestRatesRememberSoManyGateways(t *testing.T) {
	now := time.Unix(1000, 0)
	table := newRateTable("own", 12*time.Second)
	for i := range slicesMost {
		if !table.put(fmt.Sprint("g", i), nil, now) {
			t.Fatalf("no room for gateway %d", i)
		}
	}
	if table.put("another", nil, now) || !table.put("g0", nil, now) || !table.put("own", nil, now) {
		t.Error("want no room for another one, and room for those that are known and itself")
	}
}

func TestRatesThatNoGatewayShares(t *testing.T) {
	many := make([]wire.TopicRate, sliceMost+1)
	for i := range many {
		many[i] = rate(fmt.Sprint("t", i), 1, 1, 1)
	}
	for _, test := range []struct {
		name string
		r    wire.TopicRates
		want bool
	}{
		{"an ordinary one", wire.TopicRates{Gateway: "g", Topics: many[1:]}, true},
		{"none", wire.TopicRates{Gateway: "g"}, true},
		{"no gateway", wire.TopicRates{Topics: many[:1]}, false},
		{"a long id", wire.TopicRates{Gateway: fmt.Sprintf("%065d", 1)}, false},
		{"too many topics", wire.TopicRates{Gateway: "g", Topics: many}, false},
		{"no topic", wire.TopicRates{Gateway: "g", Topics: []wire.TopicRate{rate("", 1, 1, 1)}}, false},
		{"a pattern", wire.TopicRates{Gateway: "g", Topics: []wire.TopicRate{rate("a.>", 1, 1, 1)}}, false},
		{"less than nothing", wire.TopicRates{Gateway: "g", Topics: []wire.TopicRate{rate("a", -1, 1, 1)}}, false},
		{"more than can be", wire.TopicRates{Gateway: "g", Topics: []wire.TopicRate{rate("a", 1, 1e300, 1)}}, false},
	} {
		if got := checkRates(&test.r); got != test.want {
			t.Errorf("%s: got %t", test.name, got)
		}
	}
}

func TestBestKeepsTheFirst(t *testing.T) {
	b := best{n: 3, order: byRate}
	for _, n := range []float64{5, 1, 9, 3, 9.5, 2, 7} {
		b.add(rate(fmt.Sprint("t", n), n, 0, 0))
	}
	want := []wire.TopicRate{rate("t9.5", 9.5, 0, 0), rate("t9", 9, 0, 0), rate("t7", 7, 0, 0)}
	if diff := cmp.Diff(want, b.kept); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// What is counted between two samples is their rate; a topic that nobody
// publishes to is forgotten, and whoever holds its count is told.
func TestTopicsAreCountedAndForgotten(t *testing.T) {
	now := time.Unix(1000, 0)
	counts := newTopicCounts(now)
	sampled := func() map[string]wire.TopicRate {
		now = now.Add(5 * time.Second)
		all := map[string]wire.TopicRate{}
		counts.sample(now, func(r wire.TopicRate) { all[r.Topic] = r })
		return all
	}
	a := counts.of("a")
	a.messages.Add(50)
	a.bytes.Add(1000)
	if got, want := sampled()["a"], rate("a", 10, 200, 0); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	a.messages.Add(5)
	var looked wire.TopicRate
	if since := counts.look(now.Add(time.Second), func(r wire.TopicRate) { looked = r }); since != time.Second || looked.Messages != 5 {
		t.Errorf("looked at %v after %s, want 5 a second after 1s", looked, since)
	}
	if got := sampled()["a"].Messages; got != 1 {
		t.Errorf("got %v a second, want 1: a look ends nothing", got)
	}
	for range countsIdle {
		if a.gone.Load() {
			t.Fatal("forgotten too early")
		}
		if got := sampled(); len(got) != 0 {
			t.Errorf("got %v of a quiet topic", got)
		}
	}
	if !a.gone.Load() || counts.size() != 0 {
		t.Errorf("gone: %t, with %d topics; want it forgotten", a.gone.Load(), counts.size())
	}
	if counts.of("a") == a {
		t.Error("got the count that is gone")
	}
}

// Topics for which there is no room are counted together until there is some.
func TestTopicsAreCountedWhereThereIsRoom(t *testing.T) {
	now := time.Unix(1000, 0)
	counts := newTopicCounts(now)
	counts.most = 2
	a, _ := counts.of("a"), counts.of("b")
	c := counts.of("c")
	if c != counts.of("d") || c == a || counts.size() != 2 || counts.uncounted.Load() != 2 {
		t.Fatalf("got %d topics, %d without room; want 2 and 2", counts.size(), counts.uncounted.Load())
	}
	for range countsIdle {
		c.messages.Add(1)
		a.messages.Add(1)
		now = now.Add(5 * time.Second)
		counts.sample(now, func(wire.TopicRate) {})
	}
	if !c.gone.Load() || a.gone.Load() { // b made room
		t.Fatalf("gone: %t, and of a busy topic %t; want true and false", c.gone.Load(), a.gone.Load())
	}
	if counts.of("c") == counts.of("d") {
		t.Error("want a count of its own for c, now that there is room")
	}
}
