//go:build compose

package compose

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	workPause = 30 * time.Millisecond  // between publishes of a worker
	taskPause = 200 * time.Millisecond // between tasks that are asked for
	takePause = 400 * time.Millisecond // between bursts that are taken of a limit
	workTime  = 20 * time.Millisecond  // that a task takes
)

// worker is a plain NATS connection with the credentials of a worker. It does
// tasks, publishes, and takes from a limit.
type worker struct {
	c    *crowd
	name string
	url  string
	nc   *nats.Conn
}

// hire brings a worker in.
func (c *crowd) hire(name, url string) *worker {
	c.t.Helper()
	nc, err := nats.Connect(url, nats.Name(name), nats.CustomInboxPrefix("_INBOX_worker"),
		nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1), nats.RetryOnFailedConnect(true),
		nats.PingInterval(2*time.Second), nats.IgnoreAuthErrorAbort(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.refused = append(c.refused, fmt.Sprintf("%s: %v", name, err))
		}))
	if err != nil {
		c.t.Fatalf("connect the worker %s: %v", name, err)
	}
	w := &worker{c: c, name: name, url: url, nc: nc}
	c.workers = append(c.workers, w)
	if _, err := nc.QueueSubscribe("fl.task."+c.task(), "workers", w.work); err != nil {
		c.t.Fatalf("%s serves tasks: %v", name, err)
	}
	c.t.Cleanup(nc.Close)
	return w
}

// task is the name of the crowd's tasks.
func (c *crowd) task() string { return "work-" + c.run }

// work does a task and replies. The reply may be lost, and then another attempt follows.
func (w *worker) work(m *nats.Msg) {
	id, fence := m.Header.Get("Fl-Task-Id"), m.Header.Get("Fl-Task-Fence")
	result := fmt.Sprintf(`{"worker":%q,"fence":%s}`, w.name, fence)
	w.c.all.Go(func() {
		pause(w.c.ctx, workTime)
		w.c.tasks.returned(id, result)
		_ = m.Respond([]byte(result)) // whether it arrives is what the tasks service is there for
	})
}

// request asks until there is an answer that is no error, or the crowd leaves.
func (w *worker) request(subject string, header nats.Header, body string, into any) bool {
	for w.c.ctx.Err() == nil {
		err := w.ask(subject, header, body, into)
		if err == nil {
			return true
		}
		w.c.failed(subject, err)
		pause(w.c.ctx, 50*time.Millisecond)
	}
	return false
}

// ask is request, once.
func (w *worker) ask(subject string, header nats.Header, body string, into any) error {
	ctx, cancel := context.WithTimeout(w.c.ctx, 2*time.Second)
	defer cancel()
	m, err := w.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: header, Data: []byte(body)})
	if err != nil {
		return err
	}
	if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil {
		return e
	}
	return json.Unmarshal(m.Data, into)
}

// register says how often a task of the crowd may be tried.
func (w *worker) register() {
	w.c.t.Helper()
	var none struct{}
	body := fmt.Sprintf(`{"name":%q,"timeout":"3s","maxCrashes":50,"retry":{"maxAttempts":50,"backoff":"100ms","maxBackoff":"500ms"}}`, w.c.task())
	if !w.request("fl.svc.tasks.register", nil, body, &none) {
		w.c.t.Fatal("nobody takes the policy of the tasks")
	}
}

// talk publishes to one room after the other.
func (w *worker) talk(p *pace) {
	for n := 1; p.next(w.c); n++ {
		// A worker waits for each acknowledgement; those of a topic are in order.
		m := message{w.c.room(n % rooms), w.name, n}
		m.Publisher = fmt.Sprintf("%s-%d", w.name, n%rooms)
		w.c.messages.begin(m)
		began := time.Now()
		header := nats.Header{"Nats-Msg-Id": []string{fmt.Sprintf("%s|%s-%d", m.Topic, w.name, n)}}
		body, err := json.Marshal(m)
		if err != nil {
			panic(err) // strings and a number
		}
		var ack struct {
			Seq   int64
			Error *struct{ Description string }
		}
		for w.c.ctx.Err() == nil {
			ack.Error = nil
			err := w.ask("fl.topic."+m.Topic, header, string(body), &ack)
			if err == nil && ack.Error == nil && ack.Seq > 0 {
				w.c.acknowledged(m, ack.Seq, began)
				break
			}
			w.c.failed("worker's publish", err)
			pause(w.c.ctx, 50*time.Millisecond)
		}
		p.done()
	}
}

// enqueue asks for tasks.
func (w *worker) enqueue(p *pace) {
	for n := 1; p.next(w.c); n++ {
		var got struct{ ID string }
		key := fmt.Sprintf("%s-%d", w.name, n)
		if w.request("fl.svc.tasks.enqueue", nil, fmt.Sprintf(`{"name":%q,"idempotencyKey":%q,"input":{"n":%d}}`, w.c.task(), key, n), &got) {
			w.c.tasks.enqueued(key, got.ID)
			p.done()
		}
	}
}

// take takes from a limit, more often than it allows: many at a time, and both
// workers at the same moments, so that whoever decides has to decide at once.
func (w *worker) take(b *bucket, limit string) {
	body := fmt.Sprintf(`{"policy":%q,"key":%q}`, limit, b.key)
	for w.c.ctx.Err() == nil {
		var burst sync.WaitGroup
		for range takeBurst {
			burst.Go(func() {
				asked := time.Since(w.c.began)
				var verdict struct {
					Allowed bool
				}
				if err := w.ask("fl.svc.ratelimit.consume", nil, body, &verdict); err == nil {
					b.note(take{asked, time.Since(w.c.began), verdict.Allowed})
				} else {
					w.c.failed("take", err)
				}
			})
		}
		burst.Wait()
		pause(w.c.ctx, takePause-time.Since(w.c.began)%takePause)
	}
}

// listed says how what the service knows of a room is other than the truth.
func (w *worker) listed(r *roster) (wrong []string) {
	var list struct{ Users map[string]json.RawMessage }
	if err := w.ask("fl.svc.presence.list", nil, fmt.Sprintf(`{"topic":%q}`, r.topic), &list); err != nil {
		return []string{fmt.Sprintf("the service lists nobody: %v", err)}
	}
	of := newRoster(r.topic, r.truth...)
	of.show(slices.Collect(maps.Keys(list.Users)))
	if d := of.differs(); d != "" {
		return []string{"the service: " + d}
	}
	return nil
}

// remembers says why the past of a topic can't be read; "" where it can.
func (w *worker) remembers(topic string) string {
	var page struct{ Messages []json.RawMessage }
	err := w.ask("fl.svc.replay.since", nil, fmt.Sprintf(`{"topic":%q,"after":0,"limit":1}`, topic), &page)
	if err != nil || len(page.Messages) == 0 {
		return fmt.Sprintf("%s: %d messages, %v", topic, len(page.Messages), err)
	}
	return ""
}

// keptOf is how many of a room's messages deploy/rules.yaml has kept, and a page
// holds at most.
const keptOf = 1000

// kept says how what the log of a topic has is other than what was stored.
func (w *worker) kept(topic string) (wrong []string) {
	var page struct {
		Messages []struct {
			Seq  int64
			Data message
		}
	}
	if err := w.ask("fl.svc.replay.since", nil, fmt.Sprintf(`{"topic":%q,"last":%d}`, topic, keptOf), &page); err != nil {
		return []string{fmt.Sprintf("%s can't be read: %v", topic, err)}
	}
	kept := map[int64]message{}
	for _, m := range page.Messages {
		kept[m.Seq] = m.Data
	}
	return w.c.messages.keeps(topic, keptOf, kept)
}

// limit reads how much a limit allows.
func (w *worker) limit(name string) (capacity int, refill float64) {
	w.c.t.Helper()
	var p struct {
		Capacity, Refill int
		Per              string
	}
	if !w.request("fl.svc.ratelimit.policy", nil, fmt.Sprintf(`{"policy":%q}`, name), &p) {
		w.c.t.Fatalf("nobody says what the limit %s is", name)
	}
	per, err := time.ParseDuration(p.Per)
	if err != nil || p.Capacity == 0 {
		w.c.t.Fatalf("the limit %s is %+v: %v", name, p, err)
	}
	return p.Capacity, float64(p.Refill) / per.Seconds()
}

// employ has the workers do what they do until the crowd leaves.
func (c *crowd) employ(limit string) {
	c.t.Helper()
	c.workers[0].register()
	capacity, refill := c.workers[0].limit(limit)
	c.bucket = &bucket{key: c.run, capacity: capacity, refill: refill}
	for _, w := range c.workers {
		talk, enqueue := c.pace(workPause), c.pace(taskPause)
		c.writes(func() { w.talk(talk) })
		c.writes(func() { w.enqueue(enqueue) })
		c.all.Go(func() { w.take(c.bucket, limit) })
	}
}
