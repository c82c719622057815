package wire

import "encoding/json"

// goldenGroups are the frames of groups and the answers to their ops.
func goldenGroups() []goldenServerFrame {
	ann := GroupMember{Role: "admin", Data: json.RawMessage(`{"name":"Ann"}`)}
	bob := GroupMember{Role: "member"}
	group := func(name string, sent GroupFrame, want ServerFrame) goldenServerFrame {
		sent.Group = "team 7"
		want.Kind, want.Op, want.Group = KindControl, "group", "team 7"
		return goldenServerFrame{"server-group-" + name, AppendGroup(nil, &sent), want}
	}
	reply := func(name, ok string) goldenServerFrame {
		return goldenServerFrame{"server-reply-group-" + name, AppendOK(nil, 14, []byte(ok)), ServerFrame{Kind: KindReply, ID: 14, OK: json.RawMessage(ok)}}
	}
	joined, left := map[string]GroupMember{"c9": bob}, map[string]GroupMember{"c1": ann}
	meta := json.RawMessage(`{"round":2}`)
	return []goldenServerFrame{
		group("joined", GroupFrame{Joined: joined}, ServerFrame{Joined: joined}),
		group("left", GroupFrame{Left: left}, ServerFrame{Left: left}),
		group("joined-left", GroupFrame{Joined: joined, Left: left}, ServerFrame{Joined: joined, Left: left}),
		group("meta", GroupFrame{Meta: meta, MetaSet: true}, ServerFrame{Meta: meta}),
		group("meta-gone", GroupFrame{MetaSet: true}, ServerFrame{Meta: json.RawMessage(`null`)}),
		group("closed", GroupFrame{Closed: true}, ServerFrame{Closed: true}),
		reply("join", string(AppendGroupJoined(nil, &GroupJoined{Count: 2, Meta: meta, Member: "c9"}))),
		reply("members", string(AppendGroupMembers(nil, &GroupMembers{Members: map[string]GroupMember{"c1": ann, "c9": bob}, Count: 2, Meta: meta}))),
		reply("meta", string(AppendGroupMeta(nil, &GroupMeta{Meta: meta}))),
	}
}
