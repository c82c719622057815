package gateway

import (
	"context"
	"strconv"
	"time"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	defaultHistory = 100
	maxHistory     = 1000
	// replayWait bounds a question to the replay service, and replayTry how long
	// one replica has for it while there may be another.
	replayWait = 5 * time.Second
	replayTry  = 1500 * time.Millisecond
	// replayPatience is how long a question that nobody can answer yet is asked
	// again: a replica that starts, or a stream that elects a leader.
	replayPatience = time.Second
	// resumePatience is how long a service may have been away for a resume to wait
	// for it: who resumes a moment too early has lost messages.
	resumePatience = breaker.Delay + 500*time.Millisecond
)

// since asks the replay service for messages.
func (g *Service) since(ctx context.Context, req wire.ReplaySinceRequest) (*wire.ReplayPage, error) {
	g.metrics.histories.Add(1)
	page, err := askReplay[wire.ReplaySinceRequest, wire.ReplayPage](ctx, g, "since", req)
	return &page, err
}

// askReplay asks the replay service. A question that nobody can answer yet is
// asked again for a moment, and once more where no answer came in time: a
// replica that dies takes the questions that it has with it, while another one
// could have answered. While the breaker says that there is none it fails at once;
// to the breaker all that is one question.
func askReplay[Req, Rep any](ctx context.Context, g *Service, endpoint string, req Req) (rep Rep, err error) {
	d := g.dependencies.replay
	ctx, cancel := context.WithTimeout(ctx, replayWait)
	defer cancel()
	q, err := d.ask()
	if err != nil {
		return rep, err
	}
	defer func() { q.done(err) }()
	ask := func(ctx context.Context) (Rep, error) {
		return bus.Call[Req, Rep](ctx, g.reads, g.cfg.Namespace.Svc(d.what, endpoint), req)
	}
	began := time.Now()
	once, stop := context.WithTimeout(ctx, replayTry)
	defer stop()
	for wait := mendPause; ; wait *= 2 {
		rep, err = ask(once)
		switch {
		case err == nil || ctx.Err() != nil:
			return rep, err
		case time.Since(began) >= replayTry/2 && once.Err() != nil:
			return ask(ctx)
		case wire.CodeOf(err) != wire.Unavailable || wire.AsError(err).RetryAfter > 0 || !d.healthy() || time.Since(began)+wait > replayPatience || !g.link.up() || clock.Sleep(once, wait) != nil:
			return rep, err
		}
	}
}

// headPage is the page of who begins at the head: no message, and the position.
func (g *Service) headPage(ctx context.Context, topic string) (*wire.ReplayPage, error) {
	head, err := askReplay[wire.ReplayTopic, wire.ReplayHead](ctx, g, "head", wire.ReplayTopic{Topic: topic})
	if err != nil {
		return nil, err
	}
	return &wire.ReplayPage{Head: wire.Position{Seq: head.Seq, Ts: head.Ts}, Base: head.At, At: head.At}, nil
}

// replayed returns FAILED_PRECONDITION where a topic's rule has no replay.
func (g *Service) replayed(topic string) *wire.Error {
	if rule := g.rules.Current().Topic(topic); rule == nil || rule.Replay == nil {
		return wire.Errorf(wire.FailedPrecondition, "the topic's rule has no replay")
	}
	return nil
}

// ask runs a question to another service beside the reader, which reads on: the
// answers of a connection come in any order.
func (c *connection) ask(f *wire.Frame, question func(context.Context) ([]byte, error)) *wire.Error {
	op, topic, id := f.Op.String(), f.Topic, f.ID
	c.mu.Lock()
	limit := c.g.cfg.Limits.PendingPerConnection
	if c.asking >= limit {
		c.mu.Unlock()
		c.g.metrics.limited.Add(1)
		return (&wire.Error{Code: wire.ResourceExhausted, Message: "too many requests outstanding on this connection"}).With("limit", limit)
	}
	c.asking++
	c.mu.Unlock()
	started := c.g.mender.spawn(func(ctx context.Context) {
		ok, err := question(ctx)
		c.mu.Lock()
		c.asking--
		c.mu.Unlock()
		if err != nil {
			refused := wire.AsError(err).With("op", op)
			if topic != "" {
				refused = refused.With("topic", topic)
			}
			c.fail(id, refused)
			return
		}
		c.ok(id, ok)
	})
	if !started {
		return unavailable("the gateway is stopping")
	}
	return nil
}

// history answers what a topic retains after a position.
func (c *connection) history(f *wire.Frame) *wire.Error {
	if err := c.g.replayed(f.Topic); err != nil {
		return err
	}
	req := wire.ReplaySinceRequest{Topic: f.Topic, After: f.After, Ts: f.Ts, Limit: int(f.Limit)}
	if req.Limit == 0 {
		req.Limit = defaultHistory
	}
	rule := c.g.rules.Current().Topic(f.Topic)
	return c.ask(f, func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*replayWait) // with those who are first
		defer cancel()
		page, err := c.g.past(ctx, req)
		if err != nil {
			return nil, err
		}
		out := append(make([]byte, 0, 256*(len(page.Messages)+1)), `{"messages":[`...)
		for i := range page.Messages {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, frameOf("", &page.Messages[i], rule)...)
		}
		out = append(out, `],"seq":`...)
		out = strconv.AppendInt(out, page.Head.Seq, 10)
		out = appendTruncation(out, page.Truncated, page.MissingFrom)
		out = append(out, `,"more":`...)
		return append(strconv.AppendBool(out, page.More), '}'), nil
	})
}

// gap answers whether a message after a position is gone.
func (c *connection) gap(f *wire.Frame) *wire.Error {
	if err := c.g.replayed(f.Topic); err != nil {
		return err
	}
	req := wire.ReplayAfter{Topic: f.Topic, After: f.After, Ts: f.Ts}
	return c.ask(f, func(ctx context.Context) ([]byte, error) {
		gap, err := askReplay[wire.ReplayAfter, wire.ReplayGap](ctx, c.g, "gap", req)
		if err != nil {
			return nil, err
		}
		out := strconv.AppendInt([]byte(`{"seq":`), gap.Seq, 10)
		return append(appendTruncation(out, gap.Truncated, gap.MissingFrom), '}'), nil
	})
}

func appendTruncation(dst []byte, truncated bool, missingFrom int64) []byte {
	dst = append(dst, `,"truncated":`...)
	dst = strconv.AppendBool(dst, truncated)
	if truncated {
		dst = append(dst, `,"missingFrom":`...)
		dst = strconv.AppendInt(dst, missingFrom, 10)
	}
	return dst
}
