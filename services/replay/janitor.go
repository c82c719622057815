package replay

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
)

const (
	// janitorEvery is how often expired messages are looked for.
	janitorEvery = time.Minute
	// janitorWorth is how many expired messages of a topic are worth a purge.
	janitorWorth = 16
	// janitorPace is the most purges per second and stream.
	janitorPace = 50
)

// janitor removes what has expired: the stream itself keeps messages longer, so
// that the newest of each topic stays as evidence. Replicas may do it at once:
// a purge that was done does nothing.
func (s *Service) janitor(ctx context.Context) {
	for {
		if clock.Sleep(ctx, janitorEvery/2+rand.N(janitorEvery)) != nil {
			return
		}
		for _, log := range s.streams() {
			s.metrics.purges.Add(log.purgeExpired(ctx))
		}
	}
}

// purgeExpired removes expired messages, and returns of how many topics.
func (s *stream) purgeExpired(ctx context.Context) (topics int64) {
	if s.retention.TTL <= 0 {
		return 0
	}
	x := s.index.get()
	dead := x.expiredBefore(s.now().UnixMilli() - s.retention.TTL.Milliseconds())
	if dead == 0 {
		return 0
	}
	for _, p := range x.prunable(dead, janitorWorth) {
		subject, err := s.ns.Topic(p.topic)
		if err != nil {
			continue
		}
		// By sequence, never by how many to keep: what was published since then
		// is untouched.
		if s.reads.purge(ctx, s.name, subject, p.before) != nil {
			return topics // JetStream is away, or slow: later
		}
		x.evicted(p.topic, p.before-1)
		topics++
		if clock.Sleep(ctx, time.Second/janitorPace) != nil {
			return topics
		}
	}
	return topics
}

// prunable is a topic whose messages before a sequence have expired: the newest
// expired one, which stays as evidence.
type prunable struct {
	topic  string
	before int64
}

// prunable returns the topics with so many expired messages before their newest
// expired one.
func (x *index) prunable(dead int64, worth int) (out []prunable) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name, t := range x.topics {
		x.trim(t)
		if t.count <= worth || t.first > dead {
			continue
		}
		seqs := t.seqs()
		if i := behind(seqs, dead) - 1; i >= worth {
			out = append(out, prunable{name, seqs[i]})
		}
	}
	return out
}
