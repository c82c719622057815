package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// spending is what is asked for: one token of a key at a time, as often as answers
// come.
type spending struct {
	limit    *rules.Limit
	keys     []string
	duration time.Duration
}

// spent is what became of it.
type spent struct {
	count, granted int64
	took           Histogram
	elapsed        time.Duration
}

// ask keeps single requests under way, as workers send them that fold nothing.
func (r *limitRun) ask(ctx context.Context, w spending) (out spent, _ error) {
	replies := make(chan *nats.Msg, 2*r.InFlight)
	inbox := bus.NewInbox(r.nc) + "."
	sub, err := r.nc.ChanSubscribe(inbox+"*", replies)
	if err != nil {
		return out, err
	}
	defer func() { _ = sub.Unsubscribe() }() // it ends with the connection too
	subject := siteNamespace.Svc("ratelimit", "consume")
	bodies := make([][]byte, len(w.keys))
	cost := int64(1)
	for i, key := range w.keys {
		bodies[i] = wire.LimitRequest{LimitTake: wire.LimitTake{Policy: w.limit.Name, Key: key, Cost: &cost}}.AppendJSON(nil)
	}
	began := make([]time.Time, r.InFlight)
	next := 0
	send := func(slot int, now time.Time) error {
		began[slot] = now
		next++
		return r.nc.PublishRequest(subject, inbox+strconv.Itoa(slot), bodies[next%len(bodies)])
	}
	start := time.Now()
	for slot := range r.InFlight {
		if err := send(slot, time.Now()); err != nil {
			return out, err
		}
	}
	patience := time.NewTimer(w.duration + 10*time.Second)
	defer patience.Stop()
	for flying := r.InFlight; flying > 0; {
		var msg *nats.Msg
		select {
		case msg = <-replies:
		case <-patience.C:
			return out, fmt.Errorf("%d requests were not answered", flying)
		case <-ctx.Done():
			return out, context.Cause(ctx)
		}
		if err := wire.ParseErrorHeader(msg.Header, msg.Data); err != nil {
			return out, err
		}
		slot, err := strconv.Atoi(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:])
		if err != nil || slot < 0 || slot >= r.InFlight {
			return out, fmt.Errorf("an answer came to %s", msg.Subject)
		}
		var reply wire.LimitReply
		if err := reply.ParseJSON(msg.Data); err != nil {
			return out, err
		}
		now := time.Now()
		out.took.Record(int64(now.Sub(began[slot])))
		out.count++
		if reply.Allowed {
			out.granted++
		}
		if out.elapsed = now.Sub(start); out.elapsed >= w.duration {
			flying--
		} else if err := send(slot, now); err != nil {
			return out, err
		}
	}
	return out, nil
}

// folders are clients as gateways have them.
type folders struct {
	conns   []*nats.Conn
	clients []*limits.Client
	stop    context.CancelFunc
	running sync.WaitGroup
}

func openFolders(ctx context.Context, s *site, n int) (*folders, error) {
	running, stop := context.WithCancel(ctx)
	f := &folders{stop: stop}
	for range n {
		nc, err := s.connect()
		if err != nil {
			f.close()
			return nil, err
		}
		c := limits.NewClient(limits.Config{NATS: nc, Namespace: siteNamespace, Remember: true})
		f.conns, f.clients = append(f.conns, nc), append(f.clients, c)
		f.running.Go(func() { _ = c.Run(running) }) // without it await finds nobody
	}
	if err := f.await(ctx, 1); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// await waits until every client has heard of so many replicas.
func (f *folders) await(ctx context.Context, replicas int64) error {
	ctx, cancel := context.WithTimeout(ctx, childPatience)
	defer cancel()
	for _, c := range f.clients {
		for c.Counts().Replicas != replicas {
			if err := pause(ctx, childPoll); err != nil {
				return fmt.Errorf("wait for %d replicas: %w", replicas, err)
			}
		}
	}
	return nil
}

func (f *folders) close() {
	f.stop()
	f.running.Wait()
	for _, nc := range f.conns {
		nc.Close()
	}
}

// asked is how many requests all clients sent so far.
func (f *folders) asked() (sum int64) {
	for _, c := range f.clients {
		sum += c.Counts().Asked
	}
	return sum
}

// fold keeps calls under way in every client.
func (r *limitRun) fold(ctx context.Context, w spending) (out spent, _ error) {
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed error
	var next atomic.Int64
	start := time.Now()
	end := start.Add(w.duration)
	for _, c := range r.folders.clients {
		for range r.Callers {
			group.Go(func() {
				var own spent
				var err error
				for now := time.Now(); now.Before(end) && err == nil; {
					key := w.keys[0]
					if len(w.keys) > 1 {
						key = w.keys[next.Add(1)%int64(len(w.keys))]
					}
					var answer limits.Answer
					if answer, err = c.Consume(ctx, limits.Ask{Limit: w.limit, Key: key, Cost: 1}, 1); err != nil {
						break
					}
					own.count++
					own.granted += answer.Granted
					then := time.Now()
					own.took.Record(int64(then.Sub(now)))
					now = then
				}
				mu.Lock()
				defer mu.Unlock()
				out.count += own.count
				out.granted += own.granted
				out.took.Merge(&own.took)
				failed = errors.Join(failed, err)
			})
		}
	}
	group.Wait()
	out.elapsed = time.Since(start)
	return out, failed
}
