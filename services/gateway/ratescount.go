package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// countsMost bounds the topics that are counted one by one.
	countsMost = 100_000
	// countsIdle is how many samples without a message make a topic forgotten.
	countsIdle = 12
)

// topicCount counts what clients publish to one topic. Connections keep it: a
// message costs two additions.
type topicCount struct {
	messages, bytes atomic.Int64
	gone            atomic.Bool // it counts no more: ask for another one

	// Guarded by the mutex of topicCounts.
	lastMessages, lastBytes int64 // at the last sample
	idle                    int   // samples without a message
}

// topicCounts are the counts of all topics that were published to a while ago.
type topicCounts struct {
	mu        sync.Mutex
	counts    map[string]*topicCount
	rest      *topicCount // of all topics for which there is no room
	most      int
	sampled   time.Time
	uncounted atomic.Int64 // times that there was no room
}

func newTopicCounts(now time.Time) *topicCounts {
	return &topicCounts{counts: map[string]*topicCount{}, rest: &topicCount{}, most: countsMost, sampled: now}
}

// of returns the count of a topic.
func (t *topicCounts) of(topic string) *topicCount {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts[topic]
	if c == nil {
		if len(t.counts) >= t.most {
			t.uncounted.Add(1)
			return t.rest
		}
		c = &topicCount{}
		t.counts[topic] = c
	}
	return c
}

// sample calls each for every topic that was published to since the last
// sample, which it ends with this one, and forgets those that were not for long.
func (t *topicCounts) sample(now time.Time, each func(wire.TopicRate)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	since := now.Sub(t.sampled)
	t.sampled = now
	forgot := false
	for topic, c := range t.counts {
		r, messages, bytes := c.rate(topic, since)
		c.lastMessages, c.lastBytes = messages, bytes
		if r.Messages > 0 {
			c.idle = 0
			each(r)
		} else if c.idle++; c.idle >= countsIdle {
			c.gone.Store(true)
			delete(t.counts, topic)
			forgot = true
		}
	}
	if forgot { // there is room for some of the rest
		t.rest.gone.Store(true)
		t.rest = &topicCount{}
	}
}

// look is sample without ending one; since says how long the one is that it
// looks into.
func (t *topicCounts) look(now time.Time, each func(wire.TopicRate)) (since time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	since = now.Sub(t.sampled)
	for topic, c := range t.counts {
		if r, _, _ := c.rate(topic, since); r.Messages > 0 {
			each(r)
		}
	}
	return since
}

// rate is what was published since the last sample; the counts it comes from
// are of one moment.
func (c *topicCount) rate(topic string, since time.Duration) (r wire.TopicRate, messages, bytes int64) {
	messages, bytes = c.messages.Load(), c.bytes.Load()
	return wire.TopicRate{Topic: topic, Messages: perSecond(messages-c.lastMessages, since), Bytes: perSecond(bytes-c.lastBytes, since)}, messages, bytes
}

func (t *topicCounts) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.counts)
}
