package runner

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// reader is a store that counts who reads whole tasks.
type reader struct {
	store.Store
	gets, peeks atomic.Int64
}

func (r *reader) Get(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error) {
	r.gets.Add(1)
	return r.Store.Get(ctx, ids)
}

func (r *reader) Peek(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error) {
	r.peeks.Add(1)
	return r.Store.Peek(ctx, ids)
}

// An input is as good as gone when it has been handed out: neither the attempt keeps
// it, nor does who looks for its end read it.
func TestInputsAreNotKept(t *testing.T) {
	r := newRig(t)
	whole := &reader{Store: r.memory}
	p := r.replica(func(c *Config) { c.Store = whole })
	attempts := r.attempts("work")
	id := r.enqueue(p, "work", func(n *store.New) { n.Timeout = time.Hour })
	msg := await(t, "the attempt", attempts)
	if string(msg.Data) != `{"n":1}` {
		t.Errorf("the worker got %s", msg.Data)
	}
	if a := p.table.get(id); a == nil || a.Input != nil {
		t.Errorf("%+v still has its input", a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	task, err := p.Await(ctx, id)
	if err != nil || task.State != wire.TaskRunning {
		t.Errorf("Await = %+v, %v", task, err)
	}
	p.table.mu.Lock()
	p.table.byID[id].began = time.Now().Add(-time.Hour)
	p.table.mu.Unlock()
	_, forget := p.waiters.add(id)
	defer forget()
	for what, look := range map[string]func(context.Context){"await": func(context.Context) {}, "recheck": p.recheck, "rereads": p.rereads} {
		before := whole.peeks.Load()
		look(context.Background())
		if whole.gets.Load() != 0 || what != "await" && whole.peeks.Load() == before {
			t.Errorf("%s: %d reads of inputs, %d without, want none of inputs", what, whole.gets.Load(), whole.peeks.Load())
		}
	}
	if task, err := p.Get(context.Background(), id); err != nil || string(task.Input) != `{"n":1}` {
		t.Errorf("Get = %+v, %v, want the input", task, err)
	}
	r.reply(msg, "1")
	r.until(id, wire.TaskCommitted)
}

// What waits to be stored is counted with all of it that is kept in memory.
func TestSizes(t *testing.T) {
	body := make([]byte, 1000)
	msg := &nats.Msg{Subject: "s", Data: body}
	e := &wire.TaskError{Message: string(body), Details: body}
	for what, got := range map[string]int{
		"input":  (&insertion{task: store.New{Input: body, Metadata: body}}).size() / 2,
		"result": (&ending{end: store.End{Result: body}}).size(),
		"error":  (&ending{end: store.End{Error: e}}).size() / 2,
		"retry":  (&ending{back: store.Back{Error: e}}).size() / 2,
		"reply":  (&ending{from: origin{msg: msg}}).size(),
		"heard":  (&look{said: said{result: body}}).size(),
		"copy":   (&said{err: &wire.TaskError{}, from: origin{msg: msg}}).size(),
	} {
		if got < 1000 || got > 1100 {
			t.Errorf("%s: %d bytes, want 1000", what, got)
		}
	}
	h := newHolding()
	s := said{fence: 1, end: true, err: &wire.TaskError{}, from: origin{msg: &nats.Msg{Data: make([]byte, mostHeldBytes)}}}
	if kept := h.keep("other", s, t0); !kept || h.bytes != mostHeldBytes {
		t.Errorf("kept: %v, %d bytes of %d", kept, h.bytes, mostHeldBytes)
	}
	s.fence = 2
	if h.keep("other", s, t0) {
		t.Error("a second error is kept beyond what is allowed")
	}
	if h.forget(s.id, 1); h.bytes != 0 {
		t.Errorf("%d bytes are left of nothing", h.bytes)
	}
}
