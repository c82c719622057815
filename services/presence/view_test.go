package presence

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// sectionEntry is an entry of a section's bucket.
func sectionEntry(t interface{ Fatal(...any) }, revision uint64, p wire.PresenceSection) kv.Entry {
	key, err := wire.Namespace("fl").PresenceKey(p.Topic, p.User, p.Gateway)
	if err != nil {
		t.Fatal(err)
	}
	value, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return kv.Entry{Key: key, Value: value, Revision: revision}
}

// conns are connections of these ids.
func conns(ids ...string) (all []wire.PresenceConn) {
	for _, id := range ids {
		all = append(all, wire.PresenceConn{Conn: id})
	}
	return all
}

func drawSection(t *rapid.T) wire.PresenceSection {
	p := wire.PresenceSection{
		Topic:   rapid.SampledFrom([]string{"", "a", "a.b"}).Draw(t, "topic"),
		User:    rapid.SampledFrom([]string{"ann", "bob", "x.y"}).Draw(t, "user"),
		Gateway: rapid.SampledFrom([]string{"g1", "g2", workerGateway}).Draw(t, "gateway"),
		Epoch:   rapid.Uint64Range(1, 3).Draw(t, "epoch"), Version: rapid.Uint64Range(1, 99).Draw(t, "version"),
		Left: rapid.Uint64Range(0, 9).Draw(t, "left"),
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "conns") {
		p.Conns = append(p.Conns, wire.PresenceConn{Conn: fmt.Sprint("c", i), Away: rapid.Bool().Draw(t, "away")})
	}
	return p
}

// However far ahead of the bucket's own word a replica notes its writes, its
// figures are those of what it holds, and in the end it holds what is stored.
func TestViewModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := newView()
		var log []kv.Entry
		truth := map[string]kv.Entry{}
		fed := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1, 2: // somebody writes
				e := sectionEntry(t, uint64(len(log)+1), drawSection(t))
				e.Deleted = rapid.IntRange(0, 3).Draw(t, "deleted") == 0
				if rapid.IntRange(0, 9).Draw(t, "garbage") == 0 {
					e.Value = []byte(`{"topic":`)
				}
				log = append(log, e)
				truth[e.Key] = e
			case 3: // this replica knows of a write that was its own
				if fed < len(log) {
					if e := log[rapid.IntRange(fed, len(log)-1).Draw(t, "own")]; !e.Deleted {
						v.apply(e)
					}
				}
			default: // the bucket tells
				if fed < len(log) {
					v.apply(log[fed])
					fed++
				}
			}
			checkFigures(t, v)
		}
		for ; fed < len(log); fed++ {
			v.apply(log[fed])
			checkFigures(t, v)
		}
		want := newView()
		for _, key := range slices.Sorted(maps.Keys(truth)) {
			want.apply(truth[key])
		}
		if got, want := dump(v), dump(want); !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

// dump is what a view holds, by key.
func dump(v *view) map[string]uint64 {
	out := map[string]uint64{}
	for topic, r := range v.topics {
		for user, sections := range r.users {
			for _, s := range sections {
				out[fmt.Sprintf("%s|%s|%s|%d conns", topic, user, s.Gateway, len(s.Conns))] = s.revision
			}
		}
	}
	return out
}

// checkFigures compares what a view counts with what it holds.
func checkFigures(t interface{ Fatalf(string, ...any) }, v *view) {
	all, gateways, sections := 0, map[string]wire.PresenceDigest{}, map[string]int{}
	for topic, r := range v.topics {
		members, digest := 0, wire.PresenceDigest{}
		if len(r.users) == 0 {
			t.Fatalf("topic %q is empty and there", topic)
		}
		for user, held := range r.users {
			if len(held) == 0 {
				t.Fatalf("%q has nothing on %q and is there", user, topic)
			}
			if present(held) {
				members++
			}
			for _, s := range held {
				sections[s.Gateway]++
				d := gateways[s.Gateway]
				if len(s.Conns) > 0 {
					digest.Add(wire.SectionHash(topic, user, s.Gateway, s.revision))
					d.Add(wire.SectionHash(topic, user, s.Gateway, s.Version))
				}
				gateways[s.Gateway] = d
				if _, ok := v.gateways[s.Gateway].ranges[rangeOf(s)][s]; !ok {
					t.Fatalf("gateway %s does not have its section of %s on %q", s.Gateway, user, topic)
				}
			}
		}
		if r.members != members || r.digest != digest {
			t.Fatalf("topic %q: %d members and %+v, want %d and %+v", topic, r.members, r.digest, members, digest)
		}
		if r.order.kept {
			listed := slices.Collect(r.order.after(""))
			there := slices.DeleteFunc(slices.Clone(listed), func(user string) bool { return r.users[user] == nil })
			if !slices.Equal(there, slices.Sorted(maps.Keys(r.users))) || len(listed)-len(there) != r.order.gone {
				t.Fatalf("topic %q: in order %v with %d gone, there are %v", topic, listed, r.order.gone, r.users)
			}
		}
		all += members
		r.page("", 1, present) // makes the order
	}
	if v.members != all {
		t.Fatalf("%d members, want %d", v.members, all)
	}
	if len(v.gateways) != len(gateways) {
		t.Fatalf("%d gateways, want %d", len(v.gateways), len(gateways))
	}
	for id, h := range v.gateways {
		if h.digest != gateways[id] || h.count != sections[id] {
			t.Fatalf("gateway %s: %+v over %d sections, want %+v over %d", id, h.digest, h.count, gateways[id], sections[id])
		}
		epochs, inParts := map[uint64]tally{}, 0
		for part := range 4 {
			for s := range h.part(part, 4) {
				inParts++
				tally := epochs[s.Epoch]
				tally.all++
				if s.there() {
					tally.there++
				}
				epochs[s.Epoch] = tally
				if got := wire.SectionHash(s.Topic, s.User, "", 0) % 4; got != uint64(part) {
					t.Fatalf("a section of part %d in part %d", got, part)
				}
			}
		}
		if inParts != h.count || !maps.Equal(epochs, h.epochs) {
			t.Fatalf("gateway %s: %d sections of epochs %v in its parts, want %d of %v", id, inParts, epochs, h.count, h.epochs)
		}
	}
}

// A view takes nothing that is older than what it has, and nothing under a key
// that is another's.
func TestViewTakesWhatIsNewer(t *testing.T) {
	v := newView()
	p := wire.PresenceSection{Topic: "a", User: "ann", Gateway: "g", Conns: conns("c1")}
	v.apply(sectionEntry(t, 5, p))
	empty := p
	empty.Conns = nil
	v.apply(sectionEntry(t, 4, empty))
	v.apply(sectionEntry(t, 5, empty))
	if s := v.section("a", "ann", "g"); s == nil || !s.there() || s.Conns[0].Order != 5 {
		t.Errorf("got %+v, want what was stored last", s)
	}
	other := sectionEntry(t, 6, p)
	other.Value = []byte(`{"topic":"b","user":"ann","gateway":"g","conns":[{"conn":"c9"}]}`)
	v.apply(other)
	if s := v.section("a", "ann", "g"); s != nil {
		t.Errorf("got %+v of a value that is another key's", s)
	}
	for _, key := range []string{"ann", "", "a..b", "a.=ZZ.g", "a.b."} {
		v.apply(kv.Entry{Key: key, Value: other.Value, Revision: 9})
	}
	if len(v.topics) != 0 {
		t.Errorf("keys that are no section's are there: %v", dump(v))
	}
}

// Pages cover everybody once, whoever comes and goes between them.
func TestPages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := newView()
		revision := uint64(0)
		put := func(i int, ids ...string) {
			revision++
			v.apply(sectionEntry(t, revision, wire.PresenceSection{Topic: "a", User: fmt.Sprintf("u%02d", i), Gateway: "g", Version: revision, Conns: conns(ids...)}))
		}
		many := rapid.IntRange(0, 30).Draw(t, "many")
		for i := range many {
			put(i, "c")
		}
		limit := rapid.IntRange(1, 10).Draw(t, "limit")
		seen, cursor := []string{}, ""
		for {
			users, next := v.topics["a"].page(cursor, limit, present)
			if len(users) > limit {
				t.Fatalf("%d users, want %d at most", len(users), limit)
			}
			seen = append(seen, users...)
			if next == "" {
				break
			}
			if next <= cursor {
				t.Fatalf("cursor %q after %q", next, cursor)
			}
			cursor = next
			put(rapid.IntRange(40, 60).Draw(t, "comes"), "c")
			if gone := rapid.IntRange(40, 60).Draw(t, "goes"); v.section("a", fmt.Sprintf("u%02d", gone), "g") != nil {
				put(gone)
			}
		}
		if !slices.IsSorted(seen) || len(slices.Compact(slices.Clone(seen))) != len(seen) {
			t.Fatalf("got %v, want each once, in order", seen)
		}
		for i := range many {
			if !slices.Contains(seen, fmt.Sprintf("u%02d", i)) {
				t.Fatalf("u%02d, who was there all the time, is on no page: %v", i, seen)
			}
		}
	})
}
