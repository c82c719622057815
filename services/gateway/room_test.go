package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const roomTopic = "chat.a"

// roomBucket is a bucket of one topic's sections, with its whole past.
type roomBucket struct {
	log []kv.Entry // revision i+1 is log[i]
}

func (b *roomBucket) write(t *rapid.T, p wire.PresenceSection, deleted bool) {
	p.Topic = roomTopic
	key, err := wire.Namespace("fl").PresenceKey(p.Topic, p.User, p.Gateway)
	if err != nil {
		t.Fatal(err)
	}
	e := kv.Entry{Key: key, Revision: uint64(len(b.log) + 1), Deleted: deleted}
	if !deleted {
		if e.Value, err = json.Marshal(p); err != nil {
			t.Fatal(err)
		}
	}
	b.log = append(b.log, e)
}

// at is what the bucket held at a revision, as the service lists it: users of
// whom nothing is there are left out.
func (b *roomBucket) at(t *rapid.T, rev uint64) (listed []wire.PresenceStored) {
	newest := map[string]kv.Entry{}
	for _, e := range b.log[:rev] {
		newest[e.Key] = e
	}
	byUser := map[string][]wire.PresenceStored{}
	there := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(newest)) {
		e := newest[key]
		if e.Deleted {
			continue
		}
		p := wire.PresenceStored{Revision: e.Revision}
		if err := json.Unmarshal(e.Value, &p.PresenceSection); err != nil {
			t.Fatal(err)
		}
		byUser[p.User] = append(byUser[p.User], p)
		there[p.User] = there[p.User] || len(p.Conns) > 0
	}
	for _, user := range slices.Sorted(maps.Keys(byUser)) {
		if there[user] {
			listed = append(listed, byUser[user]...)
		}
	}
	return listed
}

// truth is who is on the topic by a listing, as everybody may see them, with the
// digest.
func truth(listed []wire.PresenceStored) (map[string]string, wire.PresenceDigest) {
	r := newRoom(roomTopic)
	r.reconcile(listed, []listing{{"", 1}})
	r.diff()
	return shownOf(r), r.digest
}

func shownOf(r *room) map[string]string {
	out := map[string]string{}
	for user, m := range r.shown {
		out[user] = string(m)
	}
	return out
}

// watcherView folds a room's diffs as a client does.
type watcherView map[string]string

func (v watcherView) take(joins, leaves []byte) error {
	var joined, left map[string]json.RawMessage
	if err := json.Unmarshal([]byte("{"+string(joins)+"}"), &joined); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte("{"+string(leaves)+"}"), &left); err != nil {
		return err
	}
	for user := range left {
		if _, ok := v[user]; !ok {
			return fmt.Errorf("%s leaves and was not there", user)
		}
		if _, ok := joined[user]; ok {
			return fmt.Errorf("%s joins and leaves in one frame", user)
		}
		delete(v, user)
	}
	for user, m := range joined {
		if v[user] == string(m) {
			return fmt.Errorf("%s is told again: %s", user, m)
		}
		v[user] = string(m)
	}
	return nil
}

func drawRoomSection(t *rapid.T, b *roomBucket) (p wire.PresenceSection) {
	p.User = rapid.SampledFrom([]string{"ann", "bob", "cid"}).Draw(t, "user")
	p.Gateway = rapid.SampledFrom([]string{"g1", "g2"}).Draw(t, "gateway")
	p.Left = rapid.SampledFrom([]uint64{0, uint64(len(b.log))}).Draw(t, "left")
	for i := range rapid.IntRange(0, 2).Draw(t, "conns") {
		p.Conns = append(p.Conns, wire.PresenceConn{
			Conn: fmt.Sprint("c", i), Away: rapid.IntRange(0, 3).Draw(t, "away") == 0,
			Data: json.RawMessage(fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "data"))),
		})
	}
	return p
}

// TestRoomModel feeds a room with what a bucket said, in any order, some of it
// never and some of it again, and with listings of any age. After a listing that
// is up to date it shows what is stored, and its observers were told just that;
// what it takes in between is never older than what it took before.
func TestRoomModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := playRoom(t, (*room).put); err != nil {
			t.Fatal(err)
		}
	})
}

// The model notices a room that takes what is older than what it has, and one
// that takes old listings.
func TestRoomModelNoticesWhoComesBack(t *testing.T) {
	for name, put := range map[string]func(*room, *heardSection){
		"old sections": func(r *room, h *heardSection) {
			for _, o := range slices.DeleteFunc(slices.Clone(r.users[h.User]), func(o *heardSection) bool { return o.Gateway != h.Gateway }) {
				r.count(o, -1)
				o.revision = 0
				r.count(o, 1)
			}
			r.set(h)
		},
		"what a listing said is over": func(r *room, h *heardSection) { r.set(h) },
		"old listings": func(r *room, h *heardSection) {
			r.floor = 0
			r.put(h)
		},
	} {
		play := rapid.Custom(func(t *rapid.T) string {
			if err := playRoom(t, put); err != nil {
				return err.Error()
			}
			return ""
		})
		noticed := ""
		for seed := 0; noticed == "" && seed < 3000; seed++ {
			noticed = play.Example(seed)
		}
		if noticed == "" {
			t.Errorf("a room that takes %s passes", name)
		}
	}
}

func playRoom(t *rapid.T, put func(*room, *heardSection)) error {
	b := &roomBucket{}
	r := newRoom(roomTopic)
	view := watcherView{}
	known := map[string]uint64{} // by key: the newest revision that the room was told of
	tell := func(e kv.Entry) { known[e.Key] = max(known[e.Key], e.Revision) }
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		switch rapid.IntRange(0, 6).Draw(t, "step") {
		case 0, 1:
			b.write(t, drawRoomSection(t, b), rapid.IntRange(0, 4).Draw(t, "deleted") == 0)
		case 2, 3: // something is heard, be it late or again
			if len(b.log) > 0 {
				e := b.log[rapid.IntRange(0, len(b.log)-1).Draw(t, "heard")]
				put(r, sectionOf(t, e))
				tell(e)
			}
		case 4: // a listing of some age
			listed, parts := b.listing(t, uint64(rapid.IntRange(0, len(b.log)).Draw(t, "rev")))
			if r.reconcile(listed, parts) {
				for _, e := range b.log {
					_, user, _ := splitKey(t, e.Key)
					if e.Revision <= upTo(parts, user) {
						tell(e)
					}
				}
			}
		case 5:
			if err := view.take(r.diff()); err != nil {
				return err
			}
		case 6: // what is stored was compared, and is the same
			if _, digest := truth(b.at(t, uint64(len(b.log)))); r.digest == digest {
				r.forget(uint64(len(b.log)))
				for _, e := range b.log {
					tell(e)
				}
			}
		}
		for user, sections := range r.users {
			for _, h := range sections {
				key, err := wire.Namespace("fl").PresenceKey(roomTopic, user, h.Gateway)
				if err != nil {
					return err
				}
				if len(h.Conns) > 0 && h.revision < known[key] {
					return fmt.Errorf("%s is back as of revision %d, and %d was known", key, h.revision, known[key])
				}
			}
		}
	}
	now := uint64(len(b.log))
	listed := b.at(t, now)
	if !r.reconcile(listed, []listing{{"", now}}) {
		return errors.New("a listing that is up to date is not taken")
	}
	if err := view.take(r.diff()); err != nil {
		return err
	}
	want, digest := truth(listed)
	if !maps.Equal(view, want) || !maps.Equal(shownOf(r), want) || r.digest != digest {
		return fmt.Errorf("observers see %v, the room shows %v (%+v), want %v (%+v)", view, shownOf(r), r.digest, want, digest)
	}
	r.forget(now)
	for user, sections := range r.users {
		if !slices.ContainsFunc(sections, func(h *heardSection) bool { return len(h.Conns) > 0 }) {
			return fmt.Errorf("%s is remembered, of whom nothing is there", user)
		}
	}
	return nil
}

// sectionOf is an entry as a room hears it.
func sectionOf(t *rapid.T, e kv.Entry) *heardSection {
	topic, user, gateway := splitKey(t, e.Key)
	h := &heardSection{revision: e.Revision}
	if !e.Deleted {
		if err := json.Unmarshal(e.Value, &h.PresenceSection); err != nil {
			t.Fatal(err)
		}
	}
	h.Topic, h.User, h.Gateway = topic, user, gateway
	return h
}

func splitKey(t *rapid.T, key string) (topic, user, gateway string) {
	tokens := strings.Split(key, ".")
	if len(tokens) != 4 {
		t.Fatalf("key %s", key)
	}
	return roomTopic, tokens[2], tokens[3]
}

// listing is one in two parts, the second as of a revision from rev on.
func (b *roomBucket) listing(t *rapid.T, rev uint64) (listed []wire.PresenceStored, parts []listing) {
	later := uint64(rapid.IntRange(int(rev), len(b.log)).Draw(t, "later"))
	parts = []listing{{"bob", rev}, {"", later}}
	for i, s := range parts {
		for _, p := range b.at(t, s.rev) {
			if (p.User <= "bob") == (i == 0) {
				listed = append(listed, p)
			}
		}
	}
	return listed, parts
}

// An entry is taken only where key and value are of one section of the topic.
func TestRoomTakesItsOwn(t *testing.T) {
	r := newRoom("a.b")
	good := `{"topic":"a.b","user":"x.y","gateway":"g","conns":[{"conn":"c"}]}`
	for _, c := range []struct {
		key, value string
		deleted    bool
		want       bool
	}{
		{"a.b.x=2Ey.g", good, false, true},
		{"a.b.x=2Ey.g", "", true, true},
		{"a.b.x=2Ey.h", good, false, false},
		{"a.b.x.g", good, false, false},
		{"a.b.x=2Ey.g", `{"topic":"a.c","user":"x.y","gateway":"g"}`, false, false},
		{"a.b.x=2Ey.g", `{`, false, false},
		{"a.b", good, false, false},
		{"a.b.=2.g", good, false, false},
	} {
		if got := r.take(kv.Entry{Key: c.key, Value: []byte(c.value), Deleted: c.deleted, Revision: 1}); got != c.want {
			t.Errorf("%s %s: got %v", c.key, c.value, got)
		}
	}
}

// A bucket that was made anew counts from one: what was shown stays until the
// new one is read, and then differs from it as it does.
func TestRoomOfABucketMadeAnew(t *testing.T) {
	r := newRoom("a")
	entry := func(user string, revision uint64) *heardSection {
		return &heardSection{wire.PresenceSection{Topic: "a", User: user, Gateway: "g", Conns: []wire.PresenceConn{{Conn: "c"}}}, revision}
	}
	r.reconcile(nil, []listing{{"", 900}})
	r.put(entry("ann", 1000))
	r.put(entry("bob", 1001))
	r.diff()
	r.restart()
	if len(r.shown) != 2 {
		t.Errorf("%d are shown, want those from before", len(r.shown))
	}
	if !r.reconcile([]wire.PresenceStored{{PresenceSection: entry("bob", 2).PresenceSection, Revision: 2}}, []listing{{"", 2}}) {
		t.Fatal("a listing of the new bucket is too old")
	}
	r.put(entry("cid", 3))
	joins, leaves := r.diff()
	if string(joins) != `"cid":{}` || string(leaves) != `"ann":{}` {
		t.Errorf("joins %s, leaves %s", joins, leaves)
	}
}

// A state that is larger than a frame comes in several of one rev, each of them
// bounded, and the last says that it is.
func TestRoomStateInPages(t *testing.T) {
	r := newRoom("a")
	data, err := json.Marshal(strings.Repeat("x", 900))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		r.put(&heardSection{wire.PresenceSection{Topic: "a", User: fmt.Sprint("u", i), Gateway: "g", Conns: []wire.PresenceConn{{Conn: "c", Data: data}}}, uint64(i + 1)})
	}
	r.diff()
	seen := 0
	frames := r.state(7, 10_000)
	for i, raw := range frames {
		decoded, err := wire.DecodeServer(raw)
		if err != nil {
			t.Fatal(err)
		}
		f := decoded[0]
		if f.Rev != 7 || f.More != (i < len(frames)-1) || len(raw) > 10_100 {
			t.Errorf("frame %d: rev %d, more %v, %d bytes", i, f.Rev, f.More, len(raw))
		}
		seen += len(f.State)
	}
	if seen != 50 || len(frames) != 5 {
		t.Errorf("%d members in %d frames, want 50 in 5", seen, len(frames))
	}
	for cursor, pages := "", 0; ; pages++ {
		var page wire.PresenceList
		if err := json.Unmarshal(r.page(7, cursor, 20, 1<<20), &page); err != nil {
			t.Fatal(err)
		}
		if page.Count != 50 || page.Rev != 7 || len(page.Users) > 20 {
			t.Errorf("page %d: %d of %d, rev %d", pages, len(page.Users), page.Count, page.Rev)
		}
		if cursor = page.Cursor; cursor == "" {
			if pages != 2 {
				t.Errorf("%d pages, want 3", pages+1)
			}
			break
		}
	}
}
