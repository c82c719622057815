package demo

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
)

// renderTask is the name of the page's task.
const renderTask = "demo.render"

const (
	// renderParts are done one after the other, renderTicks moments of renderTick
	// each.
	renderTicks = 8
	renderTick  = 200 * time.Millisecond
	// renderLease is how long the page waits for a worker that was killed.
	renderLease = 2 * time.Second
)

var renderParts = [...]string{"fetch", "decode", "resize", "encode", "upload"}

// renderPolicy lets the page kill as many workers as it likes.
var renderPolicy = fairlead.TaskPolicy{MaxAttempts: 3, Backoff: 200 * time.Millisecond, MaxCrashes: 1000, Retention: time.Hour}

// rendering is how far the task is.
type rendering struct {
	Done  int   `json:"done"` // of Total
	Total int   `json:"total"`
	By    []int `json:"by"` // the process that did each part, the last one is at it
}

// rendered is the task's result.
type rendered struct {
	By []int `json:"by"` // the process that did each part
}

// Render works on the tasks of the page until ctx is done. It calls ready once it
// takes them.
func Render(ctx context.Context, nc *nats.Conn, opts fairlead.Options, ready func()) error {
	f := fairlead.New(nc, opts)
	defer f.Close()
	if _, err := fairlead.Work(f, renderTask, render, fairlead.WorkOptions{Lease: renderLease}); err != nil {
		return fmt.Errorf("demo worker: %w", err)
	}
	ready()
	<-ctx.Done()
	return nil
}

// render does nothing but take its time. Each part is a step: a process that takes
// over from one that was killed begins with the first that is not done.
func render(ctx context.Context, a *fairlead.Attempt, _ struct{}) (rendered, error) {
	by := make([]int, 0, len(renderParts))
	for _, part := range renderParts {
		who, err := fairlead.Step(ctx, part, func(ctx context.Context) (int, error) {
			return os.Getpid(), renderPart(ctx, a, append(by, os.Getpid()))
		})
		if err != nil {
			return rendered{}, err
		}
		by = append(by, who)
	}
	return rendered{by}, nil
}

func renderPart(ctx context.Context, a *fairlead.Attempt, by []int) error {
	for tick := range renderTicks {
		at := rendering{Done: (len(by)-1)*renderTicks + tick, Total: len(renderParts) * renderTicks, By: by}
		if err := a.Progress(at); err != nil {
			return err
		}
		if err := clock.Sleep(ctx, renderTick); err != nil {
			return err
		}
	}
	return nil
}
