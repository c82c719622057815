package presence

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// groups are the groups of all gateways. Each is one entry of the bucket, which
// is its one point of order: whoever changes it does so by compare-and-set.
type groups struct {
	store   Store
	s       *Service
	view    atomic.Pointer[groupView]
	whole   atomic.Bool // view has been complete once
	commits groupCommits
	metrics groupMetrics
	saidOf  atomic.Pointer[string]                    // the last failure that was logged
	dying   atomic.Pointer[func(string, uint64) bool] // who is dead; nil: nobody is known to be
}

// groupMetrics count what the replica did with groups.
type groupMetrics struct {
	joins, refusals, leaves, publishes, conflicts atomic.Int64
}

// observe exports the figures of groups.
func (g *groups) observe(counter func(name, help string, read func() int64)) {
	m := &g.metrics
	counter("group_joins_total", "Connections that joined a group.", m.joins.Load)
	counter("group_joins_refused_total", "Joins refused since the group was full.", m.refusals.Load)
	counter("group_leaves_total", "Members that left a group, or were taken out.", m.leaves.Load)
	counter("group_publishes_total", "Messages to groups.", m.publishes.Load)
	counter("group_conflicts_total", "Writes that were decided again since the group had changed.", m.conflicts.Load)
}

// commitWait bounds a change that nobody else bounds.
const commitWait = 5 * time.Second

// sweptAtOnce bounds the groups that are swept at the same time.
const sweptAtOnce = 64

var errBadGroup = errors.New("the bucket holds something else than a group")

func newGroups(store Store, s *Service) *groups {
	g := &groups{store: store, s: s}
	g.commits.open = map[string]*groupQueue{}
	g.view.Store(newGroupView())
	return g
}

// ready reports whether there has been a whole view of the groups.
func (g *groups) ready() bool { return g.whole.Load() }

// run keeps the view until ctx is done.
func (g *groups) run(ctx context.Context) {
	var next *groupView
	begin := func() func(kv.Entry) {
		v := newGroupView()
		next = v
		return func(e kv.Entry) {
			group, err := wire.UnescapeToken(e.Key)
			if err != nil {
				return // no group of ours
			}
			if have := v.get(group); have != nil && have.revision >= e.Revision {
				return // this replica wrote it
			}
			k, err := readGroup(group, e)
			if err != nil {
				g.away(err)
				return
			}
			v.note(group, k, e.Deleted)
		}
	}
	g.store.Follow(ctx, begin, func() {
		g.view.Store(next)
		g.whole.Store(true)
	})
}

// gateways returns the gateways that have members in groups.
func (g *groups) gateways() map[string]struct{} { return g.view.Load().gateways() }

// sweep takes the members of gateways that are dead out of their groups. dead
// may be called concurrently, and also after sweep has returned.
func (g *groups) sweep(ctx context.Context, dead func(gateway string, epoch uint64) bool) {
	g.dying.Store(&dead)
	var work errgroup.Group
	work.SetLimit(sweptAtOnce)
	for _, group := range g.view.Load().heldBy(dead) {
		if ctx.Err() != nil {
			break
		}
		work.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, commitWait)
			defer cancel()
			_, err := g.change(ctx, group, groupTask{op: groupSweep})
			return err
		})
	}
	if err := work.Wait(); err != nil { // the next sweep finds them again
		g.away(err)
	}
}

// dead returns who is known to be dead, nil when nothing is known.
func (g *groups) dead() func(string, uint64) bool {
	if dead := g.dying.Load(); dead != nil {
		return *dead
	}
	return nil
}

// read returns what the leader has of a group.
func (g *groups) read(ctx context.Context, group string) (k *knownGroup, value []byte, err error) {
	e, err := g.store.Get(ctx, wire.EscapeToken(group))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return &knownGroup{entry: wire.GroupEntry{Group: group}}, nil, nil
	case err != nil:
		return nil, nil, err
	}
	k, err = readGroup(group, e)
	if err != nil {
		g.away(err)
		return nil, nil, errBadGroup
	}
	g.view.Load().note(group, k, e.Deleted)
	return k, e.Value, nil
}

// atLeast returns what a group is, at a revision or later; 0 asks the leader.
func (g *groups) atLeast(ctx context.Context, group string, revision uint64) (*knownGroup, error) {
	if k := g.view.Load().get(group); k != nil && revision > 0 && k.revision >= revision {
		return k, nil
	}
	k, _, err := g.read(ctx, group)
	if err != nil {
		return nil, unavailable(err)
	}
	return k, nil
}

// holds reports whether yes says so of a group: of what the replica knows, or
// else, since that may be old, of what the leader has.
func (g *groups) holds(ctx context.Context, group string, yes func(*wire.GroupEntry) bool) (bool, error) {
	if k := g.view.Load().get(group); k != nil && yes(&k.entry) {
		return true, nil
	}
	k, _, err := g.read(ctx, group)
	if err != nil {
		return false, unavailable(err)
	}
	return yes(&k.entry), nil
}

func (g *groups) rule(group string) *rules.Group { return g.s.deps.Rules.Current().Group(group) }

// announce publishes what happened to a group: hints, at most once.
func (g *groups) announce(group string, k *knownGroup, events []groupEvent) {
	for _, e := range events {
		switch e.what {
		case "joined":
			g.metrics.joins.Add(1)
		case "left":
			g.metrics.leaves.Add(1)
		case "full":
			g.metrics.refusals.Add(1)
		}
		body, err := plainJSON(groupHint{
			At: g.s.now().UnixMilli(), Group: group, Gateway: e.seat.Gateway, Conn: e.conn, User: e.seat.User,
			Role: e.seat.Role, Count: len(k.entry.Members),
		})
		if err == nil {
			g.s.event("group."+e.what, wire.EscapeToken(group), body)
		}
	}
}

// groupHint is the body of a lifecycle event of a group.
type groupHint struct {
	At      int64  `json:"at"`
	Group   string `json:"group"`
	Gateway string `json:"gateway,omitempty"`
	Conn    string `json:"conn,omitempty"`
	User    string `json:"user,omitempty"`
	Role    string `json:"role,omitempty"`
	Count   int    `json:"count"`
}

// away says once what keeps the groups from being read or written.
func (g *groups) away(err error) {
	text := err.Error()
	if said := g.saidOf.Swap(&text); said == nil || *said != text {
		g.s.slog.Warn("groups can't be read or written", "err", err)
	}
}

// publish sends a message to the gateways that have members of a group.
func (g *groups) publish(req *wire.GroupRequest) error {
	subject, err := g.s.cfg.Namespace.Group(req.Group)
	if err != nil {
		return err
	}
	msg := &nats.Msg{Subject: subject, Data: req.Data, Header: nats.Header{}}
	for name, value := range map[string]string{
		wire.HeaderEvent: req.Event, wire.HeaderUser: req.User, wire.HeaderConn: req.Conn,
		wire.HeaderRole: req.Role, wire.HeaderMember: req.Member,
	} {
		if value == "" {
			continue
		}
		if err := wire.SetHeader(msg.Header, name, value); err != nil {
			return err
		}
	}
	if err := g.s.requests.PublishMsg(msg); err != nil {
		g.s.metrics.publishErrors.Add(1)
		if errors.Is(err, nats.ErrMaxPayload) {
			return wire.InvalidField("data", "larger than NATS allows")
		}
		return wire.Errorf(wire.Unavailable, "NATS is away").With("outcome", "none")
	}
	g.metrics.publishes.Add(1)
	return nil
}
