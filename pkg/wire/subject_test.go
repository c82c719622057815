package wire

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSubjects(t *testing.T) {
	ns := DefaultNamespace
	type built struct {
		subject string
		err     error
	}
	b := func(subject string, err error) built { return built{subject, err} }
	for _, test := range []struct {
		got  built
		want string
	}{
		{b(ns.Topic("chat.lobby")), "fl.topic.chat.lobby"},
		{b(ns.Topic("chat.>")), "fl.topic.chat.>"},
		{b(ns.Seq("chat.lobby")), "fl.seq.chat.lobby"},
		{b(ns.Call("orders.create")), "fl.call.orders.create"},
		{b(ns.User("ann@example.com")), "fl.user.ann=40example=2Ecom"},
		{b(ns.User("*")), "fl.user.=2A"},
		{b(ns.User(">")), "fl.user.=3E"},
		{b(ns.Conn("c-1")), "fl.conn.c-1"},
		{b(ns.CallCancel("c1.7")), "fl.cancel.c1=2E7"},
		{b(ns.Event("connection.opened", "")), "fl.event.connection.opened"},
		{b(ns.Event("limit.exceeded", "chat.lobby")), "fl.event.limit.exceeded.chat.lobby"},
		{b(ns.Svc("gateway", "top"), nil), "fl.svc.gateway.top"},
		{b(ns.ControlUser("u 42")), "fl.control.user.u=2042"},
		{b(ns.ControlConn("c1")), "fl.control.conn.c1"},
		{b(ns.ControlGateway("gw-1.eu")), "fl.control.gateway.gw-1=2Eeu"},
		{b(ns.Probe("gw-1", "3")), "fl.probe.gw-1.3"},
		{b(ns.Bucket("config"), nil), "fl_config"},
		{b(Namespace("staging").Topic("a")), "staging.topic.a"},
	} {
		if test.got.subject != test.want || test.got.err != nil {
			t.Errorf("got %q, %v, want %q", test.got.subject, test.got.err, test.want)
		}
	}
}

func TestSubjectsRefused(t *testing.T) {
	ns := DefaultNamespace
	long := strings.Repeat("x", MaxSubject)
	for name, build := range map[string]func(string) (string, error){
		"topic": ns.Topic, "seq": ns.Seq, "call": ns.Call, "user": ns.User, "conn": ns.Conn, "cancel": ns.CallCancel,
		"event":       func(s string) (string, error) { return ns.Event(s, "") },
		"controlUser": ns.ControlUser, "controlConn": ns.ControlConn, "controlGateway": ns.ControlGateway,
	} {
		for _, s := range []string{"", long} {
			if got, err := build(s); !errors.Is(err, ErrInvalidArgument) || got != "" {
				t.Errorf("%s of %d bytes: got %d bytes, %v, want %s", name, len(s), len(got), err, InvalidArgument)
			}
		}
		// The longest one that is built has exactly MaxSubject bytes.
		prefix, err := build("x")
		if err != nil {
			t.Fatal(err)
		}
		room := MaxSubject - (len(prefix) - 1)
		if got, err := build(long[:room]); err != nil || len(got) != MaxSubject {
			t.Errorf("%s: got %d bytes, %v, want %d", name, len(got), err, MaxSubject)
		}
		if got, err := build(long[:room+1]); err == nil {
			t.Errorf("%s: built %d bytes", name, len(got))
		}
	}
	// Escaping makes an id longer: it counts as it is sent.
	if got, err := ns.User(strings.Repeat(".", 400)); err == nil {
		t.Errorf("a user's subject of %d bytes was built", len(got))
	}
}

func TestParseTopic(t *testing.T) {
	for _, test := range []struct {
		subject, topic string
		ok             bool
	}{
		{"fl.topic.chat.lobby", "chat.lobby", true},
		{"fl.seq.chat.lobby", "chat.lobby", true},
		{"fl.topic.topic.seq.x", "topic.seq.x", true},
		{"fl.seq.topic.x", "topic.x", true},
		{"fl.topic.fl.topic.x", "fl.topic.x", true},
		{"fl.topic.", "", false}, {"fl.topic", "", false}, {"fl.seq.", "", false}, {"fl.", "", false}, {"fl", "", false}, {"", "", false},
		{"fl.user.u42", "", false}, {"fl.topics.x", "", false}, {"fl.sequel.x", "", false}, {"flx.topic.a", "", false}, {"x.fl.topic.a", "", false},
		{"topic.a", "", false}, {"FL.topic.a", "", false}, {"$JS.fl.topic.a", "", false},
	} {
		topic, ok := DefaultNamespace.ParseTopic(test.subject)
		if ok != test.ok || ok && topic != test.topic {
			t.Errorf("ParseTopic(%q) = %q, %v, want %q, %v", test.subject, topic, ok, test.topic, test.ok)
		}
	}
}

func TestCheckNamespace(t *testing.T) {
	for _, s := range []string{"fl", "a", "my-app_2", strings.Repeat("a", 32)} {
		if err := CheckNamespace(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "Fl", "2a", "_a", "-a", "$a", "a.b", "a b", "a*", "é", "a\n", strings.Repeat("a", 33)} {
		checkRefused(t, CheckNamespace, "namespace", s)
	}
}

// checkTopicSubject holds of every string: it is refused, or its subject lies
// under the prefix, is short enough, names no wildcard and parses back.
func checkTopicSubject(t interface {
	Helper()
	Errorf(string, ...any)
}, topic string) {
	t.Helper()
	if CheckTopic(topic) != nil {
		return
	}
	for prefix, build := range map[string]func(string) (string, error){"fl.topic.": DefaultNamespace.Topic, "fl.seq.": DefaultNamespace.Seq} {
		subject, err := build(topic)
		if err != nil || len(subject) > MaxSubject {
			t.Errorf("topic %q: subject of %d bytes, %v", topic, len(subject), err)
			continue
		}
		if subject != prefix+topic || strings.ContainsAny(subject, " \t\r\n*>\x00") || strings.Contains(subject, "..") || strings.HasSuffix(subject, ".") {
			t.Errorf("topic %q has the subject %q", topic, subject)
		}
		if got, ok := DefaultNamespace.ParseTopic(subject); !ok || got != topic {
			t.Errorf("ParseTopic(%q) = %q, %v, want %q", subject, got, ok, topic)
		}
	}
}

func TestTopicSubjectProperty(t *testing.T) {
	tokens := rapid.OneOf(rapid.SampledFrom([]string{"a", "chat", "room-7", "*", ">", "", "$x", "_x", "topic", "seq", "fl", " ", "é", "e\u0301"}), rapid.StringN(0, 6, -1))
	rapid.Check(t, func(t *rapid.T) {
		checkTopicSubject(t, strings.Join(rapid.SliceOfN(tokens, 1, 5).Draw(t, "tokens"), "."))
		id := rapid.StringN(1, 128, 128).Draw(t, "id")
		user, err := DefaultNamespace.User(id)
		if err != nil || strings.Count(user, ".") != 2 || !strings.HasPrefix(user, "fl.user.") || strings.ContainsAny(user, "*> ") {
			t.Errorf("user %q has the subject %q, %v", id, user, err)
		}
	})
}

func FuzzTopicSubject(f *testing.F) {
	for _, topic := range goodTopics {
		f.Add(topic)
	}
	for _, test := range badTopics {
		f.Add(test.topic)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		checkTopicSubject(t, topic)
		_, _ = DefaultNamespace.ParseTopic(topic) // never panics
	})
}
