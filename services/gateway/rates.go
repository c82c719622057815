package gateway

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// sliceTopics is how many of the topics that are published to most a gateway
	// shares, and how many of those with the most subscribers.
	sliceTopics = 20
	// sliceMost bounds what is taken from one gateway: its own top topics, and
	// what it has of those that are at the top of all gateways.
	sliceMost = 2*sliceTopics + topMost
	// slicesMost bounds the gateways that are remembered.
	slicesMost = 1000
	// sliceLife is how long a slice counts without a newer one, unless the
	// configuration says otherwise.
	sliceLife = 12 * time.Second
	// topMost is the most topics that an answer lists.
	topMost = 100
)

// rateTable holds what every gateway says is published. A gateway's own slice
// is there as it was shared, so that all of them come to the same.
type rateTable struct {
	own    string
	life   time.Duration
	slices map[string]rateSlice // by gateway
}

type rateSlice struct {
	topics []wire.TopicRate
	heard  time.Time
}

func newRateTable(own string, life time.Duration) *rateTable {
	return &rateTable{own: own, life: life, slices: map[string]rateSlice{}}
}

// put replaces what a gateway says. It returns false where there is no room.
func (t *rateTable) put(gateway string, topics []wire.TopicRate, now time.Time) bool {
	if _, known := t.slices[gateway]; !known && gateway != t.own && len(t.slices) >= slicesMost {
		return false
	}
	t.slices[gateway] = rateSlice{topics, now}
	return true
}

// drop forgets a gateway that has left.
func (t *rateTable) drop(gateway string) { delete(t.slices, gateway) }

// expire forgets the gateways that have said nothing for too long.
func (t *rateTable) expire(now time.Time) (gone bool) {
	for gateway, s := range t.slices {
		if gateway != t.own && now.Sub(s.heard) > t.life {
			delete(t.slices, gateway)
			gone = true
		}
	}
	return gone
}

// merge returns the sum of all slices.
func (t *rateTable) merge() *clusterRates {
	r := &clusterRates{at: map[string]int{}, gateways: len(t.slices)}
	for _, s := range t.slices {
		for _, topic := range s.topics {
			i, ok := r.at[topic.Topic]
			if !ok {
				i = len(r.topics)
				r.at[topic.Topic] = i
				r.topics = append(r.topics, wire.TopicRate{Topic: topic.Topic})
			}
			sum := &r.topics[i]
			sum.Messages += topic.Messages
			sum.Bytes += topic.Bytes
			sum.Subscribers += topic.Subscribers
		}
	}
	// The slices came in no order, and sums of fractions depend on it.
	for i := range r.topics {
		r.topics[i].Messages, r.topics[i].Bytes = round(r.topics[i].Messages), round(r.topics[i].Bytes)
	}
	slices.SortFunc(r.topics, byRate)
	for i := range r.topics {
		r.at[r.topics[i].Topic] = i
	}
	return r
}

// byRate sorts the topics that are published to most first.
func byRate(a, b wire.TopicRate) int {
	return cmp.Or(cmp.Compare(b.Messages, a.Messages), cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Topic, b.Topic))
}

// bySubscribers sorts the topics with the most subscribers first.
func bySubscribers(a, b wire.TopicRate) int {
	return cmp.Or(cmp.Compare(b.Subscribers, a.Subscribers), strings.Compare(a.Topic, b.Topic))
}

// clusterRates is what the clients of all gateways publish. It does not change.
type clusterRates struct {
	topics   []wire.TopicRate // sorted by rate
	at       map[string]int   // index by topic
	gateways int
}

// of returns the figures of a topic: zeros where none are known.
func (r *clusterRates) of(topic string) wire.TopicRate {
	if i, ok := r.at[topic]; ok {
		return r.topics[i]
	}
	return wire.TopicRate{Topic: topic}
}

// top returns the n topics that are published to most, and no others.
func (r *clusterRates) top(n int) []wire.TopicRate {
	top := r.topics[:min(n, len(r.topics))]
	quiet := slices.IndexFunc(top, func(t wire.TopicRate) bool { return t.Messages <= 0 })
	if quiet >= 0 {
		top = top[:quiet]
	}
	return slices.Clip(top)
}

// best keeps the n first of what it is given, in order.
type best struct {
	n     int
	order func(a, b wire.TopicRate) int
	kept  []wire.TopicRate
}

func (b *best) add(r wire.TopicRate) {
	if len(b.kept) == b.n && b.order(r, b.kept[b.n-1]) >= 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(b.kept, r, b.order)
	b.kept = slices.Insert(b.kept, i, r)
	if len(b.kept) > b.n {
		b.kept = b.kept[:b.n]
	}
}

// checkRates reports whether a gateway can have said this.
func checkRates(r *wire.TopicRates) bool {
	if r.Gateway == "" || len(r.Gateway) > 64 || len(r.Topics) > sliceMost {
		return false
	}
	const most = 1e15 // sums of them stay exact enough
	for i := range r.Topics {
		t := &r.Topics[i]
		if wire.CheckTopic(t.Topic) != nil || t.Messages < 0 || t.Messages > most || t.Bytes < 0 || t.Bytes > most || t.Subscribers < 0 || t.Subscribers > most {
			return false
		}
	}
	return true
}
