package wire

import "time"

// goldenClient is what the golden frames of clients say.
var goldenClient = []struct {
	name string
	want Frame
}{
	{"client-hello", Frame{ID: 1, Op: OpHello, Token: "eyJh.eyJz.c2ln", Client: "js/1.0.0", Session: "KNxM6xqfRzyEXhnN9WEOZw"}},
	{"client-hello-anonymous", Frame{ID: 1, Op: OpHello}},
	{"client-refresh", Frame{ID: 2, Op: OpRefresh, Token: "eyJh.eyJz.c2ln"}},
	{"client-subscribe", Frame{ID: 3, Op: OpSubscribe, Topic: "chat.lobby"}},
	{"client-subscribe-pattern", Frame{ID: 3, Op: OpSubscribe, Topic: "org:42.*.items.>"}},
	{"client-subscribe-after", Frame{ID: 3, Op: OpSubscribe, Topic: "chat.lobby", After: 46, HasAfter: true, Ts: 1760000000000, HasTs: true}},
	{"client-subscribe-after-zero", Frame{ID: 3, Op: OpSubscribe, Topic: "chat.lobby", HasAfter: true}},
	{"client-subscribe-after-empty", Frame{ID: 3, Op: OpSubscribe, Topic: "chat.lobby", After: 46, HasAfter: true, Ts: -1760000000000, HasTs: true}},
	{"client-subscribe-last", Frame{ID: 3, Op: OpSubscribe, Topic: "chat.lobby", Last: 50}},
	{"client-subscribe-watch", Frame{ID: 3, Op: OpSubscribe, Topic: "chat.lobby", Presence: "watch", Cursors: true}},
	{"client-subscribe-join", Frame{ID: 3, Op: OpSubscribe, Topic: "chat.lobby", Presence: "join", Data: []byte(`{"status":"busy"}`)}},
	{"client-subscribe-unicode", Frame{ID: 3, Op: OpSubscribe, Topic: "chat.zürich.😀"}},
	{"client-unsubscribe", Frame{ID: 4, Op: OpUnsubscribe, Topic: "chat.lobby"}},
	{"client-publish", Frame{ID: 5, Op: OpPublish, Topic: "chat.lobby", Event: "said", Data: []byte(`{"text":"hi"}`)}},
	{"client-publish-without-id", Frame{Op: OpPublish, Topic: "chat.lobby", Event: "message", Data: []byte(`{"text":"hi"}`)}},
	{"client-publish-key", Frame{ID: 5, Op: OpPublish, Topic: "chat.lobby", Event: "said", Data: []byte(`null`), Key: "order 7/ä"}},
	{"client-publish-no-echo", Frame{ID: 5, Op: OpPublish, Topic: "chat.lobby", Event: "said", Data: []byte(`[1, 2.50]`), NoEcho: true}},
	{"client-publish-without-data", Frame{ID: 5, Op: OpPublish, Topic: "chat.lobby", Event: "message"}},
	{"client-batch", Frame{ID: 6, Op: OpBatch, Messages: []BatchMessage{{Topic: "chat.lobby", Event: "said", Data: []byte(`{"n":1}`)}, {Topic: "chat.hall", Event: "message", Data: []byte(`"x"`), Key: "k1"}, {Topic: "chat.hall", Event: "message"}}}},
	{"client-batch-atomic", Frame{ID: 6, Op: OpBatch, Messages: []BatchMessage{}, Atomic: true}},
	{"client-history", Frame{ID: 7, Op: OpHistory, Topic: "chat.lobby", After: 12, HasAfter: true, Ts: 1760000000000, HasTs: true, Limit: 1000}},
	{"client-history-empty", Frame{ID: 7, Op: OpHistory, Topic: "chat.lobby", After: 12, HasAfter: true, Ts: -1760000000000, HasTs: true}},
	{"client-gap-empty", Frame{ID: 8, Op: OpGap, Topic: "chat.lobby", After: 12, HasAfter: true, Ts: -1760000000000, HasTs: true}},
	{"client-gap", Frame{ID: 8, Op: OpGap, Topic: "chat.lobby", After: 12, HasAfter: true, Ts: 1760000000000, HasTs: true}},
	{"client-presence", Frame{ID: 9, Op: OpPresence, Topic: "chat.lobby", Limit: 100, Page: "p2"}},
	{"client-presence-join", Frame{ID: 10, Op: OpPresenceJoin, Topic: "chat.lobby", Data: []byte(`{"status":"busy"}`)}},
	{"client-presence-leave", Frame{ID: 11, Op: OpPresenceLeave, Topic: "chat.lobby"}},
	{"client-presence-update", Frame{ID: 12, Op: OpPresenceUpdate, Topic: "chat.lobby", Data: []byte(`null`)}},
	{"client-cursor", Frame{Op: OpCursor, Topic: "doc.7", Data: []byte(`{"x":10,"y":20}`)}},
	{"client-cursor-gone", Frame{ID: 13, Op: OpCursor, Topic: "doc.7", Data: []byte(`null`)}},
	{"client-group-join", Frame{ID: 14, Op: OpGroupJoin, Group: "team 7", Role: "admin", Data: []byte(`{"name":"Ann"}`)}},
	{"client-group-leave", Frame{ID: 15, Op: OpGroupLeave, Group: "team 7"}},
	{"client-group-publish", Frame{ID: 16, Op: OpGroupPublish, Group: "team 7", Event: "move", Data: []byte(`1`), Role: "admin"}},
	{"client-group-send", Frame{ID: 17, Op: OpGroupSend, Group: "team 7", Member: "c9", Event: "move", Data: []byte(`"e4"`)}},
	{"client-group-members", Frame{ID: 18, Op: OpGroupMembers, Group: "team 7"}},
	{"client-group-meta", Frame{ID: 19, Op: OpGroupMeta, Group: "team 7", Meta: []byte(`{"round":2}`)}},
	{"client-group-meta-read", Frame{ID: 19, Op: OpGroupMeta, Group: "team 7"}},
	{"client-call", Frame{ID: MaxID, Op: OpCall, Method: "orders.create", Data: []byte(`{"item":"tea"}`), Timeout: 2500 * time.Millisecond}},
	{"client-call-bare", Frame{ID: 20, Op: OpCall, Method: "time"}},
	{"client-cancel", Frame{Op: OpCancel, RefID: 20}},
	{"client-reply", Frame{Op: OpReply, Ref: "r-9", Data: []byte(`{"yes":true}`)}},
	{"client-reply-error", Frame{Op: OpReply, Ref: "r-9", Error: &Error{Code: PermissionDenied, Message: "no"}}},
	{"client-pong", Frame{Op: OpPong}},
}
