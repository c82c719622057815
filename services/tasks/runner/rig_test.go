package runner

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// patience bounds every wait of a test: what takes longer has failed.
const patience = 20 * time.Second

// rig is a NATS server and a store, on which a test runs replicas and workers.
type rig struct {
	testing.TB
	server *natsdev.Server
	memory store.Store
	nc     *nats.Conn // the test's own
}

func newRig(t testing.TB) *rig {
	t.Helper()
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
	r := &rig{TB: t, server: natsdev.Test(t), memory: store.NewMemory(time.Now)}
	r.nc = r.connect("test")
	return r
}

func (r *rig) connect(name string) *nats.Conn {
	r.Helper()
	nc, err := bus.Connect(context.Background(), bus.Config{URL: r.server.ClientURL(), Name: name}, bus.Hooks{})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(nc.Close)
	return nc
}

// replica is a runner of a test.
type replica struct {
	*Runner
	tap  *tap
	stop func() // waits until it has stopped
}

const testLease = 1500 * time.Millisecond

// replica starts one, and waits until it is ready.
func (r *rig) replica(change ...func(*Config)) *replica {
	r.Helper()
	t := newTap(r.memory)
	cfg := Config{
		Store: t, NATS: r.connect("dispatch"), Peers: r.connect("peers"), ID: nuid.Next(),
		OwnerLease: testLease, CancelGrace: 300 * time.Millisecond,
	}
	for _, fn := range change {
		fn(&cfg)
	}
	p := &replica{Runner: New(cfg), tap: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := await(r, "the replica to stop", done); err != nil {
			r.Errorf("Run: %v", err)
		}
	})
	r.Cleanup(p.stop)
	eventually(r, "the replica to be ready", func() bool { return p.Ready() == nil })
	return p
}

// kill is the death of a replica: nothing of it reaches NATS or the store any more,
// and the server has noticed. What is sent to a socket before that is lost.
func (r *rig) kill(p *replica) {
	r.Helper()
	before := r.server.Connections()
	p.tap.die()
	p.nats.Close()
	p.peers.Close()
	eventually(r, "the server to notice", func() bool { return r.server.Connections() <= before-2 })
}

func await[T any](t testing.TB, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("waited %s for %s", patience, what)
	}
	return v
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// worker serves a name with a plain subscription of a queue group; it is on the
// server when this returns.
func (r *rig) worker(name string, work func(*nats.Msg)) *nats.Subscription {
	r.Helper()
	sub, err := r.nc.QueueSubscribe("fl.task."+name, "workers", work)
	if err != nil {
		r.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		r.Fatal(err)
	}
	return sub
}

// attempts serves a name without answering: the test does.
func (r *rig) attempts(name string) <-chan *nats.Msg {
	r.Helper()
	ch := make(chan *nats.Msg, 1024)
	r.worker(name, func(msg *nats.Msg) { ch <- msg })
	return ch
}

func (r *rig) enqueue(p *replica, name string, change ...func(*store.New)) wire.TaskID {
	r.Helper()
	task := store.New{ID: wire.NewTaskID(time.Now()), Name: name, Input: []byte(`{"n":1}`)}
	for _, fn := range change {
		fn(&task)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := p.Enqueue(ctx, task)
	if err != nil {
		r.Fatalf("Enqueue: %v", err)
	}
	return got.ID
}

// task reads one from the store itself.
func (r *rig) task(id wire.TaskID) *wire.Task {
	r.Helper()
	tasks, err := r.memory.Get(context.Background(), []wire.TaskID{id})
	if err != nil || tasks[0] == nil {
		r.Fatalf("Get(%s) = %v, %v", id, tasks, err)
	}
	return tasks[0]
}

// until waits for a state of a task.
func (r *rig) until(id wire.TaskID, state wire.TaskState) *wire.Task {
	r.Helper()
	var task *wire.Task
	eventually(r, fmt.Sprintf("task %s to be %s", id, state), func() bool {
		task = r.task(id)
		return task.State == state
	})
	return task
}

func fenceOf(msg *nats.Msg) int64 {
	fence, _ := strconv.ParseInt(msg.Header.Get(wire.HeaderTaskFence), 10, 64)
	return fence
}

func attemptOf(msg *nats.Msg) wire.TaskAttempt {
	return wire.TaskAttempt{ID: msg.Header.Get(wire.HeaderTaskID), Fence: fenceOf(msg), Token: msg.Header.Get(wire.HeaderTaskToken)}
}

// reply answers an attempt as `nats reply` does.
func (r *rig) reply(msg *nats.Msg, body string) {
	r.Helper()
	if err := r.nc.Publish(msg.Reply, []byte(body)); err != nil {
		r.Fatal(err)
	}
}

// beat says that the worker of an attempt is alive, and promises to say it again.
func (r *rig) beat(msg *nats.Msg, lease time.Duration, progress string) {
	r.Helper()
	beat := nats.NewMsg(msg.Reply)
	sign{lease: lease}.write(beat.Header)
	beat.Data = []byte(progress)
	if err := r.nc.PublishMsg(beat); err != nil {
		r.Fatal(err)
	}
}

// fail answers an attempt with an error.
func (r *rig) fail(msg *nats.Msg, e *wire.Error) {
	r.Helper()
	reply := nats.NewMsg(msg.Reply)
	wire.ErrorHeader(reply.Header, e)
	if err := r.nc.PublishMsg(reply); err != nil {
		r.Fatal(err)
	}
}

func register(t testing.TB, p *replica, policy store.Policy) {
	t.Helper()
	full := defaultPolicy(policy.Name)
	if policy.Timeout > 0 {
		full.Timeout = policy.Timeout
	}
	if policy.MaxAttempts > 0 {
		full.MaxAttempts = policy.MaxAttempts
	}
	if policy.MaxCrashes > 0 {
		full.MaxCrashes = policy.MaxCrashes
	}
	full.Concurrency = policy.Concurrency
	full.Backoff, full.Jitter = 10*time.Millisecond, 0
	if err := p.Register(context.Background(), full); err != nil {
		t.Fatal(err)
	}
}
