package compose

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

// roster is what the observer of one topic was shown, over all its connections:
// who is there, and who seemed to come and go.
type roster struct {
	topic string
	truth []string // who is there all the time

	mu    sync.Mutex
	now   map[string]bool // nil before the first state
	live  bool            // the connection that now is of has not ended
	gone  []string        // in order
	wrong []string
}

func newRoster(topic string, truth ...string) *roster { return &roster{topic: topic, truth: truth} }

// show notes who is there, after each frame.
func (r *roster) show(users []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := map[string]bool{}
	for _, user := range users {
		now[user] = true
	}
	for user := range r.now {
		if !now[user] {
			r.gone = append(r.gone, user)
		}
	}
	r.now, r.live = now, true
}

// blind notes that the observer's connection has ended: who is there is
// not known until another one says so.
func (r *roster) blind() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live = false
}

// contradict notes that frames contradicted one another.
func (r *roster) contradict(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, fmt.Sprintf("%s: %v", r.topic, err))
}

// differs says how what is shown is other than the truth; "" if it is not.
func (r *roster) differs() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.live {
		return r.topic + ": nobody looks"
	}
	var said []string
	for _, user := range r.truth {
		if !r.now[user] {
			said = append(said, user+" is missing")
		}
	}
	for user := range maps.Keys(r.now) {
		if !slices.Contains(r.truth, user) {
			said = append(said, user+" is a ghost")
		}
	}
	slices.Sort(said)
	if len(said) == 0 {
		return ""
	}
	return r.topic + ": " + strings.Join(said, ", ")
}

// left returns who seemed to go since the last time, though nobody did.
func (r *roster) left() (gone []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone, r.gone = r.gone, nil
	return gone
}

// problems returns what is wrong whatever happened.
func (r *roster) problems() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.wrong)
}

func TestTheCheckerOfPresence(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		shown   [][]string // nil: the connection ends
		left    string
		differs string
	}{
		{"as it is", [][]string{{"ann"}, {"ann", "bob"}}, "", ""},
		{"as it is on a new connection", [][]string{{"ann", "bob"}, nil, {"ann", "bob"}}, "", ""},
		{"one is missing", [][]string{{"ann"}}, "", "room: bob is missing"},
		{"one went and is back", [][]string{{"ann", "bob"}, {"ann"}, {"ann", "bob"}}, "bob", ""},
		{"a new connection lacks one", [][]string{{"ann", "bob"}, nil, {"bob"}, {"ann", "bob"}}, "ann", ""},
		{"a ghost", [][]string{{"ann", "bob", "eve"}}, "", "room: eve is a ghost"},
		{"nobody looks", [][]string{{"ann", "bob"}, nil}, "", "room: nobody looks"},
		{"nothing was shown", nil, "", "room: nobody looks"},
	} {
		r := newRoster("room", "ann", "bob")
		for _, users := range c.shown {
			if users == nil {
				r.blind()
			} else {
				r.show(users)
			}
		}
		if got := r.differs(); got != c.differs {
			t.Errorf("%s: got %q, want %q", c.name, got, c.differs)
		}
		if got := strings.Join(r.left(), " "); got != c.left {
			t.Errorf("%s: left: got %q, want %q", c.name, got, c.left)
		}
		if got := r.left(); len(got) > 0 || len(r.problems()) > 0 {
			t.Errorf("%s: told twice: %v, and %v", c.name, got, r.problems())
		}
	}
	r := newRoster("room")
	r.contradict(fmt.Errorf("a diff of rev 1 after rev 2"))
	if got, want := strings.Join(r.problems(), "; "), "room: a diff of rev 1 after rev 2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
