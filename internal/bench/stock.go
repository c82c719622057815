package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// stock is a stream filled for reading: sparse topics, whose messages are
// spread over all of it, many small ones between them, and recent topics at
// its end. Message i of each is numbered firstNumber+i.
type stock struct {
	run      int64
	messages int // about so many in all
	sparse   int // topics with stockDepth messages, spread
	recent   int // topics with stockDepth messages, at the end
	each     int // messages of each of the small topics
	small    int // how many of those came out
	size     int // bytes of a payload
	took     time.Duration
	bytes    int64 // of the stream
}

// stockDepth is one message to stand on, and the hundred behind it.
const stockDepth = 101

func (s *stock) sparseTopic(i int) string { return fmt.Sprintf("%s%x.sparse.%d", logPrefix, s.run, i) }
func (s *stock) recentTopic(i int) string { return fmt.Sprintf("%s%x.recent.%d", logPrefix, s.run, i) }
func (s *stock) smallTopic(i int) string  { return fmt.Sprintf("%s%x.small.%d", logPrefix, s.run, i) }

// fill stores everything, and returns when the replay service knows it.
func (s *stock) fill(ctx context.Context, nc *nats.Conn) error {
	s.run = time.Now().UnixNano()
	spread := s.sparse * stockDepth
	s.small = (s.messages - spread - s.recent*stockDepth) / s.each
	if s.small < 1 {
		return fmt.Errorf("%d messages are too few for %d topics of %d", s.messages, s.sparse+s.recent, stockDepth)
	}
	w, err := newWriter(nc, s.size)
	if err != nil {
		return err
	}
	began := time.Now()
	fill := s.small * s.each
	done := 0
	for i := range fill {
		// Small topics take turns, so that theirs are spread too.
		if err := w.put(ctx, s.smallTopic(i%s.small), int64(i/s.small)); err != nil {
			return err
		}
		for ; done < spread && done*fill <= i*spread; done++ {
			if err := w.put(ctx, s.sparseTopic(done%s.sparse), int64(done/s.sparse)); err != nil {
				return err
			}
		}
	}
	for ; done < spread; done++ {
		if err := w.put(ctx, s.sparseTopic(done%s.sparse), int64(done/s.sparse)); err != nil {
			return err
		}
	}
	for i := range s.recent * stockDepth {
		if err := w.put(ctx, s.recentTopic(i%s.recent), int64(i/s.recent)); err != nil {
			return err
		}
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	s.took = time.Since(began)
	state, err := streamState(ctx, nc)
	if err != nil {
		return err
	}
	if want := int64(w.sent); state.Messages != want {
		return fmt.Errorf("%d messages were written, the stream has %d", want, state.Messages)
	}
	s.bytes = state.Bytes
	// The index is behind: until it has come to the end, reads are scans.
	_, err = firstOf(ctx, nc, logPrefix+"flush")
	return err
}

// describe puts what was stored into a report.
func (s *stock) describe(p map[string]any) {
	p["messages"], p["sparse"], p["recent"], p["small"] = s.messages, s.sparse, s.recent, fmt.Sprintf("%dx%d", s.small, s.each)
	p["size"] = s.size
}

// positions returns where the first message of each of n topics stands.
func positions(ctx context.Context, nc *nats.Conn, n int, topic func(int) string) ([]wire.Position, error) {
	all := make([]wire.Position, n)
	for i := range all {
		var err error
		if all[i], err = firstOf(ctx, nc, topic(i)); err != nil {
			return nil, fmt.Errorf("%s: %w", topic(i), err)
		}
	}
	return all, nil
}
