package fairlead

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// EnqueueOptions refine a task.
type EnqueueOptions struct {
	// IdempotencyKey makes it the same task as an earlier one of that name and key,
	// while that has not ended and, once it is committed, as long as it is kept. 1-256
	// bytes. Default: one that nobody else has, so that an answer that was lost is
	// asked for again without making a second task.
	IdempotencyKey string
	// Unkeyed leaves out that default, which costs Postgres a row beside the task's:
	// for many small tasks of which a few may be there twice. An answer that is lost
	// is an error then whose `outcome` is unknown, and nothing is asked again.
	Unkeyed bool
	// UniqueKey makes it the same task as one of that name and key that has not ended.
	// 1-256 bytes. Default: none.
	UniqueKey string
	// Delay is how long the first attempt waits, RunAt until when, by the clock of
	// Postgres: at most a year, and one of the two. Default: it waits for nothing.
	Delay time.Duration
	RunAt time.Time
	// Priority orders the tasks of a name: greater ones first; -100 to 100.
	Priority int
	// Timeout bounds one attempt. Default: that of the name.
	Timeout time.Duration
	// Metadata is a JSON object of at most 4 KB that the worker gets with the input,
	// and that is shown with the task. Default: none.
	Metadata any
	// TraceParent is the trace that the attempts are part of, as W3C has it. Default:
	// that of the attempt in ctx, where there is one.
	TraceParent string
}

// Enqueued says which task something was made.
type Enqueued struct {
	ID string
	// Existing says that a key made it a task that was there: one of UniqueKey may be
	// what this call itself made, where its first answer was lost.
	Existing bool
}

// Enqueue stores a task; in is its input, encoded as all data is, at most 512 KB.
// When it returns without an error the task is on Postgres's disk: it runs as
// soon as there is a worker of that name, in whatever language.
//
// Where an answer is lost it is asked for again until ctx ends. With an error
// whose `outcome` is "unknown" the task may be stored.
func (t Tasks) Enqueue(ctx context.Context, name string, in any, o EnqueueOptions) (Enqueued, error) {
	req, header, err := enqueueRequest(ctx, name, in, o)
	if err != nil {
		return Enqueued{}, fmt.Errorf("tasks.enqueue: %w", err)
	}
	done, err := t.f.enqueue(ctx, req, header)
	if err != nil {
		return Enqueued{}, err
	}
	return Enqueued{ID: done.ID, Existing: done.Existing && (o.IdempotencyKey != "" || o.UniqueKey != "")}, nil
}

// enqueue asks for a task until there is an answer, if it has a key.
func (f *Fairlead) enqueue(ctx context.Context, req wire.TaskEnqueue, header nats.Header) (done wire.TaskEnqueued, err error) {
	ctx, cancel := f.within(ctx)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, time.Second) {
		once, cancel := ctx, context.CancelFunc(func() {})
		if req.IdempotencyKey != "" {
			once, cancel = context.WithTimeout(ctx, answerWithin)
		}
		done, err = serviceWith[wire.TaskEnqueued](once, f, "tasks", "enqueue", header, req)
		cancel()
		if err == nil || ctx.Err() != nil || req.IdempotencyKey == "" || !lostReply(err) {
			return done, err
		}
		select {
		case <-ctx.Done():
			return done, err
		case <-time.After(pause):
		}
	}
}

// lostReply reports whether what was asked for may have been done.
func lostReply(err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && (e.Code == wire.DeadlineExceeded || e.Details["outcome"] == "unknown")
}

// enqueueRequest makes the request for a task, and its headers.
func enqueueRequest(ctx context.Context, name string, in any, o EnqueueOptions) (req wire.TaskEnqueue, header nats.Header, err error) {
	req = wire.TaskEnqueue{
		Name: name, IdempotencyKey: o.IdempotencyKey, UniqueKey: o.UniqueKey, Delay: duration(o.Delay),
		Priority: o.Priority, Timeout: duration(o.Timeout),
	}
	if req.Input, err = wire.EncodeData("input", in); err != nil {
		return req, nil, err
	}
	if req.Metadata, err = metadata(o.Metadata); err != nil {
		return req, nil, err
	}
	if req.IdempotencyKey == "" && !o.Unkeyed {
		req.IdempotencyKey = rand.Text()
	}
	if !o.RunAt.IsZero() {
		req.RunAt = o.RunAt.UTC().Format(time.RFC3339Nano)
	}
	trace := o.TraceParent
	if a, ok := AttemptOf(ctx); ok && trace == "" {
		trace = wire.HeaderValue(a.header, wire.HeaderTrace)
	}
	header = nats.Header{}
	return req, header, set(header, wire.HeaderTrace, trace)
}

// metadata encodes a task's metadata, nil: none.
func metadata(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	return wire.EncodeData("metadata", v)
}
