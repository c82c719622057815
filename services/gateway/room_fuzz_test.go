package gateway

import (
	"testing"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Whatever is heard of a room, what it shows are valid frames, and nobody is
// there any more when all sections are gone.
func FuzzRoom(f *testing.F) {
	f.Add("room.a.ann.g1", []byte(`{"topic":"room.a","user":"ann","gateway":"g1","conns":[{"conn":"c1","data":{"x":1},"info":null}]}`), uint64(1))
	f.Add("room.a.=C3=A4.g", []byte(`{"topic":"room.a","user":"ä","gateway":"g","conns":[{"conn":"c1","away":true}],"left":7}`), uint64(1<<63))
	f.Add("x", []byte("{"), uint64(0))
	f.Add("room.a.ann.g1", []byte("{\"topic\":\"room.a\",\"user\":\"ann\",\"gateway\":\"g1\",\"conns\":[{\"conn\":\"c1\",\"data\":\"\xff\"}]}"), uint64(1))
	f.Fuzz(func(t *testing.T, key string, value []byte, revision uint64) {
		r := newRoom("room.a")
		taken := r.take(kv.Entry{Key: key, Value: value, Revision: revision})
		joins, leaves := r.diff()
		if len(leaves) > 0 || !taken && len(joins) > 0 {
			t.Fatalf("joins %s leaves %s", joins, leaves)
		}
		for _, frame := range append(r.state(1, 1<<20), r.sample(2, 3), wire.AppendPresenceDiff(nil, "room.a", 3, joins, nil)) {
			if !wire.ValidJSON(frame) {
				t.Fatalf("no JSON: %s", frame)
			}
		}
		if !wire.ValidJSON(r.page(1, "", 10, 1<<20)) {
			t.Fatal("the page is no JSON")
		}
		if taken && revision < 1<<64-1 {
			r.take(kv.Entry{Key: key, Revision: revision + 1, Deleted: true})
			if r.diff(); len(r.shown) != 0 {
				t.Fatalf("%d are shown when all are gone", len(r.shown))
			}
		}
	})
}
