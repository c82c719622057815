// A worker with a bounded queue that never drops in silence: each call is
// answered with what became of its job. POLICY is queue, drop-new or drop-oldest.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

type job struct {
	ID   string `json:"id"`
	Ms   int    `json:"ms"` // how much work it is
	user string
}

type status struct {
	ID         string `json:"id"`
	QueueDepth int    `json:"queueDepth"`
	Dropped    bool   `json:"dropped,omitempty"`
}

type worker struct {
	f      *fairlead.Fairlead
	policy string
	queue  chan job
}

func (w worker) submit(ctx context.Context, call *fairlead.Call, j job) (status, error) {
	j.user = call.User
	for {
		select {
		case w.queue <- j:
			return status{ID: j.ID, QueueDepth: len(w.queue)}, nil
		default: // full
		}
		switch w.policy {
		case "drop-new":
			return status{j.ID, len(w.queue), true}, nil
		case "drop-oldest":
			select {
			case oldest := <-w.queue:
				w.tell(ctx, oldest, "dropped")
			default: // the work took it
			}
		default:
			full := wire.Errorf(wire.ResourceExhausted, "the queue is full").With("queueDepth", len(w.queue))
			full.RetryAfter = 200 * time.Millisecond
			return status{}, full
		}
	}
}

func (w worker) work(ctx context.Context) {
	for {
		select {
		case j := <-w.queue:
			w.tell(ctx, j, "started")
			time.Sleep(time.Duration(j.Ms) * time.Millisecond)
			w.tell(ctx, j, "done")
		case <-ctx.Done():
			return
		}
	}
}

func (w worker) tell(ctx context.Context, j job, event string) {
	if err := w.f.Send(ctx, j.user, event, status{ID: j.ID, QueueDepth: len(w.queue), Dropped: event == "dropped"}, fairlead.SendOptions{}); err != nil {
		log.Print(err)
	}
}

func main() {
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.MaxReconnects(-1))
	check(err)
	w := worker{fairlead.New(nc, fairlead.Options{}), os.Getenv("POLICY"), make(chan job, 2)}
	_, err = fairlead.Handle(w.f, "jobs.submit", w.submit, fairlead.HandleOptions{})
	check(err)
	fmt.Println("ready")
	w.work(stop)
	check(w.f.Drain(context.Background()))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
