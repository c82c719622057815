package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Pages of a room that changes, whether observers were told or not, are those of
// its members as they are now, each once and in order.
func TestPagesOfARoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRoom("a")
		now := map[string]string{}
		revision := uint64(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				revision++
				user := fmt.Sprint("u", rapid.IntRange(0, 12).Draw(t, "user"))
				p := wire.PresenceSection{Topic: "a", User: user, Gateway: "g"}
				delete(now, user)
				if rapid.Bool().Draw(t, "there") {
					data := fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "data"))
					p.Conns = []wire.PresenceConn{{Conn: "c", Data: json.RawMessage(data)}}
					now[user] = data
				}
				r.put(&heardSection{p, revision})
			case 2:
				r.diff()
			case 3:
				expectPages(t, r, now, rapid.IntRange(1, 5).Draw(t, "limit"))
			}
		}
		expectPages(t, r, now, 3)
	})
}

func expectPages(t *rapid.T, r *room, want map[string]string, limit int) {
	var got []string
	for cursor := ""; ; {
		var page wire.PresenceList
		if err := json.Unmarshal(r.page(7, cursor, limit, 1<<20), &page); err != nil {
			t.Fatal(err)
		}
		if page.Count != len(want) {
			t.Fatalf("count %d, want %d", page.Count, len(want))
		}
		users := slices.Sorted(maps.Keys(page.Users))
		if page.Cursor != "" && (len(users) != limit || page.Cursor != users[limit-1]) || page.Cursor == "" && len(got)+len(users) < len(want) {
			t.Fatalf("a page of %v with cursor %q", users, page.Cursor)
		}
		for _, user := range users {
			if string(page.Users[user].Data) != want[user] {
				t.Fatalf("%s: got %s, want %s", user, page.Users[user].Data, want[user])
			}
		}
		got = append(got, users...)
		if cursor = page.Cursor; cursor == "" {
			break
		}
	}
	if users := slices.Sorted(maps.Keys(want)); !slices.Equal(got, users) {
		t.Fatalf("got %v, want %v", got, users)
	}
}

// A page costs what is on it, not what is in the room: whoever asks for many of
// a large room keeps nobody waiting.
func TestAPageOfALargeRoomIsCheap(t *testing.T) {
	r := newRoom("a")
	const many = 20_000
	put := func(i int) {
		r.put(&heardSection{wire.PresenceSection{Topic: "a", User: fmt.Sprintf("u%05d", i), Gateway: "g", Conns: []wire.PresenceConn{{Conn: "c"}}}, uint64(i + 1)})
	}
	for i := range many {
		put(i)
	}
	r.diff()
	r.page(1, "", 1, 1<<20)
	users := r.order.users
	put(many)
	for range 3 { // observers are not told yet
		r.page(1, "u10000", 1, 1<<20)
	}
	if &r.order.users[0] != &users[0] || len(r.order.users) != many {
		t.Error("a page sorted the room anew")
	}
	if n := testing.AllocsPerRun(100, func() { r.page(1, "u10000", 1, 1<<20) }); n > 20 {
		t.Errorf("%v allocations for a page of one", n)
	}
	r.diff()
	r.page(1, "", 1, 1<<20)
	if len(r.order.users) != many+1 || len(r.order.moved) != 0 {
		t.Errorf("%d in order, %d moved", len(r.order.users), len(r.order.moved))
	}
}
