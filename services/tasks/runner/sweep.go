package runner

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	dueEvery   = time.Second
	killEvery  = time.Second
	probeEvery = 100 * time.Millisecond
	wakePause  = time.Millisecond
	tidyEvery  = 5 * time.Second
	// recheckEvery is how often, and after how long for the first time, it is looked
	// whether an attempt still runs; mostRechecked is how many are read at once.
	recheckEvery  = 10 * time.Second
	mostRechecked = 200
	// mostWakes bounds the names that wait to be told the other replicas.
	mostWakes = 1000
)

// sweeps starts what looks into the store, and into memory, again and again.
func (r *Runner) sweeps(going func(func(context.Context))) {
	for _, sweep := range []struct {
		pause time.Duration
		do    func(context.Context)
	}{
		{killEvery, r.kill},
		{readEvery, r.rereads},
		{time.Second, r.keepBeats},
		{recheckEvery, r.recheck},
		{probeEvery, r.probe},
		{tidyEvery, func(context.Context) { r.lanes.tidy(time.Now()) }},
	} {
		going(func(ctx context.Context) { every(ctx, sweep.pause, sweep.do) })
	}
	going(r.keepPolicies)
	going(r.lookForDue)
	going(func(ctx context.Context) {
		var s strays
		look := func(ctx context.Context) {
			r.adoptOrphans(ctx)
			r.adoptStrays(ctx, &s)
		}
		look(ctx)
		// Replicas that were started together do not all look at once.
		pause := r.cfg.OwnerLease / 3
		every(ctx, pause-pause/10+rand.N(pause/5), look)
	})
}

// lookForDue has claimed what is due, until ctx ends: it looks every while, when
// the next task is due that it has seen, and when one is that this replica has
// stored meanwhile.
func (r *Runner) lookForDue(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next := time.Now(); ; {
		select {
		case <-timer.C:
			r.alarm.clear()
			next = time.Now().Add(r.claimDue(ctx))
		case <-r.alarm.rung:
		case <-ctx.Done():
			return
		}
		timer.Reset(time.Until(r.alarm.before(next)))
	}
}

// claimDue asks what is due and has it claimed. It returns when to look again.
func (r *Runner) claimDue(ctx context.Context) time.Duration {
	pause := dueEvery
	if _, ok := r.able(); !ok {
		return pause / 4
	}
	due, err := r.store.Due(ctx, dueEvery, maxLanes)
	if errors.Is(err, wire.ErrUnavailable) || ctx.Err() != nil {
		return pause // as others notice
	}
	switch began, over := r.blind.note(err, time.Now()); {
	case began:
		r.log.Error("what is due is not found", "error", err)
	case over:
		r.log.Warn("what is due is found again")
	}
	if err != nil {
		return pause
	}
	// Where there is no room for all names, each is to come first one time.
	rand.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
	for _, d := range due {
		if d.In > 0 {
			pause = min(pause, max(d.In, time.Millisecond))
			continue
		}
		r.demand(d.Name)
	}
	return pause
}

// nudge has it looked at once for what is to be claimed: the replica may again.
func (r *Runner) nudge() {
	for _, name := range r.lanes.behind() {
		r.demand(name)
	}
}

// adoptOrphans takes over the attempts of nobody, as long as there are any. It is
// no reaction to anything: rows that were written late for an owner that is gone
// are found too.
func (r *Runner) adoptOrphans(ctx context.Context) {
	if owner, ok := r.able(); !ok || r.revalidate(ctx, owner) != nil {
		return
	}
	for ctx.Err() == nil {
		owner, ok := r.able()
		if !ok {
			return
		}
		got, err := r.store.Orphans(ctx, owner, mostRows)
		if err != nil {
			if !unsent(err) {
				r.owner.doubt(owner) // some may be taken over: nobody knows which
			}
			return
		}
		for i := range got {
			r.adopt(got[i], owner)
		}
		if len(got) < mostRows {
			return
		}
	}
}

// recheck looks whether the attempts that run for long still do: a worker may have
// ended one in a transaction of its own, and who fenced one off may not have been
// heard.
func (r *Runner) recheck(ctx context.Context) {
	refs := r.table.older(time.Now().Add(-recheckEvery))
	for ; len(refs) > 0 && ctx.Err() == nil; refs = refs[min(len(refs), mostRechecked):] {
		some := refs[:min(len(refs), mostRechecked)]
		ids := make([]wire.TaskID, len(some))
		for i, ref := range some {
			ids[i] = ref.ID
		}
		tasks, err := r.store.Peek(ctx, ids)
		if err != nil {
			return
		}
		for i, task := range tasks {
			if task == nil || task.Fence != some[i].Fence || task.State != wire.TaskRunning {
				r.gone(some[i].ID, some[i].Fence, task)
			}
		}
	}
}

// gone forgets an attempt that does not run any more, as the store says.
func (r *Runner) gone(id wire.TaskID, fence int64, task *wire.Task) {
	if r.table.end(id, fence) == nil {
		return // its end is being written
	}
	a := r.table.remove(id, fence)
	if a == nil {
		return
	}
	r.released(a.Name)
	r.waiters.deliver(id, task)
	switch {
	case task == nil:
	case task.Fence == fence:
		r.tell([]told{ofTask(a, task)}) // nobody else has
	case task.State == wire.TaskCancelled && task.Fence == fence+1: // killed, by who was not told so
		r.tellCancel(id, fence, "cancelled")
		r.tell([]told{ofTask(a, task)})
	default: // taken over, likewise, or given up elsewhere
		r.tellCancel(id, fence, "lost")
	}
}

// kill ends tasks whose workers had time enough to end them.
func (r *Runner) kill(ctx context.Context) {
	if r.stopping.Load() {
		return
	}
	killed, err := r.store.Kill(ctx, mostRows, r.cfg.Retention)
	if err != nil || len(killed) == 0 {
		return
	}
	ids := make([]wire.TaskID, len(killed))
	for i, ref := range killed {
		ids[i] = ref.ID
	}
	tasks, err := r.store.Peek(ctx, ids)
	if err != nil {
		tasks = make([]*wire.Task, len(ids))
	}
	ended := make([]told, 0, len(killed))
	for i, ref := range killed {
		a := r.table.remove(ref.ID, ref.Fence)
		if a != nil {
			r.released(a.Name)
		} else if tasks[i] != nil {
			a = r.asRead(ref.ID, tasks[i], ref.Fence)
		}
		r.tellCancel(ref.ID, ref.Fence, "cancelled")
		r.metrics.killed.Add(1)
		if a == nil {
			continue
		}
		news := told{a: a, state: wire.TaskCancelled}
		if tasks[i] != nil && tasks[i].State.Ended() {
			news = ofTask(a, tasks[i])
		}
		ended = append(ended, news)
	}
	r.tell(ended)
}

// probe tries one task of each name that nobody served.
func (r *Runner) probe(context.Context) {
	if _, ok := r.able(); !ok {
		return
	}
	for _, name := range r.lanes.taken(time.Now()) {
		r.claimFor(name, true)
	}
	for _, name := range r.lanes.probes(time.Now()) {
		select {
		case r.tries <- name:
		default: // those before it are still being claimed
			r.lanes.claimed(name, 0, 0, true, time.Now())
		}
	}
}

// names collects names that are told together.
type names struct {
	some chan struct{} // of capacity 1: there are

	mu  sync.Mutex // guards set
	set map[string]bool
}

func newNames() *names { return &names{some: make(chan struct{}, 1), set: map[string]bool{}} }

func (n *names) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.set) < mostWakes { // the others look by themselves
		n.set[name] = true
	}
	select {
	case n.some <- struct{}{}:
	default:
	}
}

func (n *names) take() (all []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.set {
		all = append(all, name)
	}
	clear(n.set)
	return all
}

// tellWakes tells the other replicas of which names tasks wait, until ctx ends.
func (r *Runner) tellWakes(ctx context.Context) {
	for {
		select {
		case <-r.wakes.some:
		case <-ctx.Done():
			return
		}
		if all := r.wakes.take(); len(all) > 0 && r.live.any() {
			r.sayWake(wire.TaskWake{Replica: r.cfg.ID, Names: all})
		}
		if clock.Sleep(ctx, wakePause) != nil {
			return
		}
	}
}

func (r *Runner) sayWake(wake wire.TaskWake) {
	if body, err := json.Marshal(wake); err == nil {
		r.publish(&nats.Msg{Subject: r.ns.TaskWakes(), Data: body})
	}
}

// heardWake hears that tasks wait, or that policies have changed.
func (r *Runner) heardWake(msg *nats.Msg) {
	var wake wire.TaskWake
	if json.Unmarshal(msg.Data, &wake) != nil || wake.Replica == r.cfg.ID {
		return
	}
	if wake.Policies {
		r.policies.nudge(msg)
	}
	for _, name := range wake.Names[:min(len(wake.Names), mostWakes)] {
		if wire.CheckTaskName("names", name) == nil {
			r.demand(name)
		}
	}
}

// Wake has tasks of names claimed that somebody else stored. Replicas that are not
// told find them within a second.
func (r *Runner) Wake(names ...string) {
	for _, name := range names {
		r.demand(name)
		r.wakes.add(name)
	}
}
