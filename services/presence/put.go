package presence

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// tombstone is how long an empty section remembers its version: a request
	// that was under way does not bring back who left.
	tombstone = 5 * time.Minute
	// maxSections is the most sections of one `put`.
	maxSections = 512
	// maxConns is the most connections of one section.
	maxConns = 1000
	// writeTries bounds how often one section is decided again.
	writeTries = 8
	// writesAtOnce bounds the writes under way of one request.
	writesAtOnce = 128
	// maxSectionBytes is the most that the connections of one section take: a
	// page of sections has to fit into a message.
	maxSectionBytes = 256 << 10
)

// Put stores sections, each unless a newer version of it is there.
func (s *Service) Put(ctx context.Context, req wire.PresencePut) (wire.PresencePutReply, error) {
	if len(req.Sections) == 0 {
		r := s.putAll(ctx, []wire.PresenceSection{req.PresenceSection})[0]
		return wire.PresencePutReply{Revision: r.revision}, r.err
	}
	if len(req.Sections) > maxSections {
		return wire.PresencePutReply{}, wire.InvalidField("sections", fmt.Sprintf("at most %d", maxSections))
	}
	reply := wire.PresencePutReply{Results: make([]wire.PresenceRevised, len(req.Sections))}
	for i, r := range s.putAll(ctx, req.Sections) {
		reply.Results[i] = wire.PresenceRevised{Revision: r.revision, Stale: r.stale}
		if r.stale {
			reply.Results[i].Version = r.there.Version
		}
		if r.err != nil {
			reply.Results[i].Error = wire.AppendError(nil, wire.AsError(r.err))
		}
	}
	return reply, nil
}

// result is what became of one section.
type result struct {
	revision uint64
	stale    bool
	there    *stored // what is newer, where stale
	err      error
}

// putAll stores sections: those of a topic with a bound on its members together,
// every other for itself.
func (s *Service) putAll(ctx context.Context, all []wire.PresenceSection) []result {
	results := make([]result, len(all))
	seated := map[string][]int{}
	var work sync.WaitGroup
	slots := make(chan struct{}, writesAtOnce)
	for i := range all {
		p := &all[i]
		if err := checkSection(p); err != nil {
			results[i].err = err
			continue
		}
		if s.maxMembers(p.Topic) > 0 {
			seated[p.Topic] = append(seated[p.Topic], i)
			continue
		}
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			results[i] = s.put(ctx, p)
		})
	}
	for topic, which := range seated {
		work.Go(func() { s.seat(ctx, topic, all, which, results) })
	}
	work.Wait()
	for i, r := range results {
		if r.stale && r.there.Epoch > all[i].Epoch {
			s.disown(ctx, &all[i], r.there)
		}
	}
	return results
}

// disown takes out a section of an epoch that its gateway has never had, or has
// no more since the bucket of leases was lost: nothing the gateway says could
// ever be newer. What p says of the epoch has to be what the lease says, read
// after the section was.
func (s *Service) disown(ctx context.Context, p *wire.PresenceSection, there *stored) {
	e, err := s.leases.store.Get(ctx, wire.EscapeToken(p.Gateway))
	var held wire.GatewayLease
	if err != nil || e.Deleted || json.Unmarshal(e.Value, &held) != nil || cmp.Or(held.Epoch, e.Revision) != p.Epoch {
		return // it is asked for again
	}
	key, err := s.cfg.Namespace.PresenceKey(p.Topic, p.User, p.Gateway)
	if err != nil {
		return
	}
	in := s.of(p.Topic)
	revision, err := s.unseat(ctx, in, key, there)
	if err != nil {
		return
	}
	empty := there.PresenceSection
	empty.Conns = nil
	s.wrote(in, &empty, there, kv.Entry{Key: key, Revision: revision, Deleted: true})
}

func (s *Service) maxMembers(topic string) int {
	if topic == "" {
		return 0
	}
	if rule := s.deps.Rules.Current().Topic(topic); rule != nil && rule.Presence != nil {
		return rule.Presence.MaxMembers
	}
	return 0
}

func checkSection(p *wire.PresenceSection) error {
	if p.Topic != "" {
		if err := wire.CheckTopic(p.Topic); err != nil {
			return err
		}
	}
	if err := wire.CheckUser(p.User); err != nil {
		return err
	}
	if p.Gateway == "" || len(p.Gateway) > 128 || strings.HasPrefix(p.Gateway, workerGateway) {
		return wire.InvalidField("gateway", "the id of a gateway")
	}
	if len(p.Conns) > maxConns {
		return wire.InvalidField("conns", fmt.Sprintf("at most %d", maxConns))
	}
	for i, c := range p.Conns {
		at := "conns[" + strconv.Itoa(i) + "]."
		switch {
		case c.Conn == "" || len(c.Conn) > 128:
			return wire.InvalidField(at+"conn", "1-128 bytes")
		case len(c.Data) > wire.MaxMemberData:
			return wire.InvalidField(at+"data", fmt.Sprintf("at most %d bytes", wire.MaxMemberData))
		}
	}
	if sectionSize(p) > maxSectionBytes {
		return wire.Errorf(wire.ResourceExhausted, "the user's connections say too much of themselves").With("limit", maxSectionBytes)
	}
	return nil
}

// sectionSize is about how many bytes the connections of a section take.
func sectionSize(p *wire.PresenceSection) (n int) {
	for i := range p.Conns {
		c := &p.Conns[i]
		n += len(c.Info) + len(c.Data) + len(c.Conn) + 64
		for name, value := range c.Attributes {
			n += len(name) + len(value) + 6
		}
	}
	return n
}

// of returns where a section belongs.
func (s *Service) of(topic string) *sections {
	if topic == "" {
		return s.registry
	}
	return s.topics
}

// known returns what is known of a section, nil for nothing.
func (in *sections) known(p *wire.PresenceSection) (have *stored) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.view != nil {
		have = in.view.section(p.Topic, p.User, p.Gateway)
	}
	return have
}

// put stores one section.
func (s *Service) put(ctx context.Context, p *wire.PresenceSection) result {
	in := s.of(p.Topic)
	key, err := s.cfg.Namespace.PresenceKey(p.Topic, p.User, p.Gateway)
	if err != nil {
		return result{err: err}
	}
	value, err := plainJSON(p)
	if err != nil {
		return result{err: fmt.Errorf("encode a section: %w", err)}
	}
	if p.Topic != "" {
		if err := s.unbound(ctx, p.Topic); err != nil {
			return result{err: unavailable(err)}
		}
	}
	have := in.known(p)
	for range writeTries {
		if done, r := decide(p, have); done {
			if r.stale {
				s.metrics.stale.Add(1)
			}
			return r
		}
		if err := ctx.Err(); err != nil { // nothing is written that nobody waits for
			return result{err: err}
		}
		w := write(key, value, p, have, s.now())
		revision, err := in.store.Put(ctx, w)
		switch {
		case err == nil:
			s.wrote(in, p, have, kv.Entry{Key: key, Value: value, Revision: revision})
			return result{revision: revision}
		case !errors.Is(err, kv.ErrConflict):
			return result{err: unavailable(err)}
		}
		s.metrics.conflicts.Add(1)
		if have, err = in.read(ctx, key); err != nil {
			return result{err: unavailable(err)}
		}
	}
	return result{err: wire.Errorf(wire.Aborted, "the section changes too fast")}
}

// decide says whether nothing has to be written, given what is there.
func decide(p *wire.PresenceSection, have *stored) (done bool, r result) {
	switch {
	case have == nil:
		return false, result{}
	case have.Epoch == p.Epoch && have.Version == p.Version && (have.there() || len(p.Conns) == 0):
		return true, result{revision: have.revision}
	case have.newerThan(p):
		return true, result{revision: have.revision, stale: true, there: have}
	}
	return false, result{}
}

func write(key string, value []byte, p *wire.PresenceSection, have *stored, now time.Time) kv.Write {
	w := kv.Write{Key: key, Value: value}
	if have != nil {
		w.Expect = have.revision
	}
	if len(p.Conns) == 0 {
		w.TTL = tombstone
	} else if p.Expires > 0 {
		w.TTL = max(time.UnixMilli(p.Expires).Sub(now), time.Second)
	}
	return w
}

// read returns what the leader has under a section's key. A deleted one is
// returned as one that nobody has said anything in.
func (in *sections) read(ctx context.Context, key string) (*stored, error) {
	e, err := in.store.Get(ctx, key)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	have := &stored{revision: e.Revision}
	if e.Deleted || json.Unmarshal(e.Value, &have.PresenceSection) != nil {
		have.PresenceSection = wire.PresenceSection{}
	}
	have.order()
	return have, nil
}

// wrote notes what was stored in the place of have, and says who came or left.
// The view may know of the write already: it is not asked what it was before.
func (s *Service) wrote(in *sections, p *wire.PresenceSection, have *stored, e kv.Entry) {
	s.metrics.puts.Add(1)
	in.note(e)
	if p.Topic == "" {
		return
	}
	now := &stored{*p, e.Revision}
	now.Conns = slices.Clone(p.Conns)
	now.order()
	others := in.others(p)
	was := have != nil && present(append(others, have)) || have == nil && present(others)
	if is := present(append(others, now)); is != was {
		s.changed(p, is)
	}
}

// others returns what other gateways say of a user.
func (in *sections) others(p *wire.PresenceSection) (others []*stored) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.view == nil {
		return nil
	}
	for _, s := range in.view.user(p.Topic, p.User) {
		if s.Gateway != p.Gateway {
			others = append(others, s)
		}
	}
	return others
}

// changed counts, and tells workers, that a user came to a topic or left it.
func (s *Service) changed(p *wire.PresenceSection, came bool) {
	what := "presence.left"
	if came {
		what = "presence.joined"
		s.metrics.joins.Add(1)
	} else {
		s.metrics.leaves.Add(1)
	}
	conn := ""
	if len(p.Conns) > 0 {
		conn = p.Conns[len(p.Conns)-1].Conn
	}
	body, err := json.Marshal(presenceEvent{At: s.now().UnixMilli(), Gateway: p.Gateway, Conn: conn, User: p.User})
	if err == nil {
		s.event(what, p.Topic, body)
	}
}

type presenceEvent struct {
	At      int64  `json:"at"`
	Gateway string `json:"gateway"`
	Conn    string `json:"conn,omitempty"`
	User    string `json:"user"`
}
