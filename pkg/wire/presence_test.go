package wire

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNewestConn(t *testing.T) {
	for _, c := range []struct {
		name  string
		conns []PresenceConn
		left  uint64
		want  int
	}{
		{"nobody", nil, 0, -1},
		{"nobody, and one has left", nil, 9, -1},
		{"one", []PresenceConn{{Conn: "a", Order: 1}}, 0, 0},
		{"the newest", []PresenceConn{{Conn: "a", Order: 1}, {Conn: "b", Order: 3}, {Conn: "c", Order: 2}}, 0, 1},
		{"stored together", []PresenceConn{{Conn: "b", Order: 1}, {Conn: "a", Order: 1}}, 0, 0},
		{"lost, and may return", []PresenceConn{{Conn: "a", Order: 1, Away: true}}, 0, 0},
		{"lost, and a newer one left", []PresenceConn{{Conn: "a", Order: 1, Away: true}}, 2, -1},
		{"lost behind one that left", []PresenceConn{{Conn: "a", Order: 3, Away: true}}, 2, 0},
		{"live, whatever left", []PresenceConn{{Conn: "a", Order: 1}}, 2, 0},
		{"lost beside a live one", []PresenceConn{{Conn: "a", Order: 1}, {Conn: "b", Order: 2, Away: true}}, 3, 1},
	} {
		if got := NewestConn(c.conns, c.left); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

// Whatever order a user's connections are found in, the same one speaks; it is
// there while any is live, and what left never keeps a live one silent.
func TestNewestConnDoesNotDependOnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		conns := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) PresenceConn {
			return PresenceConn{
				Conn: rapid.StringMatching(`[a-d]`).Draw(t, "conn"), Order: rapid.Uint64Range(1, 6).Draw(t, "order"), Away: rapid.Bool().Draw(t, "away"),
			}
		}), 0, 5).Draw(t, "conns")
		slices.SortFunc(conns, func(a, b PresenceConn) int { return strings.Compare(a.Conn, b.Conn) })
		conns = slices.CompactFunc(conns, func(a, b PresenceConn) bool { return a.Conn == b.Conn })
		left := rapid.Uint64Range(0, 7).Draw(t, "left")
		i := NewestConn(conns, left)
		mixed := rapid.Permutation(conns).Draw(t, "mixed")
		j := NewestConn(mixed, left)
		if i < 0 != (j < 0) || i >= 0 && conns[i].Conn != mixed[j].Conn {
			t.Fatalf("%v: %d; %v: %d", conns, i, mixed, j)
		}
		live := slices.ContainsFunc(conns, func(c PresenceConn) bool { return !c.Away })
		if live && i < 0 {
			t.Fatalf("%v, left %d: one is live, and nobody speaks", conns, left)
		}
		if !live && i >= 0 && conns[i].Order <= left {
			t.Fatalf("%v, left %d: %s speaks, and it was lost before that", conns, left, conns[i].Conn)
		}
	})
}

// Two sections never add the same, and what is added and taken away again
// leaves nothing.
func TestSectionHash(t *testing.T) {
	seen := map[uint64][]any{}
	for _, topic := range []string{"", "a", "a.b", "ab"} {
		for _, user := range []string{"a", "b", "ab", "b.a", "ü"} {
			for _, gateway := range []string{"g", "ag", "=worker"} {
				for _, number := range []uint64{0, 1, 2, 256, 1 << 40, 1<<64 - 1} {
					h := SectionHash(topic, user, gateway, number)
					is := []any{topic, user, gateway, number}
					if was, ok := seen[h]; ok {
						t.Errorf("%v and %v have one hash", was, is)
					}
					seen[h] = is
				}
			}
		}
	}
	// Neither do two views of two sections of which both have changed.
	sums := map[uint64][2]uint64{}
	for a := range uint64(100) {
		for b := range uint64(100) {
			sum := SectionHash("a", "ann", "g", a) + SectionHash("a", "bob", "g", b)
			if was, ok := sums[sum]; ok {
				t.Fatalf("the revisions %v and %v have one sum", was, [2]uint64{a, b})
			}
			sums[sum] = [2]uint64{a, b}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var d PresenceDigest
		hashes := rapid.SliceOfN(rapid.Uint64(), 0, 20).Draw(t, "hashes")
		for _, h := range hashes {
			d.Add(h)
		}
		if len(hashes) != d.Count {
			t.Fatalf("got a count of %d, want %d", d.Count, len(hashes))
		}
		for _, h := range rapid.Permutation(hashes).Draw(t, "back") {
			d.Remove(h)
		}
		if d != (PresenceDigest{}) {
			t.Fatalf("%+v is left", d)
		}
	})
}

// A section's key is its own, ends with its user and its gateway, and fits the
// subject that its topic is heard on, and no other topic's.
func TestPresenceKeys(t *testing.T) {
	const ns = Namespace("fl")
	for _, c := range []struct{ topic, user, gateway, want string }{
		{"", "ann", "g", "ann.g"},
		{"a.b", "ann", "g", "a.b.ann.g"},
		{"org:42:items", "ann@x.y", "g", "org=3A42=3Aitems.ann=40x=2Ey.g"},
		{"a", "*", "=worker", "a.=2A.=3Dworker"},
	} {
		if got, err := ns.PresenceKey(c.topic, c.user, c.gateway); err != nil || got != c.want {
			t.Errorf("%q %q %q: got %s, %v, want %s", c.topic, c.user, c.gateway, got, err, c.want)
		}
	}
	if got, err := ns.PresenceTopic("org:42.a"); err != nil || got != "fl.presence.org=3A42.a.*.*" {
		t.Errorf("got %s, %v", got, err)
	}
	long := strings.Repeat("ü", 64) // 128 bytes, three for each in a token
	if _, err := ns.PresenceKey(strings.Repeat("x.", 127)+"x", long, "g"); err != nil {
		t.Errorf("a long topic and user: %v", err)
	}
	if _, err := ns.PresenceKey(strings.Repeat("ü.", 85)+"x", strings.Repeat("ü", 64), strings.Repeat("ü", 64)); err == nil {
		t.Error("a key of more than a subject may have is no error")
	}
	token := rapid.StringMatching(`[ab.*>=ü]{1,3}`)
	rapid.Check(t, func(t *rapid.T) {
		topic := strings.Join(rapid.SliceOfN(rapid.StringMatching(`[a:ü]{1,2}`), 0, 3).Draw(t, "topic"), ".")
		user, gateway := token.Draw(t, "user"), token.Draw(t, "gateway")
		key, err := ns.PresenceKey(topic, user, gateway)
		if err != nil {
			t.Fatal(err)
		}
		tokens := strings.Split(key, ".")
		if want := 2; topic != "" {
			want += strings.Count(topic, ".") + 1
			if len(tokens) != want {
				t.Fatalf("%s has %d tokens, want %d", key, len(tokens), want)
			}
			subject, err := ns.PresenceTopic(topic)
			if err != nil || !strings.HasPrefix("fl.presence."+key, strings.TrimSuffix(subject, "*.*")) {
				t.Fatalf("%s is not heard on %s (%v)", key, subject, err)
			}
		}
		u, err1 := UnescapeToken(tokens[len(tokens)-2])
		g, err2 := UnescapeToken(tokens[len(tokens)-1])
		if err1 != nil || err2 != nil || u != user || g != gateway {
			t.Fatalf("%s: got %q %q, want %q %q", key, u, g, user, gateway)
		}
	})
}
