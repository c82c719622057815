package wire

import (
	"encoding/json"
	"strings"
	"time"
)

type goldenServerFrame struct {
	name  string
	frame []byte
	want  ServerFrame // without Raw
}

func goldenServer() []goldenServerFrame {
	all := append(goldenReplies(), goldenMessages()...)
	all = append(all, goldenSubscribed()...)
	all = append(all, goldenControls()...)
	all = append(all, goldenPresence()...)
	all = append(all, goldenGroups()...)
	all = append(all, goldenCursors()...)
	return append(all, goldenErrors()...)
}

func goldenReplies() []goldenServerFrame {
	ok := func(name string, id int64, ok string) goldenServerFrame {
		return goldenServerFrame{"server-reply-" + name, AppendOK(nil, id, []byte(ok)), ServerFrame{Kind: KindReply, ID: id, OK: json.RawMessage(ok)}}
	}
	hello := AppendHello(nil, &Hello{
		Conn: "c1", User: "u42", Session: "KNxM6xqfRzyEXhnN9WEOZw", Gateway: "gw-1",
		HeartbeatMs: 25000, MaxPayloadBytes: 1048576,
	})
	full := AppendHello(nil, &Hello{
		Conn: "c1", User: "u 42", Session: "KNxM6xqfRzyEXhnN9WEOZw", Gateway: "gw-1",
		HeartbeatMs: 25000, MaxPayloadBytes: 1048576, ExpiresAt: 1760000600000, Topics: []string{"chat.lobby", "org:42.>"},
	})
	text, binary := "thirty, \"or\" so", "AP+A"
	return []goldenServerFrame{
		{"server-reply-empty", AppendOK(nil, 7, nil), ServerFrame{Kind: KindReply, ID: 7, OK: json.RawMessage("{}")}},
		ok("hello", 1, string(hello)),
		ok("hello-expires-topics", 1, string(full)),
		ok("refresh", 2, string(AppendExpires(nil, 1760000900000))),
		ok("subscribe", 3, `{"topic":"chat.lobby"}`),
		ok("subscribe-recovered", 3, `{"topic":"chat.lobby","seq":46,"ts":1760000000000,"recovered":true,"head":60}`),
		ok("subscribe-truncated", 3, `{"topic":"chat.lobby","seq":46,"ts":1760000000000,"recovered":false,"missingFrom":12}`),
		ok("publish", 4, `{"seq":46}`),
		ok("publish-duplicate", 4, `{"seq":46,"duplicate":true}`),
		ok("batch", 5, `{"results":[{"seq":46},{"seq":47,"duplicate":true},{"error":{"code":"PERMISSION_DENIED","message":"the rules refuse it"}}]}`),
		ok("history", 6, `{"messages":[{"event":"message","data":{"n":1},"seq":46,"prev":45,"ts":1760000000000}],"seq":46,"truncated":false,"more":false}`),
		ok("largest-id", MaxID, `{}`),
		{"server-answer", AppendAnswer(nil, 8, []byte(`{"total": 30}`)), ServerFrame{Kind: KindReply, ID: 8, OK: json.RawMessage(`{"total": 30}`)}},
		{"server-answer-empty", AppendAnswer(nil, 8, nil), ServerFrame{Kind: KindReply, ID: 8, OK: json.RawMessage(`null`)}},
		{"server-answer-text", AppendAnswer(nil, 8, []byte(text)), ServerFrame{Kind: KindReply, ID: 8, Text: &text}},
		{"server-answer-base64", AppendAnswer(nil, 8, []byte{0, 0xff, 0x80}), ServerFrame{Kind: KindReply, ID: 8, Base64: &binary}},
		{"server-progress", AppendProgress(nil, 8, []byte(`{"done":0.5}`)), ServerFrame{Kind: KindReply, ID: 8, Progress: json.RawMessage(`{"done":0.5}`)}},
		{"server-progress-empty", AppendProgress(nil, 8, nil), ServerFrame{Kind: KindReply, ID: 8, Progress: json.RawMessage(`null`)}},
		{"server-progress-text", AppendProgress(nil, 8, []byte("half way")), ServerFrame{Kind: KindReply, ID: 8, Progress: json.RawMessage(`"half way"`)}},
		{"server-progress-base64", AppendProgress(nil, 8, []byte{0, 0xff, 0x80}), ServerFrame{Kind: KindReply, ID: 8, Progress: json.RawMessage(`"AP+A"`)}},
	}
}

// goldenSubscribed are the answers to a subscribe of a topic that is kept.
func goldenSubscribed() (all []goldenServerFrame) {
	at := Position{Seq: 46, Ts: 1760000000000}
	empty := Position{Seq: 46, Ts: -1760000000000}
	for _, s := range []struct {
		name string
		ok   Subscribed
		want string
	}{
		{"position", Subscribed{At: at, HasAt: true}, `"seq":46,"ts":1760000000000`},
		{"position-empty", Subscribed{At: empty, HasAt: true}, `"seq":46,"ts":-1760000000000`},
		{"last", Subscribed{At: Position{Seq: 36}, HasAt: true, Resumed: true, Complete: true, Head: 46}, `"seq":36,"recovered":true,"head":46`},
		{"recovered-empty", Subscribed{At: empty, HasAt: true, Resumed: true, Complete: true}, `"seq":46,"ts":-1760000000000,"recovered":true,"head":0`},
		{"truncated-head", Subscribed{At: Position{Seq: 20}, HasAt: true, Resumed: true, Head: 46, Missing: 13}, `"seq":20,"recovered":false,"head":46,"missingFrom":13`},
		{"unavailable", Subscribed{At: at, HasAt: true, Resumed: true, Head: 46, Missing: 13, Reason: string(Unavailable)},
			`"seq":46,"ts":1760000000000,"recovered":false,"head":46,"missingFrom":13,"reason":"UNAVAILABLE"`},
		{"last-unavailable", Subscribed{Resumed: true, Reason: string(Unimplemented)}, `"recovered":false,"reason":"UNIMPLEMENTED"`},
	} {
		s.ok.Topic = "chat.lobby"
		all = append(all, goldenServerFrame{
			"server-reply-subscribe-" + s.name, AppendOK(nil, 3, AppendSubscribed(nil, &s.ok)),
			ServerFrame{Kind: KindReply, ID: 3, OK: json.RawMessage(`{"topic":"chat.lobby",` + s.want + `}`)},
		})
	}
	return all
}

func goldenMessages() []goldenServerFrame {
	text, binary := "line 1\nline \"2\"\t\\ \u0001 äöü 😀", "//4="
	lobby := func(payload string) *Message {
		return &Message{Topic: "chat.lobby", Event: "message", Payload: []byte(payload)}
	}
	with := func(m *Message, change func(*Message)) *Message { change(m); return m }
	hi := json.RawMessage(`{"text":"hi"}`)
	want := ServerFrame{Topic: "chat.lobby", Event: "message", Data: hi}
	wants := func(change func(*ServerFrame)) ServerFrame { f := want; change(&f); return f }
	message := func(name string, m *Message, want ServerFrame) goldenServerFrame {
		return goldenServerFrame{strings.TrimSuffix("server-message-"+name, "-"), AppendMessage(nil, m), want}
	}
	return []goldenServerFrame{
		message("", lobby(`{"text":"hi"}`), want),
		message("seq", with(lobby(`{"text":"hi"}`), func(m *Message) { m.Seq, m.Prev, m.Ts = 46, 45, 1760000000000 }),
			wants(func(f *ServerFrame) { f.Seq, f.Prev, f.Ts = 46, 45, 1760000000000 })),
		message("seq-first", with(lobby(`{"text":"hi"}`), func(m *Message) { m.Seq, m.Ts = 1, 1760000000000 }),
			wants(func(f *ServerFrame) { f.Seq, f.Ts = 1, 1760000000000 })),
		message("from", with(lobby(`{"text":"hi"}`), func(m *Message) { m.From = `ann "a" <b>` }),
			wants(func(f *ServerFrame) { f.From = `ann "a" <b>` })),
		message("direct", with(lobby(`{"text":"hi"}`), func(m *Message) { m.Direct = true }),
			wants(func(f *ServerFrame) { f.Direct = true })),
		message("direct-no-topic", &Message{Event: "incoming", Payload: []byte(`1`), Direct: true},
			ServerFrame{Event: "incoming", Data: json.RawMessage(`1`), Direct: true}),
		message("group", &Message{Group: "team 7", Event: "message", Payload: hi}, ServerFrame{Group: "team 7", Event: "message", Data: hi}),
		message("everything", &Message{Topic: "chat.lobby", Event: "message", Payload: hi, From: "u42", Direct: true, Seq: 46, Prev: 45, Ts: 1760000000000},
			wants(func(f *ServerFrame) { f.From, f.Direct, f.Seq, f.Prev, f.Ts = "u42", true, 46, 45, 1760000000000 })),
		message("text", lobby(text), wants(func(f *ServerFrame) { f.Data, f.Text = nil, &text })),
		message("base64", lobby("\xff\xfe"), wants(func(f *ServerFrame) { f.Data, f.Base64 = nil, &binary })),
		message("null", lobby(""), wants(func(f *ServerFrame) { f.Data = json.RawMessage("null") })),
		message("verbatim", lobby(`{"b" : 1.0, "a":"\u00e9 <&>", "a": 1e2}`),
			wants(func(f *ServerFrame) { f.Data = json.RawMessage(`{"b" : 1.0, "a":"\u00e9 <&>", "a": 1e2}`) })),
		message("unicode", &Message{Topic: "chat.zürich", Event: "message", Payload: []byte(`"😀"`)},
			ServerFrame{Topic: "chat.zürich", Event: "message", Data: json.RawMessage(`"😀"`)}),
	}
}

func goldenControls() []goldenServerFrame {
	text := "sure?"
	control := func(name, op string, frame []byte, f ServerFrame) goldenServerFrame {
		f.Kind, f.Op = KindControl, op
		return goldenServerFrame{"server-" + name, frame, f}
	}
	return []goldenServerFrame{
		control("ping", "ping", []byte(Ping), ServerFrame{}),
		control("drain", "drain", AppendDrain(nil, 740), ServerFrame{AfterMs: 740}),
		control("drain-now", "drain", AppendDrain(nil, 0), ServerFrame{}),
		control("system-degraded", "system", AppendSystem(nil, "degraded", "nats", 1760000000000),
			ServerFrame{Event: "degraded", What: "nats", At: 1760000000000}),
		control("system-recovered", "system", AppendSystem(nil, "recovered", "replay", 1760000000500),
			ServerFrame{Event: "recovered", What: "replay", At: 1760000000500}),
		control("system-degraded-presence", "system", AppendSystem(nil, "degraded", "presence", 1760000000000),
			ServerFrame{Event: "degraded", What: "presence", At: 1760000000000}),
		control("system-refresh", "system", AppendSystem(nil, SystemRefresh, "", 1760000000000),
			ServerFrame{Event: "refresh", At: 1760000000000}),
		control("system-subscribed", "system", AppendSystem(nil, SystemSubscribed, "chat.lobby", 1760000000000),
			ServerFrame{Event: "subscribed", What: "chat.lobby", At: 1760000000000}),
		control("system-unsubscribed", "system", AppendSystem(nil, SystemUnsubscribed, "chat.lobby", 1760000000000),
			ServerFrame{Event: "unsubscribed", What: "chat.lobby", At: 1760000000000}),
		control("truncated", "truncated", AppendTruncated(nil, "chat.lobby", 13), ServerFrame{Topic: "chat.lobby"}),
		control("truncated-all", "truncated", AppendTruncated(nil, "chat.zürich", 1), ServerFrame{Topic: "chat.zürich"}),
		control("skip", "skip", AppendSkip(nil, "chat.lobby", 46, 45, 1760000000000),
			ServerFrame{Topic: "chat.lobby", Seq: 46, Prev: 45, Ts: 1760000000000}),
		control("skip-first", "skip", AppendSkip(nil, "chat.lobby", 46, 0, 1760000000000),
			ServerFrame{Topic: "chat.lobby", Seq: 46, Ts: 1760000000000}),
		control("request", "request", AppendRequest(nil, "r-9", "confirm", []byte(`{"op":"delete"}`), 5000),
			ServerFrame{Ref: "r-9", Event: "confirm", Data: json.RawMessage(`{"op":"delete"}`), TimeoutMs: 5000}),
		control("request-null", "request", AppendRequest(nil, "r-9", "confirm", nil, 5000),
			ServerFrame{Ref: "r-9", Event: "confirm", Data: json.RawMessage(`null`), TimeoutMs: 5000}),
		control("request-text", "request", AppendRequest(nil, "r-9", "confirm", []byte(text), 5000),
			ServerFrame{Ref: "r-9", Event: "confirm", Text: &text, TimeoutMs: 5000}),
	}
}

func goldenErrors() []goldenServerFrame {
	reply := func(name string, id int64, e, want *Error) goldenServerFrame {
		return goldenServerFrame{"server-error-" + name, AppendErrorReply(nil, id, e), ServerFrame{Kind: KindReply, ID: id, Error: want}}
	}
	same := func(name string, id int64, e *Error) goldenServerFrame { return reply(name, id, e, e) }
	all := []goldenServerFrame{
		same("retry-number", 7, &Error{Code: ResourceExhausted, Message: "too many messages", RetryAfter: 1200 * time.Millisecond}),
		reply("retry-rounded-up", 7, &Error{Code: Aborted, Message: "a race was lost", RetryAfter: 1200*time.Millisecond + 1},
			&Error{Code: Aborted, Message: "a race was lost", RetryAfter: 1201 * time.Millisecond}),
		reply("frame-too-large", 0, (&Error{Code: ResourceExhausted, Message: "frame too large", RetryAfter: Never}).With("observed", 70000).With("limit", 65536),
			(&Error{Code: ResourceExhausted, Message: "frame too large", RetryAfter: Never}).With("observed", 70000.0).With("limit", 65536.0)),
		same("field", 0, InvalidField("topic", "must not be empty").With("op", "subscribe")),
		same("outcome", 7, Errorf(DeadlineExceeded, "no acknowledgement within %s", "5s").With("outcome", "unknown").With("op", "publish").With("topic", "chat.lobby")),
		same("rule", 7, Errorf(PermissionDenied, "the rules refuse it").With("rule", "chat.*").With("op", "publish").With("topic", "chat.lobby")),
		same("escapes", 7, Errorf(InvalidArgument, "got \"a\"\n<b>\u0001").With("k<&>", "v\"\u2028")),
		same("no-message", 7, &Error{Code: NotFound}),
	}
	for code, c := range codes {
		e := &Error{Code: code, Message: "why"}
		want := &Error{Code: code, Message: "why", RetryAfter: c.backoff}
		all = append(all, reply(strings.ReplaceAll(strings.ToLower(string(code)), "_", "-"), 7, e, want))
	}
	return all
}
