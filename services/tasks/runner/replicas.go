package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// announceEvery is how often a replica says that it is there, and aliveFor how
	// long that counts.
	announceEvery = time.Second
	aliveFor      = 3 * time.Second
	// leaveWait bounds what a replica that goes waits for NATS, whose silence is not to
	// keep it from giving away what it has.
	leaveWait = time.Second
	// mostReplicas bounds those that are known.
	mostReplicas = 1024
	// queueGroup is that of all replicas on the replies of every attempt.
	queueGroup = "q"
	// mostReplies and mostReplyBytes bound what the connection holds of them.
	mostReplies    = 1 << 18
	mostReplyBytes = 512 << 20
)

// replicas are the other ones, and when they were heard.
type replicas struct {
	self string

	mu    sync.Mutex // guards heard
	heard map[string]time.Time
}

func newReplicas(self string) *replicas {
	return &replicas{self: self, heard: map[string]time.Time{}}
}

func (rs *replicas) note(said wire.TaskReplica, now time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	switch {
	case said.ID == rs.self || said.ID == "":
	case said.Leaving:
		delete(rs.heard, said.ID)
	default:
		if _, known := rs.heard[said.ID]; known || len(rs.heard) < mostReplicas {
			rs.heard[said.ID] = now
		}
	}
	for id, at := range rs.heard {
		if now.Sub(at) > 10*aliveFor {
			delete(rs.heard, id)
		}
	}
}

// alive reports whether a replica was heard lately; this one is.
func (rs *replicas) alive(id string, now time.Time) bool {
	if id == rs.self {
		return true
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	at, known := rs.heard[id]
	return known && now.Sub(at) <= aliveFor
}

// others returns those that are there.
func (rs *replicas) others(now time.Time) (ids []string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for id, at := range rs.heard {
		if now.Sub(at) <= aliveFor {
			ids = append(ids, id)
		}
	}
	return ids
}

func (rs *replicas) any() bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.heard) > 0
}

// announce says that the replica is there until ctx ends, or it goes. It says so on
// the connection by which it hears workers: for who can't do that it is not there.
func (r *Runner) announce(ctx context.Context) {
	for !r.stopping.Load() {
		r.say(wire.TaskReplica{ID: r.cfg.ID})
		if clock.Sleep(ctx, announceEvery) != nil {
			return
		}
	}
}

func (r *Runner) say(announcement wire.TaskReplica) {
	body, err := json.Marshal(announcement)
	if err == nil {
		err = r.nats.Publish(r.ns.TaskReplicas(), body)
	}
	if err != nil && !bus.Away(err) {
		r.metrics.publishErrors.Add(1)
	}
}

// leave says that the replica goes, and waits until the server has heard it.
func (r *Runner) leave(ctx context.Context) {
	r.say(wire.TaskReplica{ID: r.cfg.ID, Leaving: true})
	if r.nats.IsConnected() {
		bounded, cancel := context.WithTimeout(ctx, leaveWait)
		defer cancel()
		_ = r.nats.FlushWithContext(bounded) // without it they notice by themselves
	}
}

// subscriptions are those of a runner, and how many of their messages are being
// handled.
type subscriptions []*nats.Subscription

// subscribe hears workers and replicas.
func (r *Runner) subscribe() (subs subscriptions, err error) {
	add := func(nc *nats.Conn, subject string, hear nats.MsgHandler) {
		if err == nil {
			err = subs.add(nc, subject, "", hear)
		}
	}
	// NATS says that nobody serves a subject only to a plain subscription of the
	// connection that published, so a replica hears its own replies by one.
	add(r.nats, r.ns.TaskRepliesOf(r.cfg.ID), r.heardMine)
	add(r.peers, r.ns.TaskReplicas(), r.heardReplica)
	add(r.peers, r.ns.TaskEnds(), r.heardEnds)
	add(r.peers, r.ns.TaskWakes(), r.heardWake)
	if err != nil {
		subs.end(false)
		return nil, err
	}
	return subs, nil
}

func (subs *subscriptions) add(nc *nats.Conn, subject, queue string, hear nats.MsgHandler) (err error) {
	var sub *nats.Subscription
	if queue == "" {
		sub, err = nc.Subscribe(subject, hear)
	} else {
		sub, err = nc.QueueSubscribe(subject, queue, hear)
	}
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	*subs = append(*subs, sub)
	if err = sub.SetPendingLimits(mostReplies, mostReplyBytes); err != nil {
		return fmt.Errorf("bound %s: %w", subject, err)
	}
	return nil
}

// replies is the replica's share of the replies to all: it is heard only by who can
// tell which of them are genuine, for nobody else hears those.
type replies struct {
	heard atomic.Bool

	mu     sync.Mutex // guards what follows
	subs   subscriptions
	closed bool
}

// hearReplies begins to hear them.
func (r *Runner) hearReplies() error {
	r.replies.mu.Lock()
	defer r.replies.mu.Unlock()
	if r.replies.closed {
		return nil
	}
	if err := r.replies.subs.add(r.nats, r.ns.TaskReplies(), queueGroup, r.heardAny); err != nil {
		r.replies.subs.end(false)
		r.replies.subs = nil
		return err
	}
	r.replies.heard.Store(true)
	return nil
}

// close returns the subscriptions, of which there are no more from now on.
func (rs *replies) close() subscriptions {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.closed = true
	return rs.subs
}

// end ends the subscriptions; drain: what has arrived is handled.
func (subs subscriptions) end(drain bool) {
	for _, sub := range subs {
		if drain && sub.Drain() == nil {
			continue
		}
		_ = sub.Unsubscribe() // of a connection that is closed there is none
	}
}

// handling reports whether messages that have arrived are still being handled.
func (subs subscriptions) handling(ctx context.Context) bool {
	for _, sub := range subs {
		if sub.IsValid() && ctx.Err() == nil {
			return true
		}
	}
	return false
}

func (r *Runner) heardReplica(msg *nats.Msg) {
	var said wire.TaskReplica
	if json.Unmarshal(msg.Data, &said) == nil {
		r.live.note(said, time.Now())
	}
}
