package bus

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"
)

// lateEvery is how often it is looked for callers who have waited too long: that
// much later than their deadline they hear of it at most.
const lateEvery = 50 * time.Millisecond

// later is a request whose work goes on by itself.
type later struct {
	e        *served
	ctx      context.Context
	span     trace.Span
	msg      *nats.Msg
	started  time.Time
	deadline time.Time
	answered atomic.Bool
	at       int // in laters.open
}

// laters are the requests of an endpoint that wait for their answer.
type laters struct {
	mu       sync.Mutex
	open     []*later
	watching bool
}

// start begins the work of a request that holds a slot.
func (e *served) start(msg *nats.Msg, started time.Time) {
	ctx, span := e.tracer.Start(Extract(e.s.base, msg.Header), e.Subject, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(e.attrs...))
	l := &later{e: e, ctx: ctx, span: span, msg: msg, started: started, deadline: e.deadline(msg, started)}
	e.s.working.Add(1)
	if !l.deadline.After(started) {
		l.answer(nil, context.DeadlineExceeded)
		return
	}
	e.later.add(l)
	defer func() {
		if r := recover(); r != nil {
			l.answer(nil, e.panicked(ctx, r))
		}
	}()
	e.begin(ctx, msg.Data, l.answer)
}

// answer answers the caller, once.
func (l *later) answer(reply []byte, err error) {
	if !l.answered.CompareAndSwap(false, true) {
		return
	}
	e := l.e
	e.later.remove(l)
	<-e.slots
	e.answer(l.ctx, l.span, l.msg, l.started, reply, err)
	l.span.End()
	e.s.working.Done()
}

func (ls *laters) add(l *later) {
	ls.mu.Lock()
	l.at = len(ls.open) + 1
	ls.open = append(ls.open, l)
	watch := !ls.watching
	ls.watching = true
	ls.mu.Unlock()
	if watch {
		l.e.s.working.Go(l.e.watchLate)
	}
}

// remove forgets a request; those that were never added are not there.
func (ls *laters) remove(l *later) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.at == 0 {
		return
	}
	last := len(ls.open) - 1
	moved := ls.open[last]
	ls.open[l.at-1], moved.at = moved, l.at
	ls.open[last] = nil
	ls.open = ls.open[:last]
}

// late returns requests whose time is over, all of them if stopping; done: there is
// nothing to watch any more.
func (ls *laters) late(now time.Time, stopping bool) (late []*later, done bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.open {
		if stopping || now.After(l.deadline) {
			late = append(late, l)
		}
	}
	ls.watching = len(ls.open) > 0
	return late, !ls.watching
}

// watchLate answers callers whose time is over, until nobody waits.
func (e *served) watchLate() {
	tick := time.NewTicker(lateEvery)
	defer tick.Stop()
	for {
		stopping := false
		select {
		case <-tick.C:
		case <-e.s.base.Done(): // the drain ran out of time
			stopping = true
		}
		late, done := e.later.late(time.Now(), stopping)
		if done {
			return
		}
		for _, l := range late {
			err := context.DeadlineExceeded
			if stopping {
				err = context.Canceled
			}
			l.answer(nil, err)
		}
	}
}
