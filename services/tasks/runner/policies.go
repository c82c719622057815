package runner

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

const (
	// policiesEvery is how often what is registered is read, whatever was heard.
	policiesEvery = 5 * time.Second
	// registerWait is how long a registration waits until it counts in the other
	// replicas.
	registerWait = time.Second
	// mostAskers bounds the registrations that wait for this replica.
	mostAskers = 1024
)

// policies are those of all names, as they were read last.
type policies struct {
	byName atomic.Pointer[map[string]store.Policy]

	mu     sync.Mutex // guards what follows
	nudged bool
	askers []*nats.Msg // wait until what is registered by now counts here
}

// of returns the policy of a name; the default where none is registered.
func (p *policies) of(name string) store.Policy {
	if all := p.byName.Load(); all != nil {
		if policy, ok := (*all)[name]; ok {
			return policy
		}
	}
	return defaultPolicy(name)
}

// known reports whether what is registered was read: until then the default would be
// taken for names that have another policy.
func (p *policies) known() bool { return p.byName.Load() != nil }

func (p *policies) set(all []store.Policy) {
	byName := make(map[string]store.Policy, len(all))
	for _, policy := range all {
		byName[policy.Name] = policy
	}
	p.byName.Store(&byName)
}

// nudge has what is registered read again soon, and asker, if there is one,
// answered then.
func (p *policies) nudge(asker *nats.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nudged = true
	if asker != nil && asker.Reply != "" && len(p.askers) < mostAskers {
		p.askers = append(p.askers, asker)
	}
}

// wanted reports whether something was registered, and who waits for it.
func (p *policies) wanted() (nudged bool, askers []*nats.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	nudged, askers = p.nudged, p.askers
	p.nudged, p.askers = false, nil
	return nudged, askers
}

// keepPolicies reads what is registered until ctx ends.
func (r *Runner) keepPolicies(ctx context.Context) {
	read := time.Time{}
	look := func(ctx context.Context) {
		nudged, askers := r.policies.wanted()
		if !nudged && time.Since(read) < policiesEvery {
			return
		}
		all, err := r.store.Policies(ctx)
		if err != nil {
			if nudged {
				r.policies.nudge(nil) // who asked waits for a moment only
			}
			return
		}
		r.policies.set(all)
		read = time.Now()
		for _, m := range askers {
			_, _ = r.cfg.Guard.Respond(m, []byte(r.cfg.ID), nil) // who is not answered waits for a moment only
		}
	}
	look(ctx)
	every(ctx, 50*time.Millisecond, look)
}

// Policy returns how the tasks of a name are run.
func (r *Runner) Policy(name string) store.Policy { return r.policies.of(name) }

// Register stores how the tasks of a name are run from now on. It returns when
// that counts in all replicas that are well.
func (r *Runner) Register(ctx context.Context, p store.Policy) error {
	if err := r.store.Register(ctx, p); err != nil {
		return away(err)
	}
	if all, err := r.store.Policies(ctx); err == nil {
		r.policies.set(all)
	} else {
		r.policies.nudge(nil)
	}
	r.tellPolicies(ctx)
	return nil
}

// tellPolicies has the other replicas read what is registered, and waits until
// they have, or a moment.
func (r *Runner) tellPolicies(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, registerWait)
	defer cancel()
	waiting := map[string]bool{}
	for _, id := range r.live.others(time.Now()) {
		waiting[id] = true
	}
	inbox := r.peers.NewInbox()
	sub, err := r.peers.SubscribeSync(inbox)
	if err != nil {
		return // the connection is closed
	}
	defer func() { _ = sub.Unsubscribe() }() // it may be closed meanwhile
	body, err := json.Marshal(wire.TaskWake{Replica: r.cfg.ID, Policies: true})
	if err != nil {
		return
	}
	r.publish(&nats.Msg{Subject: r.ns.TaskWakes(), Reply: inbox, Data: body})
	for len(waiting) > 0 {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return // they read it by themselves, a few seconds later
		}
		delete(waiting, string(m.Data))
	}
}
