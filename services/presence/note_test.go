package presence

import (
	"testing"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// What a replica wrote is in its view at once, and is not brought back where the
// view has learned meanwhile that it is gone.
func TestNoteDoesNotBringBackWhatIsGone(t *testing.T) {
	entry := kv.Entry{Key: "now.a.ann.gw", Value: []byte(`{"topic":"now.a","user":"ann","gateway":"gw","epoch":1,"version":1,"conns":[{"conn":"c"}]}`), Revision: 10}
	v := newView()
	s := newSections(nil)
	s.view, s.building = v, v
	s.note(entry)
	if v.section("now.a", "ann", "gw") == nil {
		t.Fatal("what was written is not there")
	}

	v = newView()
	s.view, s.building = v, v
	for _, e := range []kv.Entry{entry, {Key: entry.Key, Revision: 11, Deleted: true}} { // the bucket is faster than the answer
		v.apply(e)
		v.rev = e.Revision
	}
	s.note(entry)
	if got := v.section("now.a", "ann", "gw"); got != nil {
		t.Errorf("the view has %+v, which was deleted", got)
	}
}
