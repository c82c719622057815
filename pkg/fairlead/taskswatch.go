package fairlead

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// watchAgain is how often a task that is watched is read: a message may have been
	// lost. watchSoon is when it is read again where the last try failed.
	watchAgain, watchSoon = 5 * time.Second, 500 * time.Millisecond
	// watchWaits is how many messages of a task wait to be looked at; those beyond are
	// lost.
	watchWaits = 256
)

// Watch follows a task: it yields the task as it is, then whenever its state, its
// attempt or its progress has changed, and ends behind its end. Changes that
// follow one another quickly may be one. Between, of the task only ID, Name,
// State, Attempt, Progress, Result and Error are kept up to date; the last one has
// everything.
//
// It goes on as long as ctx lives, also while the service or NATS is away; then,
// and for a task that is not there, it yields an error and ends.
func (t Tasks) Watch(ctx context.Context, id string) iter.Seq2[wire.Task, error] {
	return func(yield func(wire.Task, error) bool) {
		if err := t.watch(ctx, id, func(task wire.Task) bool { return yield(task, nil) }); err != nil {
			yield(wire.Task{}, fmt.Errorf("watch %s: %w", id, err))
		}
	}
}

func (t Tasks) watch(ctx context.Context, id string, yield func(wire.Task) bool) error {
	taskID, err := wire.ParseTaskID("id", id)
	if err != nil {
		return err
	}
	subject, err := t.f.subject(t.f.opts.Namespace.Topic(wire.TaskTopic(taskID)))
	if err != nil {
		return err
	}
	told := make(chan *nats.Msg, watchWaits)
	sub, err := t.f.nc.ChanSubscribe(subject, told)
	if err != nil {
		return failed(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only with the connection
	connected := t.f.nc.StatusChanged(nats.CONNECTED)
	defer t.f.nc.RemoveStatusListener(connected)
	again := time.NewTimer(0)
	defer again.Stop()
	w := watched{id: id}
	for {
		news := false
		select {
		case <-ctx.Done():
			return wire.AsError(ctx.Err())
		case _, open := <-connected:
			if !open {
				return failed(nats.ErrConnectionClosed)
			}
			w.missed = true
			again.Reset(0)
		case msg := <-told:
			var ended bool
			if news, ended = w.tell(msg.Data); ended { // what is stored says how
				again.Reset(0)
			}
		case <-again.C:
			fresh, err := t.Get(ctx, id)
			var e *wire.Error
			switch {
			case err == nil && fresh.State.Ended():
				yield(fresh)
				return nil
			case err == nil:
				news = w.read(&fresh)
				again.Reset(watchAgain)
			case ctx.Err() != nil:
				return wire.AsError(ctx.Err())
			case !errors.As(err, &e) || final(e.Code):
				return err
			default:
				again.Reset(watchSoon)
			}
		}
		if news && !yield(w.task) {
			return nil
		}
	}
}

// watched is a task as far as it is known from its topic, and from reading it.
type watched struct {
	id     string
	task   wire.Task
	told   bool // the topic has told the progress of this attempt
	missed bool // messages of the topic may have been lost since
}

// tell takes what the topic says, and reports whether that is news, and whether the
// task has ended. What an earlier attempt says comes too late.
func (w *watched) tell(data []byte) (news, ended bool) {
	var said wire.Task
	if json.Unmarshal(data, &said) != nil || said.ID != w.id || said.Attempt < w.task.Attempt {
		return false, false
	}
	if said.State.Ended() {
		return false, true
	}
	next := w.task
	if said.Attempt != next.Attempt {
		next.Progress, w.told = nil, false
	}
	next.ID, next.Name, next.State, next.Attempt = said.ID, cmp.Or(said.Name, next.Name), said.State, said.Attempt
	next.Result, next.Error = said.Result, said.Error
	if said.Progress != nil {
		next.Progress, w.told = said.Progress, true
	}
	return w.change(next), false
}

// read takes what is stored, and reports whether that is news. A progress is stored
// now and then only: what the topic has told of the same attempt is newer.
func (w *watched) read(stored *wire.Task) (news bool) {
	next, same := *stored, stored.Attempt == w.task.Attempt
	if same && (stored.Progress == nil || w.told && !w.missed) {
		next.Progress = w.task.Progress
	}
	w.told, w.missed = w.told && same, false
	return w.change(next)
}

func (w *watched) change(next wire.Task) (news bool) {
	old := &w.task
	news = old.ID != next.ID || old.State != next.State || old.Attempt != next.Attempt || !bytes.Equal(old.Progress, next.Progress)
	w.task = next
	return news
}
