package wire

import (
	"encoding/json"
	"testing"
)

// goldenPresence are the frames of presence and the answers to its op.
func goldenPresence() []goldenServerFrame {
	const topic = "chat.lobby"
	info, data := []byte(`{"name":"Ann"}`), []byte(`{"status":"busy"}`)
	ann := AppendMemberEntry(nil, "ann", info, data)
	all := AppendMemberEntry(ann, "bob", nil, nil)
	wantAnn := PresenceMember{Info: info, Data: data}
	wantAll := map[string]PresenceMember{"ann": wantAnn, "bob": {}}
	bob := AppendMemberEntry(nil, "bob", nil, nil)
	wantBob := map[string]PresenceMember{"bob": {}}
	odd := AppendMemberEntry(nil, `c"ä`, []byte(`"<&>"`), []byte(`{"n" : 1.0}`))
	odd = AppendMemberEntry(odd, "d", nil, []byte(`null`))
	wantOdd := map[string]PresenceMember{`c"ä`: {Info: []byte(`"<&>"`), Data: []byte(`{"n" : 1.0}`)}, "d": {Data: []byte(`null`)}}
	one := map[string]PresenceMember{"ann": wantAnn}
	many := 70000

	presence := func(name string, frame []byte, f ServerFrame) goldenServerFrame {
		f.Kind, f.Op, f.Topic = KindControl, "presence", topic
		return goldenServerFrame{"server-presence-" + name, frame, f}
	}
	list := func(name, ok string) goldenServerFrame {
		return goldenServerFrame{"server-reply-presence" + name, AppendOK(nil, 9, []byte(ok)), ServerFrame{Kind: KindReply, ID: 9, OK: json.RawMessage(ok)}}
	}
	return []goldenServerFrame{
		presence("state", AppendPresenceState(nil, topic, 9, all, false), ServerFrame{Rev: 9, State: wantAll}),
		presence("state-verbatim", AppendPresenceState(nil, topic, 9, odd, false), ServerFrame{Rev: 9, State: wantOdd}),
		presence("state-more", AppendPresenceState(nil, topic, 9, ann, true), ServerFrame{Rev: 9, State: one, More: true}),
		presence("state-empty", AppendPresenceState(nil, topic, 1, nil, false), ServerFrame{Rev: 1, State: map[string]PresenceMember{}}),
		presence("joins", AppendPresenceDiff(nil, topic, 10, ann, nil), ServerFrame{Rev: 10, Joins: one}),
		presence("leaves", AppendPresenceDiff(nil, topic, 11, nil, bob), ServerFrame{Rev: 11, Leaves: wantBob}),
		presence("joins-leaves", AppendPresenceDiff(nil, topic, 12, ann, bob), ServerFrame{Rev: 12, Joins: one, Leaves: wantBob}),
		presence("count", AppendPresenceCount(nil, topic, 13, many, ann), ServerFrame{Rev: 13, Count: &many, Sample: one}),
		list("", string(AppendPresenceList(nil, all, 2, 9, ""))),
		list("-cursor", string(AppendPresenceList(nil, ann, many, 9, "YW5u"))),
	}
}

func TestAppendMember(t *testing.T) {
	for _, test := range []struct{ info, data, want string }{
		{"", "", `{}`},
		{`{"a":1}`, "", `{"info":{"a":1}}`},
		{"", `[ 1 ]`, `{"data":[ 1 ]}`},
		{"null", "0", `{"info":null,"data":0}`},
	} {
		if got := string(AppendMember([]byte("x"), []byte(test.info), []byte(test.data))); got != "x"+test.want {
			t.Errorf("AppendMember(x, %q, %q) = %s, want x%s", test.info, test.data, got, test.want)
		}
	}
}

func TestAppendPresenceKeepsWhatIsThere(t *testing.T) {
	for name, frame := range map[string][]byte{
		"state": AppendPresenceState([]byte("x"), "a", 1, nil, false),
		"diff":  AppendPresenceDiff([]byte("x"), "a", 1, nil, nil),
		"count": AppendPresenceCount([]byte("x"), "a", 1, 0, nil),
		"list":  AppendPresenceList([]byte("x"), nil, 0, 1, ""),
	} {
		if frame[0] != 'x' || !ValidJSON(frame[1:]) {
			t.Errorf("%s: got %s, want x and an object", name, frame)
		}
	}
}

// A frame of many members is built without allocations beyond the buffer.
func TestAppendPresenceAllocatesNothing(t *testing.T) {
	members, frame := make([]byte, 0, 256), make([]byte, 0, 512)
	data := []byte(`{"mood":"fine"}`)
	if got := testing.AllocsPerRun(100, func() {
		members = AppendMemberEntry(members[:0], "ann", nil, data)
		members = AppendMemberEntry(members, "bob", data, data)
		frame = AppendPresenceDiff(frame[:0], "chat.lobby", 9, members, members)
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}
