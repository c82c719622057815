package presence

import (
	"encoding/json"
	"testing"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Whatever a bucket holds, a view of it stands, its figures agree with what it
// has, and a deletion takes out what was put in.
func FuzzView(f *testing.F) {
	f.Add("room.a.ann.g1", []byte(`{"topic":"room.a","user":"ann","gateway":"g1","epoch":1,"version":2,"conns":[{"conn":"c1"}]}`), "room.a.ann.g2", []byte(`{}`))
	f.Add("_seats.room.a", []byte(`{"users":{"ann":{"g":1}}}`), "ann.g", []byte(`{"user":"ann","gateway":"g","conns":[{"conn":"c","away":true}],"left":18446744073709551615}`))
	f.Add("..", []byte("null"), "=XX.=", []byte(`[]`))
	f.Add("a.b.c", []byte(`{"topic":"a","user":"b","gateway":"c","conns":[{"order":9,"conn":"x"},{"order":9,"conn":"x"}]}`), "a.b.c", []byte(`{"topic":"a","user":"b","gateway":"c"}`))
	f.Fuzz(func(t *testing.T, key1 string, value1 []byte, key2 string, value2 []byte) {
		v := newView()
		v.apply(kv.Entry{Key: key1, Value: value1, Revision: 1})
		v.apply(kv.Entry{Key: key2, Value: value2, Revision: 2})
		members := 0
		for topic, r := range v.topics {
			users, _ := r.page("", maxLimit, present)
			if len(users) != r.members {
				t.Fatalf("%q lists %d members and counts %d", topic, len(users), r.members)
			}
			members += r.members
			for user, sections := range r.users {
				for _, s := range sections {
					key, err := wire.DefaultNamespace.PresenceKey(topic, user, s.Gateway)
					if err == nil && key != key1 && key != key2 {
						t.Fatalf("%q stands under neither %q nor %q", key, key1, key2)
					}
					if _, err := json.Marshal(s.PresenceSection); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if members != v.members {
			t.Fatalf("%d members in all, counted %d", members, v.members)
		}
		v.apply(kv.Entry{Key: key1, Revision: 3, Deleted: true})
		v.apply(kv.Entry{Key: key2, Revision: 4, Deleted: true})
		if len(v.topics) != 0 || len(v.gateways) != 0 || v.members != 0 {
			t.Fatalf("after all was deleted there are %d topics, %d gateways, %d members", len(v.topics), len(v.gateways), v.members)
		}
	})
}
