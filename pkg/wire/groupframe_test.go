package wire

import (
	"encoding/json"
	"testing"
)

func TestAppendGroup(t *testing.T) {
	ann := map[string]GroupMember{"c1": {Role: "admin", Data: json.RawMessage(`{"name":"<Ann>"}`)}}
	both := map[string]GroupMember{"c2": {Role: "member"}, "c1": {Role: "admin"}}
	for name, c := range map[string]struct {
		frame GroupFrame
		want  string
	}{
		"joined":          {GroupFrame{Group: "team 7", Joined: ann}, `{"op":"group","group":"team 7","joined":{"c1":{"role":"admin","data":{"name":"<Ann>"}}}}`},
		"two joined":      {GroupFrame{Group: "g", Joined: both}, `{"op":"group","group":"g","joined":{"c1":{"role":"admin"},"c2":{"role":"member"}}}`},
		"joined and left": {GroupFrame{Group: "g", Joined: ann, Left: both}, `{"op":"group","group":"g","joined":{"c1":{"role":"admin","data":{"name":"<Ann>"}}},"left":{"c1":{"role":"admin"},"c2":{"role":"member"}}}`},
		"meta":            {GroupFrame{Group: "g", Meta: []byte(`{"round":2}`), MetaSet: true}, `{"op":"group","group":"g","meta":{"round":2}}`},
		"meta taken away": {GroupFrame{Group: "g", MetaSet: true}, `{"op":"group","group":"g","meta":null}`},
		"closed":          {GroupFrame{Group: "g", Closed: true}, `{"op":"group","group":"g","closed":true}`},
	} {
		got := AppendGroup(nil, &c.frame)
		if string(got) != c.want || !ValidJSON(got) {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
		if c.frame.Empty() {
			t.Errorf("%s: is said to be empty", name)
		}
	}
	if !(&GroupFrame{Group: "g"}).Empty() {
		t.Error("a frame that says nothing is not empty")
	}
}

func TestAppendGroupReplies(t *testing.T) {
	joined := GroupJoined{Count: 2, Member: "c1"}
	members := GroupMembers{Members: map[string]GroupMember{"c1": {Role: "member"}}, Count: 1, Meta: json.RawMessage(`1`)}
	for got, want := range map[string]string{
		string(AppendGroupJoined(nil, &joined)):                                    `{"count":2,"meta":null,"member":"c1"}`,
		string(AppendGroupMembers(nil, &members)):                                  `{"members":{"c1":{"role":"member"}},"count":1,"meta":1}`,
		string(AppendGroupMembers(nil, &GroupMembers{})):                           `{"members":{},"count":0,"meta":null}`,
		string(AppendGroupMeta(nil, &GroupMeta{Meta: json.RawMessage(`{"a":1}`)})): `{"meta":{"a":1}}`,
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
