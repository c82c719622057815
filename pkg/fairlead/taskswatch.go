package fairlead

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// watchAgain is how often a task that is watched is read: a message may have been
// lost.
const watchAgain = 5 * time.Second

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
	sub, err := t.f.nc.SubscribeSync(subject)
	if err != nil {
		return failed(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // it fails only with the connection
	var now wire.Task
	for {
		fresh, err := t.Get(ctx, id)
		var e *wire.Error
		switch {
		case err == nil:
			if !same(&now, &fresh) || fresh.State.Ended() {
				if !yield(fresh) || fresh.State.Ended() {
					return nil
				}
			}
			now = fresh
		case ctx.Err() != nil:
			return wire.AsError(ctx.Err())
		case !errors.As(err, &e) || final(e.Code):
			return err
		}
		if goOn, err := follow(ctx, sub, &now, yield); !goOn {
			return err
		}
	}
}

// follow yields what is published of a task, until it is to be read: at its end,
// and now and then.
func follow(ctx context.Context, sub *nats.Subscription, now *wire.Task, yield func(wire.Task) bool) (goOn bool, err error) {
	until, cancel := context.WithTimeout(ctx, watchAgain)
	defer cancel()
	for {
		msg, err := sub.NextMsgWithContext(until)
		switch {
		case ctx.Err() != nil:
			return false, wire.AsError(ctx.Err())
		case until.Err() != nil:
			return true, nil
		case errors.Is(err, nats.ErrSlowConsumer):
			return true, nil
		case err != nil:
			return false, failed(err)
		}
		said := *now
		said.Progress, said.Result, said.Error = nil, nil, nil // what is read into them would change those of now
		if json.Unmarshal(msg.Data, &said) != nil || said.ID != now.ID && now.ID != "" || said.Attempt < now.Attempt {
			continue
		}
		if said.State.Ended() {
			return true, nil
		}
		if said.Progress == nil && said.Attempt == now.Attempt {
			said.Progress = now.Progress
		}
		if !same(now, &said) && !yield(said) {
			return false, nil
		}
		*now = said
	}
}

// same reports whether nothing has changed that Watch tells.
func same(a, b *wire.Task) bool {
	return a.ID == b.ID && a.State == b.State && a.Attempt == b.Attempt && bytes.Equal(a.Progress, b.Progress)
}
