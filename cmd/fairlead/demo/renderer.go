package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os/exec"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/clock"
)

// Renderer is the worker of the page's tasks in a process of its own: one that the
// page may kill as a crash would, to see what becomes of what it was at. It is
// started by the first task, or at once by [Renderer.Keep], and after each kill
// another one is.
type Renderer struct {
	command func() *exec.Cmd
	log     *slog.Logger

	mu     sync.Mutex
	child  *child // nil: none was started, or none could be
	closed bool
}

// rendererReady is the line with which the process says that it takes tasks.
const rendererReady = "ready"

// keepPause is between two tries to start a worker that does not start.
const keepPause = time.Second

// NewRenderer returns a worker that is not started yet. command makes a process
// that calls [Render], writes `ready`, and nothing else, as the first line of its
// standard output once it takes tasks, and ends when its standard input does.
// Close ends what is running.
func NewRenderer(command func() *exec.Cmd, log *slog.Logger) *Renderer {
	return &Renderer{command: command, log: log}
}

// Mount adds POST /demo/kill-worker, for pages of the same origin; unless anybody
// is set for this machine only.
func (r *Renderer) Mount(mux *http.ServeMux, anybody bool) {
	guard := onlyHere
	if anybody {
		guard = onlyThePage
	}
	mux.Handle("POST /demo/kill-worker", guard(func(w http.ResponseWriter, q *http.Request) {
		if err := r.Kill(q.Context()); err != nil {
			r.log.Warn("the demo's worker of tasks", "err", err)
			http.Error(w, "no other worker starts", http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
}

// Start starts the worker, unless it runs.
func (r *Renderer) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.start(ctx)
}

// start is Start; r.mu is held.
func (r *Renderer) start(ctx context.Context) error {
	if r.closed {
		return errors.New("closed")
	}
	if r.child != nil {
		if !r.child.ended() {
			return nil
		}
		r.end()
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	c, err := launch(ctx, r.command())
	if err != nil {
		return err
	}
	if c.said != rendererReady {
		c.kill()
		return fmt.Errorf("start: it ended, or says %q in place of %q", c.said, rendererReady)
	}
	r.child = c
	return nil
}

// Keep has a worker run until ctx is done, whoever ends it: tasks that were begun
// go on also after a restart of this process. It returns when ctx is done.
func (r *Renderer) Keep(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.Start(ctx); err != nil {
			r.log.Warn("the demo's worker of tasks", "err", err)
			_ = clock.Sleep(ctx, keepPause) // only ctx ends it
			continue
		}
		select {
		case <-ctx.Done():
		case <-r.gone():
		}
	}
}

// gone returns a channel that is closed when the worker of now has ended.
func (r *Renderer) gone() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.child != nil {
		return r.child.exited
	}
	none := make(chan struct{})
	close(none)
	return none
}

// Kill ends the worker as a crash does, where there is one, and starts another.
func (r *Renderer) Kill(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end()
	return r.start(ctx)
}

// Close kills the worker for good.
func (r *Renderer) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.end()
}

// end kills the process, if there is one. r.mu is held.
func (r *Renderer) end() {
	if r.child != nil {
		r.child.kill()
		r.child = nil
	}
}
