package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// stretchBytes bounds what is read for a wildcard at once.
	stretchBytes = 16 << 20
	stretchChunk = 500
	// stretchesAtOnce bounds how many are read at a time.
	stretchesAtOnce = 4
)

// stretch is what a stream holds for a wildcard behind a sequence.
type stretch struct {
	end      wire.Position // of the stream
	kept     int           // messages of each topic that the stream holds at most
	wiped    bool          // it is another log than the one that was followed
	tooMuch  bool          // more than is read
	doubtful bool          // something of it may have been evicted
	messages []loggedMessage
}

// readStretch reads what a wildcard's stream holds behind a sequence, by one
// consumer. at is a position that the stream had, known whether there is one.
func (g *Service) readStretch(ctx context.Context, t *streamTrail, at wire.Position, known bool, whole int64) (*stretch, error) {
	ctx, cancel := context.WithTimeout(ctx, replayWait)
	defer cancel()
	stream, err := g.readStreams.Stream(ctx, t.stream)
	if err != nil {
		return nil, fmt.Errorf("look for stream %s: %w", t.stream, err)
	}
	info := stream.CachedInfo()
	state := info.State
	out := &stretch{kept: int(info.Config.MaxMsgsPerSubject)}
	out.end.Seq = int64(state.LastSeq)
	if !state.LastTime.IsZero() {
		out.end.Ts = state.LastTime.UnixMilli()
	}
	if !known {
		return out, nil
	}
	if out.wiped, err = another(ctx, stream, out.end, at); err != nil || out.wiped || out.end.Seq <= whole {
		return out, err
	}
	full := info.Config.MaxBytes > 0 && state.Bytes > uint64(info.Config.MaxBytes)/2
	out.doubtful = full && int64(state.FirstSeq) > whole+1
	filter, err := g.cfg.Namespace.Topic(t.filter)
	if err != nil {
		return nil, err
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(whole + 1),
		FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true,
		InactiveThreshold: replayWait,
	})
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", t.stream, err)
	}
	defer func() {
		// What is left of it ends by itself.
		_ = stream.DeleteConsumer(context.WithoutCancel(ctx), consumer.CachedInfo().Name)
	}()
	left := int(consumer.CachedInfo().NumPending)
	if out.tooMuch = left > widest; out.tooMuch {
		return out, nil
	}
	for bytes := 0; left > 0; {
		batch, err := consumer.Fetch(min(left, stretchChunk), jetstream.FetchMaxWait(replayWait/2))
		if err != nil {
			return nil, fmt.Errorf("read stream %s: %w", t.stream, err)
		}
		n := 0
		for msg := range batch.Messages() {
			n++
			bytes += len(msg.Data())
			g.add(out, msg)
		}
		if err := batch.Error(); err != nil {
			return nil, fmt.Errorf("read stream %s: %w", t.stream, err)
		}
		if out.tooMuch = bytes > stretchBytes; out.tooMuch {
			return out, nil
		}
		if n == 0 {
			return nil, errors.New("the stream does not go on")
		}
		left -= n
	}
	return out, nil
}

// add takes one message that was read.
func (g *Service) add(out *stretch, msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		return
	}
	m, ok := g.logged(&nats.Msg{Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data()})
	if !ok {
		return
	}
	m.Position = wire.Position{Seq: int64(meta.Sequence.Stream), Ts: meta.Timestamp.UnixMilli()}
	out.messages = append(out.messages, m)
}

// another reports whether a stream that ends at end is not the one that had a
// message at a position.
func another(ctx context.Context, stream jetstream.Stream, end, at wire.Position) (bool, error) {
	if at.Seq == 0 || end.Seq == at.Seq {
		return end.Seq == at.Seq && end.Ts != at.Ts && at.Seq > 0, nil
	}
	if end.Seq < at.Seq {
		return true, nil
	}
	msg, err := stream.GetMsg(ctx, uint64(at.Seq))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return false, nil // evicted: nothing says so
	case err != nil:
		return false, fmt.Errorf("read a message: %w", err)
	}
	return msg.Time.UnixMilli() != at.Ts, nil
}

// mendWildcard fetches what a trail misses, unless that is being done already;
// in.mu is held.
func (g *Service) mendWildcard(in *interest, t *streamTrail) {
	if t.mending {
		return
	}
	t.mending = true
	g.metrics.repairs.Add(1)
	g.mender.spawn(func(ctx context.Context) { g.mendStream(ctx, in, t) })
}

// mendStream reads on from where a trail was whole until it is again.
func (g *Service) mendStream(ctx context.Context, in *interest, t *streamTrail) {
	select {
	case g.mender.wide <- struct{}{}:
		defer func() { <-g.mender.wide }()
	case <-ctx.Done():
		return
	}
	var failing time.Time // since when nobody can read
	for rounds := 0; rounds < mendRounds; {
		in.mu.Lock()
		at, known, whole, asked := t.at, t.known, t.whole, len(t.held)
		gone := in.track(t.rule) != t || !t.mending
		in.mu.Unlock()
		if gone {
			return
		}
		read, err := g.readStretch(ctx, t, at, known, whole)
		switch {
		case err == nil:
			if g.mendedStream(in, t, read, asked) {
				return
			}
			failing = time.Time{}
			rounds++
			continue
		case ctx.Err() != nil:
			return
		case !g.link.up():
			failing = time.Time{} // nothing is known while NATS is away
		case failing.IsZero() && known:
			failing = time.Now()
		case !known || time.Since(failing) > mendPatience:
			g.log.Warn("a wildcard can't be mended", "err", err)
			g.giveUpStream(in, t)
			return
		}
		if clock.Sleep(ctx, mendPause) != nil {
			return
		}
	}
	g.giveUpStream(in, t)
}

// giveUpStream goes on without what could not be read, and says so where there
// is anything that shows that something may be missing. It is looked for again.
func (g *Service) giveUpStream(in *interest, t *streamTrail) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.track(t.rule) != t || !t.mending {
		return
	}
	all, spilled := t.release()
	told := false
	for i, h := range all {
		step := t.judge(h.at, h.prev)
		if step == stepUnproven || spilled && t.known && i == 0 {
			if !told {
				g.truncateAll(in, in.topic, t.whole+1)
			}
			told = true
			t.forget()
			step = stepNext
		}
		if step == stepNext {
			g.passHeld(in, t, h)
		}
	}
	t.finish()
	g.checks.add(in, time.Now().Add(followUp))
}

// mendedStream passes on what was read, then what was held, and reports whether
// the trail is whole. The first asked of the held messages came before the
// stream was read.
func (g *Service) mendedStream(in *interest, t *streamTrail, read *stretch, asked int) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.track(t.rule) != t {
		return true
	}
	all, spilled := t.release()
	if !t.known || read.wiped || read.tooMuch {
		if t.known {
			g.truncateAll(in, in.topic, t.whole+1)
		}
		t.forget()
		for _, h := range all {
			g.passHeld(in, t, h)
		}
		t.look(read.end)
		t.finish()
		return true
	}
	if from := t.lost(read, all[:asked]); from > 0 {
		g.truncateAll(in, in.topic, from)
	}
	before := map[string]int64{}
	for i := range read.messages {
		m := &read.messages[i]
		if t.owes(m.Seq) {
			m.Prev = before[m.topic]
			g.pass(in, t, m)
		}
		before[m.topic] = m.Seq
	}
	t.look(read.end)
	for i, h := range all {
		switch step := t.judge(h.at, h.prev); {
		case step == stepNext, step == stepUnproven && i < asked && t.owes(h.at.Seq) && !t.owes(h.prev):
			g.passHeld(in, t, h)
		case step == stepUnproven && i >= asked:
			t.keep(all[i:], spilled)
			return false
		}
	}
	if spilled {
		return false // what was dropped has to be read
	}
	t.finish()
	return true
}

func (g *Service) passHeld(in *interest, t *streamTrail, h held) {
	m, ok := g.logged(h.msg)
	if !ok {
		return
	}
	m.Position, m.Prev = h.at, h.prev
	g.pass(in, t, &m)
}

// lost returns the first sequence behind which something owed may be gone from
// the stream; 0 where nothing is. held is what came before the stream was read,
// which says what was stored before it.
func (t *streamTrail) lost(read *stretch, held []held) (from int64) {
	if read.doubtful {
		return t.whole + 1
	}
	count := map[string]int{}
	first := map[string]int64{}
	has := make(map[int64]bool, len(read.messages))
	for i := range read.messages {
		m := &read.messages[i]
		has[m.Seq] = true
		if count[m.topic]++; count[m.topic] == 1 {
			first[m.topic] = m.Seq
		}
		// A topic loses its oldest messages only: one that has as many as the
		// stream holds may have lost what came before them.
		if count[m.topic] >= read.kept && t.owes(first[m.topic]) && first[m.topic] > t.whole+1 {
			return t.whole + 1
		}
	}
	for _, h := range held {
		if t.owes(h.prev) && !has[h.prev] {
			return h.prev
		}
	}
	return 0
}
