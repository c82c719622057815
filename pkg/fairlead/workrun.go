package fairlead

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// receive takes an attempt and lets it run, or wait for its turn.
func (w *Worker) receive(msg *nats.Msg) {
	a := w.readAttempt(msg, time.Now())
	if a == nil {
		return
	}
	a.begin()
	w.mu.Lock()
	for w.book.full() && w.ctx.Err() == nil {
		space := w.space
		w.mu.Unlock()
		select {
		case <-space:
		case <-w.ctx.Done():
		}
		w.mu.Lock()
	}
	given, ok := w.book.admit(a)
	late := w.fill()
	w.mu.Unlock()
	if given != nil && ok {
		given.lose(true)
	}
	if !ok { // it was here before
		a.close()
	}
	closeAll(late)
}

// fill begins as many attempts as may run; w.mu is held. It returns those that are
// out of time.
func (w *Worker) fill() (late []*Attempt) {
	full := w.book.full()
	for {
		a, before := w.book.start(time.Now())
		late = append(late, before...)
		if a == nil {
			break
		}
		w.working.Go(func() { w.do(a) })
	}
	if full && !w.book.full() {
		close(w.space)
		w.space = make(chan struct{})
	}
	return late
}

// do runs an attempt and tells what comes of it. It counts for the worker's
// concurrency until its function has returned.
func (w *Worker) do(a *Attempt) {
	var data []byte
	var err error = errGone
	defer func() { // also where the function ends its goroutine, as t.FailNow does
		cause := a.finish()
		w.change(func(b *workbook) { b.ran() })
		if told, ok := w.outcome(a, data, err, cause); ok {
			w.settle(a, told)
		}
		w.change(func(b *workbook) { b.told(a) })
		a.close()
	}()
	data, err = w.result(a)
}

// change changes the book, and begins what may begin by it.
func (w *Worker) change(do func(*workbook)) {
	w.mu.Lock()
	do(w.book)
	late := w.fill()
	w.mu.Unlock()
	closeAll(late)
}

func closeAll(attempts []*Attempt) {
	for _, a := range attempts {
		a.close()
	}
}

// errGone stands for a function that did not return.
var errGone = errors.New("the worker's function ended its goroutine")

// result runs the worker's function.
func (w *Worker) result(a *Attempt) (data []byte, err error) {
	if a.ctx.Err() != nil {
		return nil, a.ctx.Err()
	}
	defer func() {
		if p := recover(); p != nil {
			w.f.opts.Log.Error("a worker panicked", "task", w.name, "id", a.id.String(), "attempt", a.number, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			data, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	input := a.input
	a.input = nil // the function has it as long as it needs it
	data, err = w.fn(a.ctx, a, input)
	if coded := (*wire.Error)(nil); errors.As(err, &coded) && coded == nil { // its methods can't be called
		err = errors.New("a nil *wire.Error, which is an error")
	}
	return data, err
}

// alive returns the attempts that are to be kept alive.
func (w *Worker) alive(now time.Time) []*Attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.book.held) == 0 {
		return nil
	}
	all := make([]*Attempt, 0, len(w.book.held))
	for _, a := range w.book.held {
		if now.Before(a.deadline) {
			all = append(all, a)
		}
	}
	return all
}

// find returns an attempt that is here.
func (w *Worker) find(id wire.TaskID, fence int64) *Attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.book.held[id]; a != nil && a.fence == fence {
		return a
	}
	return nil
}

// outcome says what is to be told of an attempt; ok is false where nobody wants to
// know.
func (w *Worker) outcome(a *Attempt, data []byte, err, cause error) (told outcome, ok bool) {
	switch {
	case a.lost():
		return told, false
	case err == nil:
		return outcome{data: data}, true
	case errors.Is(cause, ErrFenceLost), cause == errStopped && !explicit(err):
		w.beats.goodbye(a)
		return told, false
	case cause != nil && !explicit(err):
		e := wire.AsError(cause)
		if cause != context.DeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) {
			return outcome{failed: &wire.TaskError{Code: e.Code, Message: short(err.Error())}}, true
		}
		return outcome{failed: &wire.TaskError{Code: e.Code, Message: e.Message}}, true
	}
	return outcome{failed: failure(err)}, true
}
