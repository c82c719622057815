package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// patience is how long a user of the page may think about a question.
const patience = 20 * time.Second

// Worker is the page's backend: browsers reach each other through one, never
// directly. It serves these calls, to anybody whom the rules let call:
//
//   - demo.ask `{"user","question"}` asks a user to confirm, and answers what
//     the user did
//   - demo.kick `{"user"}` disconnects a user, and answers how many connections
//     that were
//   - demo.tasks says whether there are tasks
//   - demo.task asks for a task, and answers its id
//   - demo.task.get `{"id"}` answers what became of it
type Worker struct {
	f     *fairlead.Fairlead
	tasks TaskOptions
}

// TaskOptions say who works on the page's tasks.
type TaskOptions struct {
	Renderer *Renderer
	Off      string // why there are none, "" where there are
}

// StartWorker serves over nc, which stays the caller's, until Close. Its calls are
// there when it returns, or as soon as NATS is.
func StartWorker(nc *nats.Conn, opts fairlead.Options, tasks TaskOptions) (*Worker, error) {
	w := &Worker{f: fairlead.New(nc, opts), tasks: tasks}
	_, askErr := fairlead.Handle(w.f, "demo.ask", w.ask, fairlead.HandleOptions{Timeout: patience})
	_, kickErr := fairlead.Handle(w.f, "demo.kick", w.kick, fairlead.HandleOptions{})
	if err := errors.Join(askErr, kickErr, w.serveTasks()); err != nil {
		w.Close()
		return nil, fmt.Errorf("demo worker: %w", err)
	}
	return w, nil
}

// Close ends what is under way.
func (w *Worker) Close() { w.f.Close() }

type question struct {
	User     string `json:"user"`
	Question string `json:"question"`
}

func (w *Worker) ask(ctx context.Context, call *fairlead.Call, q question) (json.RawMessage, error) {
	if err := wire.CheckUser(q.User); err != nil {
		return nil, err
	}
	ask := map[string]string{"question": q.Question, "from": call.User}
	return w.f.Ask(ctx, q.User, "confirm", ask, fairlead.AskOptions{})
}

type kicked struct {
	Reached int `json:"reached"`
}

func (w *Worker) kick(ctx context.Context, call *fairlead.Call, who struct {
	User string `json:"user"`
}) (kicked, error) {
	n, err := w.f.OfUser(who.User).Disconnect(ctx, 0, "kicked by "+call.User)
	return kicked{n}, err
}
