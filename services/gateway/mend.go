package gateway

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// mendAtOnce bounds how many topics are mended at a time.
	mendAtOnce = 64
	// mendPatience is how long a topic waits for its missing messages while
	// nobody can read them; then it says that they are gone and goes on. A
	// cluster that lost the leader of a stream without a word elects another
	// within 4 to 9 seconds, and nothing is gone then.
	mendPatience = 12 * time.Second
	mendPause    = 25 * time.Millisecond
	// mendRounds bounds how often one mending reads again.
	mendRounds = 1000
)

// mender runs the repairs of topics whose trail broke.
type mender struct {
	slots chan struct{}
	wide  chan struct{}   // of wildcards
	ctx   context.Context // of the work; ends with the gateway
	work  sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

func newMender(ctx context.Context) *mender {
	return &mender{slots: make(chan struct{}, mendAtOnce), wide: make(chan struct{}, stretchesAtOnce), ctx: ctx}
}

// spawn runs fn on a goroutine that close waits for, unless it is closed.
func (m *mender) spawn(fn func(context.Context)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.work.Go(func() { fn(m.ctx) })
	return true
}

func (m *mender) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.work.Wait()
}

// mend fetches what an interest misses. Its trail is marked as being mended,
// and in.mu is held.
func (g *Service) mend(in *interest) {
	g.metrics.repairs.Add(1)
	g.mender.spawn(func(ctx context.Context) {
		select {
		case g.mender.slots <- struct{}{}:
			defer func() { <-g.mender.slots }()
		case <-ctx.Done():
			return
		}
		g.mendTrail(ctx, in)
	})
}

// mendTrail reads on from where the trail is until it has caught up with what
// was held meanwhile.
func (g *Service) mendTrail(ctx context.Context, in *interest) {
	var failing time.Time // since when nobody can read
	for rounds := 0; rounds < mendRounds; {
		in.mu.Lock()
		t := in.trail
		if t == nil || !t.mending {
			in.mu.Unlock()
			return
		}
		from, known := t.at, t.known
		asked := len(t.held)
		in.mu.Unlock()

		var page *wire.ReplayPage
		var err error
		if known {
			page, err = g.since(ctx, wire.ReplaySinceRequest{Topic: in.topic, After: from.Seq, Ts: from.Ts, Limit: maxHistory})
		} else {
			page, err = g.headPage(ctx, in.topic)
		}
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			switch {
			case !g.link.up():
				failing = time.Time{} // nothing is known while NATS is away
			case !known || refused(err) || !failing.IsZero() && time.Since(failing) > mendPatience:
				g.giveUp(in, t)
				return
			case failing.IsZero():
				failing = time.Now() // the question itself may have taken long
			}
			if clock.Sleep(ctx, min(max(mendPause, wire.AsError(err).RetryAfter), time.Second)) != nil {
				return
			}
			continue
		}
		if g.mended(in, t, page, asked) {
			return
		}
		failing = time.Time{}
		rounds++
	}
	in.mu.Lock()
	t := in.trail
	in.mu.Unlock()
	g.giveUp(in, t)
}

// mended takes a page that follows the trail's position, then what was held.
// It reports whether the trail is whole again. The first asked of the held
// messages came before the page was asked for: the page knows them.
func (g *Service) mended(in *interest, t *trail, page *wire.ReplayPage, asked int) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.trail != t {
		return true
	}
	switch {
	case !t.known:
		t.reset(page.At)
	case page.Truncated:
		from := page.MissingFrom
		t.reset(page.Base)
		at, first := page.Base, page.At
		if len(page.Messages) == 0 {
			at = page.At
			t.reset(at)
		} else {
			first = page.Messages[0].Position
		}
		g.truncate(in, from, first, at, 0)
	}
	g.detach(in, page)
	for i := range page.Messages {
		m := &page.Messages[i]
		if t.at.Ts > 0 && m.Seq <= t.at.Seq {
			continue
		}
		g.step(in, m)
	}
	if page.More {
		return false
	}
	all, spilled := t.release()
	for i, h := range all {
		switch t.judge(h.at, h.prev) {
		case stepOld:
			continue
		case stepNext:
			g.advance(in, h.msg, h.at, h.prev)
			continue
		}
		if i < asked {
			// The stream was read after it came, and does not have it.
			g.metrics.malformed.Add(1)
			continue
		}
		t.keep(all[i:], spilled)
		return false
	}
	if spilled {
		return false
	}
	t.finish()
	return true
}

// giveUp goes on without what could not be read, and says so.
func (g *Service) giveUp(in *interest, t *trail) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.trail != t || t == nil || !t.mending {
		return
	}
	all, _ := t.release()
	if t.known && len(all) > 0 {
		from := t.at.Seq + 1
		t.known = false
		t.forget()
		g.truncate(in, from, wire.Position{}, wire.Position{}, 0)
	}
	t.finish()
	for _, h := range all {
		switch t.judge(h.at, h.prev) {
		case stepNext:
			g.advance(in, h.msg, h.at, h.prev)
		case stepUnproven:
			t.mending = true
			t.hold(h)
		}
	}
	if t.mending {
		g.mend(in)
	}
}

// suspect mends a trail if it is not being mended already.
func (g *Service) suspect(in *interest) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if t := in.trail; t != nil && !t.mending {
		t.mending = true
		g.mend(in)
	}
}

// hinted looks again where a publisher says that the topic has a message which
// its subscribers may never have been sent.
func (g *Service) hinted(in *interest, head string) {
	seq, ok := headOf(head)
	if !ok {
		g.metrics.malformed.Add(1)
		return
	}
	in.mu.Lock()
	behind := in.trail != nil && in.trail.known && in.trail.at.Seq < seq
	in.mu.Unlock()
	if behind {
		g.suspect(in)
	}
}

// headOf reads what a hint says.
func headOf(head string) (seq int64, ok bool) {
	seq, err := strconv.ParseInt(head, 10, 64)
	return seq, err == nil && seq > 0
}

// close ends what an interest holds.
func (in *interest) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	if in.trail != nil {
		in.trail.forget()
		in.trail.finish()
		in.trail = nil
	}
	for _, t := range in.tracks {
		t.finish()
	}
	in.tracks = nil
}

// refused reports whether an error says that asking again is of no use: the
// next message is larger than an answer can be.
func refused(err error) bool { return wire.AsError(err).RetryAfter == wire.Never }
