package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// seating is who has a seat on a topic with a bound on its members, with the
// gateways they are on: the one point of order for all joins of the topic. It
// changes in the same atomic write as the sections it is about.
type seating struct {
	Users map[string]map[string]uint64 `json:"users"` // user → gateway → epoch
}

// take gives a user a seat, or says that there is none. dead tells whose seats
// are free.
func (t *seating) take(user, gateway string, epoch uint64, most int, dead func(string, uint64) bool) bool {
	if t.Users == nil {
		t.Users = map[string]map[string]uint64{}
	}
	if t.Users[user] == nil {
		if len(t.Users) >= most {
			t.free(dead)
		}
		if len(t.Users) >= most {
			return false
		}
		t.Users[user] = map[string]uint64{}
	}
	t.Users[user][gateway] = epoch
	return true
}

// give ends what a user has of a seat by a gateway.
func (t *seating) give(user, gateway string) {
	delete(t.Users[user], gateway)
	if len(t.Users[user]) == 0 {
		delete(t.Users, user)
	}
}

// free ends the seats of dead gateways.
func (t *seating) free(dead func(string, uint64) bool) {
	for user, gateways := range t.Users {
		for gateway, epoch := range gateways {
			if dead(gateway, epoch) {
				t.give(user, gateway)
			}
		}
	}
}

// seatEpoch is what tells whether a seat is a dead one's: the epoch of its
// gateway, or when it ends by itself.
func seatEpoch(p *wire.PresenceSection) uint64 {
	if p.Gateway == workerGateway {
		return uint64(p.Expires)
	}
	return p.Epoch
}

// queues lets one request of a topic write at a time: the others would only
// meet its revision.
type queues struct {
	mu    sync.Mutex
	turns map[string]*turn
}

type turn struct {
	ch   chan struct{}
	refs int
}

func (q *queues) enter(ctx context.Context, name string) (leave func(), err error) {
	q.mu.Lock()
	if q.turns == nil {
		q.turns = map[string]*turn{}
	}
	t := q.turns[name]
	if t == nil {
		t = &turn{ch: make(chan struct{}, 1)}
		q.turns[name] = t
	}
	t.refs++
	q.mu.Unlock()
	release := func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if t.refs--; t.refs == 0 {
			delete(q.turns, name)
		}
	}
	select {
	case t.ch <- struct{}{}:
		return func() { <-t.ch; release() }, nil
	case <-ctx.Done():
		release()
		return nil, ctx.Err()
	}
}

// seatBatch is the most sections of one atomic write.
const seatBatch = 256

// seat stores sections of a topic with a bound on its members.
func (s *Service) seat(ctx context.Context, topic string, all []wire.PresenceSection, which []int, results []result) {
	leave, err := s.seatQueue.enter(ctx, topic)
	if err != nil {
		for _, i := range which {
			results[i].err = err
		}
		return
	}
	defer leave()
	for len(which) > 0 {
		some := which[:min(len(which), seatBatch)]
		which = which[len(some):]
		s.seatSome(ctx, topic, all, some, results)
	}
}

func (s *Service) seatSome(ctx context.Context, topic string, all []wire.PresenceSection, which []int, results []result) {
	in := s.topics
	fail := func(err error) {
		for _, i := range which {
			if results[i].err == nil && results[i].revision == 0 {
				results[i].err = err
			}
		}
	}
	key := seatKey(topic)
	haves := make(map[int]*stored, len(which))
	for _, i := range which {
		haves[i] = in.known(&all[i])
	}
	seats, err := in.seatEntry(topic)
	known := false // that seats is what the leader has
	for range writeTries {
		if err != nil {
			fail(unavailable(err))
			return
		}
		writes, placed, plan := s.plan(topic, seats, all, which, haves)
		refused := 0
		for i, r := range plan {
			results[i] = r
			if r.err != nil {
				refused++
			}
		}
		if refused > 0 && !known { // a seat may be free that the view does not know of
			for i := range plan {
				results[i] = result{}
			}
			seats, err = in.readSeats(ctx, topic)
			known = true
			continue
		}
		if len(placed) == 0 {
			s.metrics.refusals.Add(int64(refused))
			return
		}
		if err := ctx.Err(); err != nil {
			fail(err)
			return
		}
		last, failed := in.store.PutAll(ctx, writes)
		if failed == nil {
			s.metrics.refusals.Add(int64(refused))
			first := last - uint64(len(writes)) + 1
			in.note(kv.Entry{Key: key, Value: writes[0].Value, Revision: first})
			for n, i := range placed {
				revision := first + uint64(n) + 1
				results[i] = result{revision: revision}
				s.wrote(in, &all[i], haves[i], kv.Entry{Key: writes[n+1].Key, Value: writes[n+1].Value, Revision: revision})
			}
			return
		}
		if !errors.Is(failed, kv.ErrConflict) {
			fail(unavailable(failed))
			return
		}
		s.metrics.conflicts.Add(1)
		for _, i := range which {
			section, keyErr := s.cfg.Namespace.PresenceKey(topic, all[i].User, all[i].Gateway)
			if keyErr != nil {
				continue
			}
			if haves[i], err = in.read(ctx, section); err != nil {
				fail(unavailable(err))
				return
			}
		}
		seats, err = in.readSeats(ctx, topic)
		known = true
	}
	fail(wire.Errorf(wire.Aborted, "the topic's members change too fast"))
}

// readSeats returns what the leader has of a topic's seats.
func (in *sections) readSeats(ctx context.Context, topic string) (kv.Entry, error) {
	seats, err := in.store.Get(ctx, seatKey(topic))
	if errors.Is(err, kv.ErrNotFound) {
		return kv.Entry{}, nil
	}
	return seats, err
}

// unseat takes a section out, and with it the seat that it has on a topic with a
// bound on its members.
func (s *Service) unseat(ctx context.Context, in *sections, key string, p *stored) (revision uint64, err error) {
	gone := kv.Write{Key: key, Expect: p.revision, Delete: true}
	if s.maxMembers(p.Topic) == 0 {
		return in.store.Put(ctx, gone)
	}
	leave, err := s.seatQueue.enter(ctx, p.Topic)
	if err != nil {
		return 0, err
	}
	defer leave()
	seats, err := in.seatEntry(p.Topic)
	if err != nil {
		return 0, err
	}
	for range writeTries {
		var t seating
		if seats.Deleted || json.Unmarshal(seats.Value, &t) != nil {
			return in.store.Put(ctx, gone)
		}
		t.give(p.User, p.Gateway)
		w, err := t.write(p.Topic, seats.Revision)
		if err != nil {
			return 0, err
		}
		revision, err := in.store.PutAll(ctx, []kv.Write{w, gone})
		if err == nil {
			in.note(kv.Entry{Key: w.Key, Value: w.Value, Revision: revision - 1})
			return revision, nil
		}
		if !errors.Is(err, kv.ErrConflict) {
			return 0, err
		}
		have, err := in.read(ctx, key)
		if err != nil || have == nil || have.revision != p.revision {
			return 0, kv.ErrConflict
		}
		if seats, err = in.readSeats(ctx, p.Topic); err != nil {
			return 0, err
		}
	}
	return 0, kv.ErrConflict
}

// write is what stores the seats of a topic. Where nobody has one they need not
// be remembered for long.
func (t *seating) write(topic string, expect uint64) (kv.Write, error) {
	value, err := plainJSON(t)
	if err != nil {
		return kv.Write{}, fmt.Errorf("encode seats: %w", err)
	}
	w := kv.Write{Key: seatKey(topic), Value: value, Expect: expect}
	if len(t.Users) == 0 {
		w.TTL = tombstone
	}
	return w, nil
}

// seatEntry returns the seats of a topic as far as the view knows them.
func (in *sections) seatEntry(topic string) (kv.Entry, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.view == nil {
		return kv.Entry{}, wire.Errorf(wire.Unavailable, "this replica is still reading who is there")
	}
	return in.view.seats[seatKey(topic)], nil
}

// occupied is the seating of a topic of which none is stored: its rule had no
// bound until now.
func (in *sections) occupied(topic string) (t seating) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.view == nil || in.view.topics[topic] == nil {
		return t
	}
	t.Users = map[string]map[string]uint64{}
	for user, sections := range in.view.topics[topic].users {
		for _, s := range sections {
			if !s.there() {
				continue
			}
			if t.Users[user] == nil {
				t.Users[user] = map[string]uint64{}
			}
			t.Users[user][s.Gateway] = seatEpoch(&s.PresenceSection)
		}
	}
	return t
}

// unbound ends the seating of a topic whose rule has no bound any more: who
// leaves now gives no seat back.
func (s *Service) unbound(ctx context.Context, topic string) error {
	in := s.topics
	in.mu.Lock()
	var seats kv.Entry
	if in.view != nil {
		seats = in.view.seats[seatKey(topic)]
	}
	in.mu.Unlock()
	if seats.Revision == 0 || seats.Deleted {
		return nil
	}
	_, err := in.store.Put(ctx, kv.Write{Key: seatKey(topic), Expect: seats.Revision, Delete: true})
	if errors.Is(err, kv.ErrConflict) {
		return nil
	}
	return err
}

// plan decides sections in order against the seats that are there. It returns
// what is to be written, the seats first, which sections that is, and what became
// of the others.
func (s *Service) plan(topic string, seats kv.Entry, all []wire.PresenceSection, which []int, haves map[int]*stored) (writes []kv.Write, placed []int, done map[int]result) {
	var t seating
	var err error
	if seats.Deleted || json.Unmarshal(seats.Value, &t) != nil {
		t = s.topics.occupied(topic)
	}
	most := s.maxMembers(topic)
	done = map[int]result{}
	writes = make([]kv.Write, 1, len(which)+1) // the first is of the seats
	for _, i := range which {
		p := &all[i]
		if settled, r := decide(p, haves[i]); settled {
			done[i] = r
			continue
		}
		if len(p.Conns) == 0 {
			t.give(p.User, p.Gateway)
		} else if !t.take(p.User, p.Gateway, seatEpoch(p), most, s.dead) {
			done[i] = result{err: (&wire.Error{Code: wire.ResourceExhausted, Message: "the topic has as many members as its rule allows"}).With("limit", most).With("topic", topic)}
			continue
		}
		key, err := s.cfg.Namespace.PresenceKey(topic, p.User, p.Gateway)
		if err == nil {
			var value []byte
			if value, err = plainJSON(p); err == nil {
				writes = append(writes, write(key, value, p, haves[i], s.now()))
				placed = append(placed, i)
				continue
			}
		}
		done[i] = result{err: fmt.Errorf("encode a section: %w", err)}
	}
	if writes[0], err = t.write(topic, seats.Revision); err != nil {
		for _, i := range placed {
			done[i] = result{err: err}
		}
		return nil, nil, done
	}
	return writes, placed, done
}
