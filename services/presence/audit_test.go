package presence

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The parts of an audit are all that a gateway has, each section in one of them.
func TestAuditParts(t *testing.T) {
	r := startSeats(t, 1)
	defer r.end()
	const many = 100
	listed := map[string]bool{}
	for i := range many {
		if err := r.put(0, "open.a", fmt.Sprint("u", i), "g", 5, "c"); err != nil {
			t.Fatal(err)
		}
	}
	audit := func(part, parts int, sections ...wire.PresenceSection) (wire.PresenceAudited, error) {
		return r.replicas[0].Audit(context.Background(), wire.PresenceAudit{Gateway: "g", Part: part, Parts: parts, Sections: sections})
	}
	for part := range 8 {
		found, err := audit(part, 8)
		if err != nil || len(found.Missing) > 0 {
			t.Fatalf("part %d: %v, missing %v", part, err, found.Missing)
		}
		for _, ghost := range found.Ghosts {
			if wire.SectionHash(ghost.Topic, ghost.User, "", 0)%8 != uint64(part) || listed[ghost.User] {
				t.Errorf("%s in part %d", ghost.User, part)
			}
			listed[ghost.User] = true
		}
	}
	if len(listed) != many {
		t.Errorf("%d sections in all parts, want %d", len(listed), many)
	}
	found, err := audit(0, 1, wire.PresenceSection{Topic: "open.a", User: "u3", Epoch: 5, Version: 4}, wire.PresenceSection{Topic: "open.a", User: "nobody"})
	if err != nil || len(found.Ghosts) != many-1 || len(found.Missing) != 1 || found.Missing[0].User != "nobody" {
		t.Errorf("got %d ghosts, missing %v, %v", len(found.Ghosts), found.Missing, err)
	}
	for _, parts := range []int{0, 3, 2 * hashRanges} {
		if _, err := audit(0, parts); wire.CodeOf(err) != wire.InvalidArgument {
			t.Errorf("%d parts: %v", parts, err)
		}
	}
}

// An answer names a bounded number of sections, however many are wrong.
func TestAuditIsBounded(t *testing.T) {
	r := startSeats(t, 1)
	defer r.end()
	s := r.replicas[0]
	missing := make([]wire.PresenceSection, maxFindings)
	for i := range 3 * maxFindings / 2 {
		s.topics.view.apply(sectionEntry(t, uint64(i+1), wire.PresenceSection{Topic: "open.a", User: fmt.Sprint("u", i), Gateway: "g", Conns: conns("c")}))
	}
	for i := range missing {
		missing[i] = wire.PresenceSection{Topic: "open.a", User: fmt.Sprint("x", i)}
	}
	for _, c := range []struct{ missing, ghosts int }{{0, maxFindings}, {maxFindings / 2, maxFindings / 2}, {maxFindings, 0}} {
		found, err := s.Audit(context.Background(), wire.PresenceAudit{Gateway: "g", Parts: 1, Sections: missing[:c.missing]})
		if err != nil || len(found.Ghosts) != c.ghosts || len(found.Missing) != c.missing {
			t.Errorf("%d missing: %d ghosts, %d missing, %v", c.missing, len(found.Ghosts), len(found.Missing), err)
		}
	}
}

// largeSection says 4 KiB of each of some connections, all of it such as HTML escapes.
func largeSection(topic, user string, conns int) wire.PresenceSection {
	p := wire.PresenceSection{Topic: topic, User: user, Gateway: "g", Epoch: 5, Version: 1}
	for i := range conns {
		p.Conns = append(p.Conns, wire.PresenceConn{Conn: fmt.Sprint("c", i), Data: json.RawMessage(`"` + strings.Repeat("<", 4094) + `"`)})
	}
	return p
}

// What users say of themselves is stored as it is, and is bounded.
func TestLargeSections(t *testing.T) {
	r := startSeats(t, 1)
	defer r.end()
	for _, topic := range []string{"open.a", "two.a", ""} {
		req := wire.PresencePut{PresenceSection: largeSection(topic, "<"+strings.Repeat("&", 100)+">", 60)}
		if _, err := r.replicas[0].Put(context.Background(), req); err != nil {
			t.Fatalf("%q: %v", topic, err)
		}
		req = wire.PresencePut{PresenceSection: largeSection(topic, "bob", 64)}
		if _, err := r.replicas[0].Put(context.Background(), req); wire.CodeOf(err) != wire.ResourceExhausted || fmt.Sprint(wire.AsError(err).Details["limit"]) != fmt.Sprint(maxSectionBytes) {
			t.Errorf("%q: too much: %v", topic, err)
		}
	}
	for name, store := range r.stores {
		for _, e := range store.Entries() {
			if most := maxSectionBytes; len(e.Value) > most || strings.Contains(string(e.Value), `\u003c`) {
				t.Errorf("%s %s: %d bytes, want at most %d as they were given", name, e.Key, len(e.Value), most)
			}
		}
	}
}

// A page of sections ends before the user who would make it too large, and has
// one at least.
func TestPagesOfLargeSections(t *testing.T) {
	r := startSeats(t, 1)
	defer r.end()
	want := []string{"ann", "bob", "cid dan"}
	for user, conns := range map[string]int{"ann": 62, "bob": 62, "cid": 2, "dan": 3} {
		if _, err := r.replicas[0].Put(context.Background(), wire.PresencePut{PresenceSection: largeSection("open.a", user, conns)}); err != nil {
			t.Fatal(err)
		}
	}
	req := wire.PresenceListRequest{Topic: "open.a"}
	for i := 0; ; i++ {
		page, err := r.replicas[0].Sections(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		var users []string
		for _, p := range page.Sections {
			users = append(users, p.User)
		}
		if i >= len(want) || strings.Join(users, " ") != want[i] {
			t.Fatalf("page %d: %v, want of %v", i, users, want)
		}
		if req.Cursor = page.Cursor; req.Cursor == "" {
			break
		}
	}
}

// A write that can never be stored is refused for good.
func TestTooLargeIsFinal(t *testing.T) {
	err := wire.AsError(unavailable(fmt.Errorf("write: %w", &kv.TooLargeError{Limit: 7})))
	if err.Code != wire.ResourceExhausted || fmt.Sprint(err.Details["limit"]) != "7" || err.Details["outcome"] != "none" {
		t.Errorf("got %v with %v", err, err.Details)
	}
}
