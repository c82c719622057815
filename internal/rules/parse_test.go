package rules

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Each bad file says every problem at once, with place and remedy.
func TestParseSaysEveryProblem(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(src, Run)
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want Problems", err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".want", []byte(problems.Error()+"\n"))
		})
	}
}

func TestParseBounds(t *testing.T) {
	long := func(n int, one string) string { return "topics:\n" + strings.Repeat(one, n) }
	tests := []struct{ name, src, want string }{
		{"too long", strings.Repeat("#", MaxSource+1), "the file has 1048577 bytes; at most 1048576"},
		{"not UTF-8", "topics: \xff", "the file is not UTF-8"},
		{"too many rules", long(1001, "  - {match: a}\n"), "topics: at most 1000 entries; got 1001"},
		{"too many problems", long(1000, "  - {match: a..b}\n"), "topics[99].match:"},
		{"too many tokens", "topics: [" + strings.Repeat("a,", 200_000) + "]", "more than 250000 words and signs"},
		{"alias bomb", "tests: [{as: {claims: {subscribe: &a [" + strings.Repeat("x,", 500) + "]}}, call: x, expect: deny},\n" +
			strings.Repeat("{as: {claims: {subscribe: *a }}, call: x, expect: deny},\n", 900) + "]", "stand for more than 200000 values"},
	}
	var merges strings.Builder
	merges.WriteString("limits: {a: &a {capacity: 1, refill: 1, per: 1s, block: 1s, key: user, failMode: open, shadow: true}, b: {<<: [")
	merges.WriteString(strings.Repeat("*a ,", 40_000))
	merges.WriteString("]}}")
	tests = append(tests, struct{ name, src, want string }{"merge bomb", merges.String(), "stand for more than 200000 values"})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.src), Run)
			var problems Problems
			if !errors.As(err, &problems) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %.300v, want %q", err, tt.want)
			}
			if len(problems) > maxProblems {
				t.Errorf("got %d problems, want at most %d", len(problems), maxProblems)
			}
		})
	}
}

func TestParseExample(t *testing.T) {
	src, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := mustParse(t, string(src))
	if failed := s.RunTests(); len(failed) > 0 {
		t.Errorf("its own tests:\n%v", failed)
	}
	want := &Set{
		Topics: []*Topic{
			{
				Name: "chat", Match: "chat.>", Line: 2, Subscribe: User, Publish: User, History: User, From: true,
				Replay:      &Replay{Size: 1000, TTL: 24 * time.Hour, Dedupe: 2 * time.Minute, DedupeKeys: 1_000_000, MaxMessageBytes: 65536, MaxBytes: 1 << 30, Replicas: 1},
				Presence:    &Presence{Watch: User, Join: User, LeaveDelay: 15 * time.Second, MaxDiffMembers: 500},
				Cursors:     &Cursors{Throttle: 16 * time.Millisecond, TTL: 30 * time.Second},
				PublishRate: Take{"messages", 1}, Class: "normal", Slow: Disconnect,
			},
			{
				Name: "team", Match: "team.{attr.team}.{user}.>", Line: 15, Subscribe: Token, Publish: None, History: Callout, Wildcards: true,
				PublishRate: Take{"messages", 3}, Class: "normal", Slow: Conflate,
			},
			{Name: "all", Match: ">", Line: 23, Subscribe: User, Publish: User, History: User, Class: "normal"},
		},
		Limits: []*Limit{
			{Name: "by-address", Capacity: 5, Refill: 1, Per: time.Minute, Block: 10 * time.Minute, Key: KeyAddress, FailMode: FailLocal, Shadow: true},
			{Name: "messages", Capacity: 20, Refill: 10, Per: time.Second},
		},
		Classes: []Class{
			{Name: "background", Shed: []Pressure{Memory, PublishRate, Subscribers}, TopPublisher: 5000},
			{Name: "critical", Shed: []Pressure{Memory}},
			{Name: "idle", Shed: []Pressure{}},
			{Name: "loud", Shed: []Pressure{}, TopPublisher: 1},
			{Name: "normal", Shed: []Pressure{Memory, PublishRate}},
		},
		Bridges: []Bridge{{"table_changes", []string{"db.>", "chat.lobby"}}},
		Calls: []*Call{
			{Match: "orders.*", Line: 32, Allow: User, Timeout: 5 * time.Second, Rate: Take{"messages", 1}},
			{Match: "me.{user}.*", Line: 33, Allow: User, Timeout: 5 * time.Second, Rate: Take{"by-address", 2}},
		},
		Groups: []*Group{
			{Match: "lobby", Line: 35, Join: User, MaxMembers: 50, Roles: []string{"member", "admin", "viewer"}, Meta: []string{"admin"}},
			{Match: "team.*", Line: 36, Join: Token, Roles: []string{"member"}},
		},
	}
	opts := cmp.Options{cmpopts.IgnoreUnexported(Set{}, Topic{}, Call{}), cmpopts.IgnoreFields(Set{}, "Tests", "Warnings")}
	if diff := cmp.Diff(want, s, opts); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Left-out rights follow the mode, and `{}` takes every default of a section.
func TestParseDefaults(t *testing.T) {
	const src = "topics: [{match: a, replay: {}, presence: {}, cursors: {}}]\ncalls: [{match: a}]\ngroups: [{match: a}]\n"
	for mode, access := range map[Mode]Access{Run: User, Dev: Any} {
		s, err := Parse([]byte(src), mode)
		if err != nil {
			t.Fatal(err)
		}
		a := s.Topic("a")
		for _, got := range []Access{a.Subscribe, a.Publish, a.History, a.Presence.Watch, a.Presence.Join, s.Call("a").Allow, s.Group("a").Join} {
			if got != access {
				t.Errorf("%v: got %v, want %v", mode, got, access)
			}
		}
		want := Replay{Size: 1000, TTL: 24 * time.Hour, Dedupe: 2 * time.Minute, DedupeKeys: 1_000_000, MaxMessageBytes: 65536, MaxBytes: 1 << 30}
		if *a.Replay != want {
			t.Errorf("replay: got %+v, want %+v", *a.Replay, want)
		}
	}
	s := mustParse(t, "topics: [{match: a, subscribe: any, presence: {enabled: false, watch: any}, cursors: {enabled: false}}]")
	if a := s.Topic("a"); a.History != Any || a.Presence != nil || a.Cursors != nil || a.Replay != nil {
		t.Errorf("got %+v, want history as subscribe, and nothing that is off", a)
	}
}

func TestParseAnchors(t *testing.T) {
	s := mustParse(t, `
topics:
  - &open {match: a, from: true, replay: &keep {size: 5}}
  - {<<: *open, match: b, name: second, slow: conflate}
  - <<: [*open]
    match: c
    from: false
    replay: *keep
`)
	b, c := s.Topic("b"), s.Topic("c")
	if !b.From || b.Slow != Conflate || b.Replay.Size != 5 {
		t.Errorf("b: got %+v", b)
	}
	if c.From || c.Replay.Size != 5 {
		t.Errorf("c: its own keys win: got %+v", c)
	}
}

func TestNames(t *testing.T) {
	tests := []struct {
		src  string
		want string // names in order
	}{
		{"[{match: log.>}, {match: log}, {match: log.x}]", "log log-2 log_x"},
		{"[{match: log}, {match: log.>, replay: {}}]", "log-2 log"}, // a stream's name does not depend on other rules
		{"[{match: '>'}, {match: '*'}, {match: '{user}.x'}, {match: 'org.{attr.Org}.*.>'}]", "all any user_x org_attr_org_any"},
		{"[{match: Übung.x:y}, {match: " + strings.Repeat("a", 200) + "}]", "__bung_x_y " + strings.Repeat("a", 64)},
		{"[{match: a, name: A-1}, {match: a}]", "A-1 a"},
	}
	for _, tt := range tests {
		s := mustParse(t, "topics: "+tt.src)
		var got []string
		for _, topic := range s.Topics {
			got = append(got, topic.Name)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%.80s: got %q, want %q", tt.src, got, tt.want)
		}
	}
	s := mustParse(t, "topics: [{match: log.>, replay: {}}]")
	if got := s.Topics[0].Stream("fl"); got != "FL_LOG" {
		t.Errorf("got %s, want FL_LOG", got)
	}
}

func TestWarnings(t *testing.T) {
	s := mustParse(t, "topics:\n  - match: '>'\n  - match: chat.>\n")
	if got, want := s.Warnings.Error(), `3:5: topics[1]: governs nothing: topics[0], ">", comes first and covers it`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s = mustParse(t, "topics:\n  - match: chat.private.>\n  - {match: chat.>, replay: {}}\n")
	if got := s.Warnings.Error(); !strings.Contains(got, "topics[1]: its stream also keeps the topics of topics[0]") {
		t.Errorf("got %q", got)
	}
	for _, mode := range []Mode{Run, Dev} {
		if w := Builtin(mode).Warnings; len(w) > 0 {
			t.Errorf("built-in %v: %v", mode, w)
		}
	}
}

// The canonical form is a rules file of its own that means the same in every
// mode, and does not depend on how the first was laid out.
func TestCanonical(t *testing.T) {
	example, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range [][]byte{example, BuiltinSource(Run), BuiltinSource(Dev), []byte("{}")} {
		s := mustParse(t, string(src))
		for _, mode := range []Mode{Run, Dev} {
			again, err := Parse(s.Canonical(), mode)
			if err != nil {
				t.Fatalf("%v\n%s", err, s.Canonical())
			}
			if !bytes.Equal(again.Canonical(), s.Canonical()) || again.Digest() != s.Digest() {
				t.Errorf("%v: got\n%s\nwant\n%s", mode, again.Canonical(), s.Canonical())
			}
		}
		stored, err := Parse(s.Stored("test", time.Now()), Run)
		if err != nil || stored.Digest() != s.Digest() {
			t.Errorf("stored: got %v, %v", stored, err)
		}
	}
	a := mustParse(t, "topics: [{match: a, replay: {ttl: 60m, maxBytes: 1024MiB}}]\nlimits: {b: {capacity: 1, refill: 1}, a: {capacity: 1, refill: 1}}")
	b := mustParse(t, "limits:\n  a: {refill: 1, capacity: 1}\n  b: {refill: 1, capacity: 1}\ntopics:\n# note\n- replay: {ttl: 1h}\n  match: a\n")
	if a.Digest() != b.Digest() {
		t.Errorf("layout changes the digest:\n%s\n%s", a.Canonical(), b.Canonical())
	}
	if c := mustParse(t, "topics: [{match: a, replay: {ttl: 61m}}]"); c.Digest() == a.Digest() {
		t.Error("another ttl has the same digest")
	}
}

// What a newer release may have put into the bucket does not stop this one.
func TestParseStoredIgnoresUnknownKeys(t *testing.T) {
	const src = `{"topics":[{"match":"a","shiny":{"x":1},"replay":{"size":7,"colour":"red"}}],"extras":[1]}`
	s, err := ParseStored([]byte(src), Run)
	if err != nil || s.Topic("a").Replay.Size != 7 {
		t.Errorf("got %v, %v", s, err)
	}
	if _, err := Parse([]byte(src), Run); err == nil {
		t.Error("a file with unknown keys was accepted")
	}
	if _, err := ParseStored([]byte(`{"topics":[{"match":"a","slow":"never"}]}`), Run); err == nil {
		t.Error("an unknown value was accepted")
	}
}

// Every key of the tables is read: a value of the wrong type is a problem at
// that very key.
func TestEveryKeyIsRead(t *testing.T) {
	for path, f := range allFields(file, nil) {
		if f.kind == kindAny {
			continue
		}
		src, at := documentWith(strings.Split(path, "/"), "{wrong: {wrong: wrong}}")
		if _, err := Parse([]byte(src), Run); err == nil || !strings.Contains(err.Error(), at) {
			t.Errorf("%s = %s: got %v, want a problem at %s", path, src, err, at)
		}
	}
}

// allFields returns every field by its path of names.
func allFields(o *object, at []string) map[string]field {
	all := make(map[string]field)
	for _, f := range o.fields {
		path := append(append([]string(nil), at...), f.name)
		key := f.name
		if f.list {
			key += "[]"
		}
		if f.keyed {
			key += "{}"
		}
		path[len(path)-1] = key
		all[strings.Join(path, "/")] = f
		if f.of != nil {
			for k, v := range allFields(f.of, path) {
				all[k] = v
			}
		}
	}
	return all
}

// documentWith returns a document with value at a path of allFields, and how
// problems name the place.
func documentWith(path []string, value string) (src, at string) {
	src, at = value, ""
	for i := len(path) - 1; i >= 0; i-- {
		name, list := strings.CutSuffix(strings.TrimSuffix(path[i], "{}"), "[]")
		keyed := strings.HasSuffix(path[i], "{}")
		segment := name
		if i < len(path)-1 { // the last one's value is wrong as a whole
			if list {
				src = "[" + src + "]"
				segment += "[0]"
			}
			if keyed {
				src = "{k: " + src + "}"
				segment += ".k"
			}
		} else if keyed {
			segment += ".wrong" // a mapping by name is right, what it holds is not
		}
		src = "{" + name + ": " + src + "}"
		if at != "" {
			at = "." + at
		}
		at = segment + at
	}
	return src, at
}
