package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const groupRules = `
groups:
  - {match: "ten", maxMembers: 10, roles: [member, admin]}
  - {match: "two", maxMembers: 2}
  - {match: "team.>", roles: [member, admin], meta: [admin]}
`

// groupRig is replicas of the service on a NATS server, and who asks them.
type groupRig struct {
	t        *testing.T
	server   *natsdev.Server
	nc       *nats.Conn
	replicas []*Service
	version  atomic.Uint64
}

func startGroups(t *testing.T, replicas int) *groupRig {
	t.Helper()
	server := natsdev.Test(t)
	nc, err := bus.Connect(t.Context(), bus.Config{URL: server.ClientURL()}, bus.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	r := &groupRig{t: t, server: server, nc: nc}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	for range replicas {
		live, err := rules.Follow(rules.Options{Store: rules.Store{JetStream: js, Namespace: "fl"}, Mode: rules.Dev, File: []byte(groupRules), Log: log})
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Namespace: "fl"}, Deps{NATS: bus.Config{URL: server.ClientURL()}, Rules: live, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		awaitReplica(t, s, done)
		r.replicas = append(r.replicas, s)
	}
	return r
}

func awaitReplica(t *testing.T, s *Service, done chan error) {
	t.Helper()
	deadline := time.After(storePatience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.serving.Load() == false || s.Ready() != nil {
		select {
		case <-tick.C:
		case err := <-done:
			t.Fatalf("Run: %v", err)
		case <-deadline:
			t.Fatalf("not ready: %v", s.Ready())
		}
	}
}

func askGroup[Rep any](r *groupRig, op string, req wire.GroupRequest) (Rep, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	return bus.Call[wire.GroupRequest, Rep](ctx, r.nc, "fl.svc.presence.group."+op, req)
}

// seat is a request about a connection, as a gateway sends it.
func (r *groupRig) seat(group, conn string) wire.GroupRequest {
	return wire.GroupRequest{Group: group, User: "ann", Conn: conn, Gateway: "gw", Epoch: 1, Version: r.version.Add(1)}
}

func (r *groupRig) join(req wire.GroupRequest) (wire.GroupJoined, error) {
	return askGroup[wire.GroupJoined](r, "join", req)
}

func (r *groupRig) do(op string, req wire.GroupRequest) {
	r.t.Helper()
	if _, err := askGroup[struct{}](r, op, req); err != nil {
		r.t.Fatalf("%s: %v", op, err)
	}
}

// members asks a worker's way.
func (r *groupRig) members(group string) wire.GroupMembers {
	r.t.Helper()
	m, err := askGroup[wire.GroupMembers](r, "members", wire.GroupRequest{Group: group})
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// TestGroupsLetInExactlyMaxMembers lets many join at the same time through two
// replicas.
func TestGroupsLetInExactlyMaxMembers(t *testing.T) {
	r := startGroups(t, 2)
	var in, full atomic.Int64
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			_, err := r.join(r.seat("ten", fmt.Sprint("c", i)))
			switch {
			case err == nil:
				in.Add(1)
			case errors.Is(err, wire.ErrResourceExhausted) && fmt.Sprint(wire.AsError(err).Details["limit"]) == "10":
				full.Add(1)
			default:
				t.Errorf("join: %v", err)
			}
		})
	}
	all.Wait()
	if in.Load() != 10 || full.Load() != 90 {
		t.Errorf("got %d in and %d refused, want 10 and 90", in.Load(), full.Load())
	}
	if n := r.members("ten").Count; n != 10 {
		t.Errorf("got %d members, want 10", n)
	}
}

// TestGroupsCloseAgainstJoins closes a group while many join: whoever is
// answered after close has been, is refused.
func TestGroupsCloseAgainstJoins(t *testing.T) {
	r := startGroups(t, 2)
	var closed atomic.Bool
	var before, refused atomic.Int64
	var all sync.WaitGroup
	slots := make(chan struct{}, 50)
	for i := range 1000 {
		slots <- struct{}{}
		if i == 400 {
			all.Go(func() {
				r.do("close", wire.GroupRequest{Group: "team.x"})
				closed.Store(true)
			})
		}
		all.Go(func() {
			defer func() { <-slots }()
			late := closed.Load()
			_, err := r.join(r.seat("team.x", fmt.Sprint("c", i)))
			switch {
			case err == nil && late:
				t.Errorf("join %d began after the close and was let in", i)
			case err == nil:
				before.Add(1)
			case errors.Is(err, wire.ErrFailedPrecondition):
				refused.Add(1)
			default:
				t.Errorf("join: %v", err)
			}
		})
	}
	all.Wait()
	if before.Load() == 0 || refused.Load() == 0 {
		t.Errorf("got %d in and %d refused: the close came too early or too late to tell", before.Load(), refused.Load())
	}
	if m := r.members("team.x"); m.Count != 0 {
		t.Errorf("got %d members of a closed group", m.Count)
	}
	r.do("close", wire.GroupRequest{Group: "team.x"})
	r.do("publish", wire.GroupRequest{Group: "team.x", Conn: "c1", Data: json.RawMessage(`1`)})
	r.do("create", wire.GroupRequest{Group: "team.x"})
	if _, err := r.join(r.seat("team.x", "c1")); err != nil {
		t.Errorf("join after create opened it again: %v", err)
	}
}

// TestGroupsDoubleJoin joins the same connection many times at once.
func TestGroupsDoubleJoin(t *testing.T) {
	r := startGroups(t, 2)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			joined, err := r.join(r.seat("two", "c1"))
			if err != nil || joined.Count != 1 || joined.Member != "c1" {
				t.Errorf("got %+v, %v", joined, err)
			}
		})
	}
	all.Wait()
	for range 2 {
		r.do("leave", r.seat("two", "c1"))
	}
	if n := r.members("two").Count; n != 0 {
		t.Errorf("got %d members after the leave, want none", n)
	}
	if _, err := r.join(wire.GroupRequest{Group: "two", User: "ann", Conn: "c1", Gateway: "gw", Epoch: 1, Version: 1}); !errors.Is(err, wire.ErrAborted) {
		t.Errorf("a join that comes behind its leave: got %v, want ABORTED", err)
	}
}

// TestGroupsMessages listens to what gateways hear.
func TestGroupsMessages(t *testing.T) {
	r := startGroups(t, 2)
	heard := make(chan *nats.Msg, 16)
	for _, subject := range []string{"fl.group.>", "fl.event.group.>"} {
		if _, err := r.nc.ChanSubscribe(subject, heard); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	next := func() *nats.Msg {
		select {
		case m := <-heard:
			return m
		case <-time.After(storePatience):
			t.Fatal("nothing came")
			return nil
		}
	}
	if _, err := r.join(r.seat("team.x", "c1")); err != nil {
		t.Fatal(err)
	}
	if m := next(); m.Subject != "fl.event.group.joined.team=2Ex" || !json.Valid(m.Data) {
		t.Errorf("got %s %s", m.Subject, m.Data)
	}
	r.do("publish", wire.GroupRequest{Group: "team.x", Conn: "c1", User: "ann", Event: "move", Role: "admin", Data: json.RawMessage(`{"to":"<e4>"}`)})
	m := next()
	if m.Subject != "fl.group.team=2Ex" || string(m.Data) != `{"to":"<e4>"}` || m.Header.Get("Fl-Event") != "move" || m.Header.Get("Fl-User") != "ann" ||
		m.Header.Get("Fl-Conn") != "c1" || m.Header.Get("Fl-Role") != "admin" {
		t.Errorf("got %s %s %v", m.Subject, m.Data, m.Header)
	}
	r.do("send", wire.GroupRequest{Group: "team.x", Member: "c1"}) // a worker
	if m := next(); m.Header.Get("Fl-Member") != "c1" || m.Header.Get("Fl-Event") != "message" || m.Header.Get("Fl-User") != "" {
		t.Errorf("got %v", m.Header)
	}
	for name, c := range map[string]struct {
		op   string
		req  wire.GroupRequest
		code wire.Code
	}{
		"publish of a stranger":      {"publish", wire.GroupRequest{Group: "team.x", Conn: "c9"}, wire.FailedPrecondition},
		"publish to an unknown role": {"publish", wire.GroupRequest{Group: "team.x", Role: "king"}, wire.InvalidArgument},
		"send to a stranger":         {"send", wire.GroupRequest{Group: "team.x", Conn: "c1", Member: "c9"}, wire.NotFound},
		"send of a stranger":         {"send", wire.GroupRequest{Group: "team.x", Conn: "c9", Member: "c1"}, wire.FailedPrecondition},
		"join without a conn":        {"join", wire.GroupRequest{Group: "team.x", User: "ann"}, wire.InvalidArgument},
		"join where no rule is":      {"join", wire.GroupRequest{Group: "else", User: "ann", Conn: "c1", Gateway: "gw"}, wire.PermissionDenied},
	} {
		if _, err := askGroup[json.RawMessage](r, c.op, c.req); wire.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	r.do("close", wire.GroupRequest{Group: "team.x"})
	if m := next(); m.Subject != "fl.event.group.closed.team=2Ex" {
		t.Errorf("got %s", m.Subject)
	}
}

// TestGroupsMeta sets it through one replica and reads it through the others.
func TestGroupsMeta(t *testing.T) {
	r := startGroups(t, 2)
	for i := range 20 {
		set, err := askGroup[wire.GroupMeta](r, "meta", wire.GroupRequest{Group: "team.x", Meta: json.RawMessage(fmt.Sprint(i))})
		if err != nil || string(set.Meta) != fmt.Sprint(i) {
			t.Fatalf("got %s, %v", set.Meta, err)
		}
		got, err := askGroup[wire.GroupMeta](r, "meta", wire.GroupRequest{Group: "team.x"})
		if err != nil || string(got.Meta) != fmt.Sprint(i) {
			t.Fatalf("got %s, %v, want %d", got.Meta, err, i)
		}
	}
	r.do("create", wire.GroupRequest{Group: "team.x", Meta: json.RawMessage(`"late"`)})
	if m := r.members("team.x"); string(m.Meta) != "19" {
		t.Errorf("got %s, want what was set before create", m.Meta)
	}
}

// TestGroupsFreeTheSeatsOfTheDead has the sweep take a dead gateway's members
// out, and a join take their seats before it does.
func TestGroupsFreeTheSeatsOfTheDead(t *testing.T) {
	r := startGroups(t, 1)
	g := r.replicas[0].groups
	for i := range 2 {
		if _, err := r.join(r.seat("two", fmt.Sprint("c", i))); err != nil {
			t.Fatal(err)
		}
	}
	if got := g.gateways(); len(got) != 1 {
		t.Errorf("got %v, want gw", got)
	}
	dead := func(gateway string, epoch uint64) bool { return gateway == "gw" && epoch == 1 }
	g.sweep(t.Context(), dead)
	if n := r.members("two").Count; n != 0 {
		t.Errorf("got %d members after the sweep, want none", n)
	}
	if got := g.gateways(); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}

// flaky is a store that answers some writes with an error although they were
// stored.
type flaky struct {
	Store
	lost atomic.Int64 // this many acknowledgements are lost
}

func (f *flaky) Put(ctx context.Context, w kv.Write) (uint64, error) {
	revision, err := f.Store.Put(ctx, w)
	if err == nil && f.lost.Add(-1) >= 0 {
		return 0, errors.New("the acknowledgement is lost")
	}
	return revision, err
}

// TestGroupsResolveAnUnknownOutcome loses acknowledgements: who asked hears what
// was stored, once.
func TestGroupsResolveAnUnknownOutcome(t *testing.T) {
	r := startGroups(t, 1)
	g := r.replicas[0].groups
	broken := &flaky{Store: g.store}
	g.store = broken
	joined := g.metrics.joins.Load()
	broken.lost.Store(1)
	got, err := r.join(r.seat("two", "c1"))
	if err != nil || got.Count != 1 || got.Revision == 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	if n := g.metrics.joins.Load() - joined; n != 1 {
		t.Errorf("%d joins were announced, want 1", n)
	}
}
