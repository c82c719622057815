package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	taskName        = "bench"
	taskConnections = 4 // of the callers
	taskSlots       = 2000
	taskPatience    = 2 * time.Minute // until all are done
)

// ownTasks is a replica of the tasks service, with callers and a worker in this
// process.
type ownTasks struct {
	url     string // of the database
	service *child
	callers []*nats.Conn
	work    *nats.Conn
	sub     *nats.Subscription // nil: no worker is there

	done    atomic.Int64 // answered by the worker
	counted int

	mu     sync.Mutex
	starts Histogram // of tasks whose input is when they were asked for
}

func openOwnTasks(ctx context.Context, s *site, postgresURL string) (o *ownTasks, err error) {
	o = &ownTasks{}
	defer func() {
		if err != nil {
			o.Close()
			o = nil
		}
	}()
	if o.url, err = newDatabase(ctx, postgresURL, "fairlead"); err != nil {
		return o, err
	}
	if o.service, err = s.service(ctx, "tasks", "tasks", "FAIRLEAD_POSTGRES_URL="+o.url, "FAIRLEAD_TOPICS_FILE="); err != nil {
		return o, err
	}
	s.tasks = o.service
	for range taskConnections {
		nc, err := s.connect()
		if err != nil {
			return o, err
		}
		o.callers = append(o.callers, nc)
	}
	o.work, err = s.connect()
	return o, err
}

// withDatabase returns a URL with another database.
func withDatabase(raw, name string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}

// Name is the side's.
func (o *ownTasks) Name() string { return "fairlead" }

// Close ends what the side opened; the site ends the service.
func (o *ownTasks) Close() {
	for _, nc := range append(o.callers, o.work) {
		if nc != nil {
			nc.Close()
		}
	}
}

// serve starts the worker: it answers each attempt at once.
func (o *ownTasks) serve(ctx context.Context) (err error) {
	o.sub, err = o.work.QueueSubscribe(siteNamespace.Task(taskName), "workers", func(msg *nats.Msg) {
		if asked, err := strconv.ParseInt(string(msg.Data), 10, 64); err == nil && asked > 0 {
			o.mu.Lock()
			o.starts.Record(time.Now().UnixNano() - asked)
			o.mu.Unlock()
		}
		_ = msg.Respond([]byte("null")) // an attempt that is not answered is missed by who waits
		o.done.Add(1)
	})
	if err == nil {
		err = o.sub.SetPendingLimits(-1, -1)
	}
	if err == nil {
		err = o.work.FlushTimeout(5 * time.Second)
	}
	if err == nil {
		err = o.ask(ctx, o.work, "hello", wire.TaskHello{Names: []string{taskName}, Worker: "bench", Slots: taskSlots}, nil)
	}
	return err
}

func (o *ownTasks) rest(ctx context.Context) error {
	if o.sub == nil {
		return nil
	}
	err := o.sub.Unsubscribe()
	o.sub = nil
	return errors.Join(err, o.work.FlushTimeout(5*time.Second),
		o.ask(ctx, o.work, "hello", wire.TaskHello{Names: []string{taskName}, Worker: "bench", Leaving: true}, nil))
}

// ask asks an endpoint of the service.
func (o *ownTasks) ask(ctx context.Context, nc *nats.Conn, endpoint string, req, rep any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
	}
	msg, err := nc.RequestWithContext(ctx, siteNamespace.Svc("tasks", endpoint), body)
	if err != nil {
		return fmt.Errorf("tasks.%s: %w", endpoint, err)
	}
	if err := wire.ParseErrorHeader(msg.Header, msg.Data); err != nil {
		return fmt.Errorf("tasks.%s: %w", endpoint, err)
	}
	if rep == nil {
		return nil
	}
	return json.Unmarshal(msg.Data, rep)
}

// store stores n tasks by so many callers.
func (o *ownTasks) store(ctx context.Context, callers, n int) error {
	ctx, done := context.WithTimeout(ctx, taskPatience) // one for all: each of its own costs as much as a request
	defer done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			for next.Add(1) <= int64(n) && ctx.Err() == nil {
				if err := o.enqueue(ctx, o.callers[i%len(o.callers)], 0); err != nil {
					cancel(err)
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

func (o *ownTasks) enqueue(ctx context.Context, nc *nats.Conn, asked int64) error {
	return o.ask(ctx, nc, "enqueue", wire.TaskEnqueue{Name: taskName, Input: strconv.AppendInt(nil, asked, 10)}, nil)
}

// finished returns when the worker has answered up to a number, and what it
// answered is stored.
func (o *ownTasks) finished(ctx context.Context, until int64) error {
	ctx, cancel := context.WithTimeout(ctx, taskPatience)
	defer cancel()
	for o.done.Load() < until {
		if err := pause(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d tasks were worked on: %w", o.done.Load(), until, err)
		}
	}
	conn, err := pgx.Connect(ctx, o.url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for live := true; live; {
		if err := conn.QueryRow(ctx, `select exists (select from fairlead.task)`).Scan(&live); err != nil {
			return err
		}
	}
	return nil
}

// Run is [TaskSide]'s.
func (o *ownTasks) Run(ctx context.Context, callers, n int) (time.Duration, error) {
	if err := o.serve(ctx); err != nil {
		return 0, err
	}
	until, from := o.done.Load()+int64(n), time.Now()
	err := o.store(ctx, callers, n)
	if err == nil {
		err = o.finished(ctx, until)
	}
	took := time.Since(from)
	return took, errors.Join(err, o.rest(ctx))
}

// Drain is [TaskSide]'s.
func (o *ownTasks) Drain(ctx context.Context, n int) (time.Duration, error) {
	if err := o.store(ctx, 1024, n); err != nil {
		return 0, err
	}
	until, from := o.done.Load()+int64(n), time.Now()
	err := o.serve(ctx)
	if err == nil {
		err = o.finished(ctx, until)
	}
	took := time.Since(from)
	return took, errors.Join(err, o.rest(ctx))
}

// Starts is [TaskSide]'s.
func (o *ownTasks) Starts(ctx context.Context, n int, perSecond float64) (*Histogram, error) {
	if err := o.serve(ctx); err != nil {
		return nil, err
	}
	o.mu.Lock()
	o.starts = Histogram{}
	o.mu.Unlock()
	until := o.done.Load() + int64(n)
	tick := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
	defer tick.Stop()
	for range n {
		<-tick.C
		if err := o.enqueue(ctx, o.callers[0], time.Now().UnixNano()); err != nil {
			return nil, err
		}
	}
	err := errors.Join(o.finished(ctx, until), o.rest(ctx))
	o.mu.Lock()
	defer o.mu.Unlock()
	starts := o.starts
	return &starts, err
}

// Done is [TaskSide]'s.
func (o *ownTasks) Done(ctx context.Context) (int, error) {
	conn, err := pgx.Connect(ctx, o.url)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	var committed int
	if err := conn.QueryRow(ctx, `select count(*) from fairlead.task_done where state = 2`).Scan(&committed); err != nil {
		return 0, err
	}
	n := committed - o.counted
	o.counted = committed
	return n, nil
}
