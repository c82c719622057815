package wire

import (
	"fmt"
	"strings"
	"testing"
)

func TestDecodeFramesID(t *testing.T) {
	for _, test := range []struct {
		id   string
		want int64 // 0: refused
	}{
		{"1", 1}, {"42", 42}, {"9007199254740991", MaxID},
		{"0", 0}, {"-1", 0}, {"-0", 0}, {"9007199254740992", 0}, {"9999999999999999", 0}, {"18446744073709551617", 0},
		{"1.0", 0}, {"1.5", 0}, {"1e3", 0}, {`"1"`, 0}, {"null", 0}, {"true", 0}, {"[1]", 0}, {`{"id":1}`, 0},
	} {
		t.Run(test.id, func(t *testing.T) {
			for _, frame := range []string{`{"id":%s,"op":"pong"}`, `{"op":"pong","id":%s}`} {
				got := decodeOne(t, fmt.Appendf(nil, frame, test.id))
				if got.ID != test.want || got.Op != OpPong || (got.err == nil) != (test.want != 0) {
					t.Errorf("got id %d, op %q, error %v, want id %d and op pong", got.ID, got.Op, got.err, test.want)
				}
				if got.err != nil && got.err.Details["field"] != "id" {
					t.Errorf("error %v names field %v, want id", got.err, got.err.Details["field"])
				}
				// A bad frame that has a good id is answered with it.
				got = decodeOne(t, fmt.Appendf(nil, `{"id":%s,"op":"nope"}`, test.id))
				if got.err == nil || got.ID != test.want {
					t.Errorf("unknown op: got id %d, error %v, want id %d and an error", got.ID, got.err, test.want)
				}
			}
		})
	}
}

// A refused frame says which member is at fault, and keeps what could be read.
func TestDecodeFramesRefused(t *testing.T) {
	big := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	for _, test := range []struct{ frame, field string }{
		{`{}`, "op"},
		{`{"id":1}`, "op"},
		{`{"op":null}`, "op"},
		{`{"op":1}`, "op"},
		{`{"op":""}`, "op"},
		{`{"op":"nope"}`, "op"},
		{`{"op":"\ud800"}`, "op"},
		{`{"op":"presence.nope","id":1}`, "op"},
		{`"pong"`, "frame"}, {`1`, "frame"}, {`null`, "frame"}, {`true`, "frame"},

		{`{"op":"refresh","id":1}`, "token"},
		{`{"op":"refresh","id":1,"token":null}`, "token"},
		{`{"op":"hello","id":1,"token":7}`, "token"},
		{`{"op":"hello","id":1,"client":{}}`, "client"},
		{`{"op":"hello","id":1,"session":[]}`, "session"},

		{`{"op":"subscribe","id":1}`, "topic"},
		{`{"op":"subscribe","id":1,"topic":7}`, "topic"},
		{`{"op":"subscribe","id":1,"topic":null}`, "topic"},
		{`{"op":"subscribe","id":1,"topic":"a..b"}`, "topic"},
		{`{"op":"subscribe","id":1,"topic":"a\ud800"}`, "topic"},
		{`{"op":"subscribe","id":1,"topic":"a\udc00\ud800"}`, "topic"},
		{`{"op":"subscribe","id":1,"topic":"a\u0000"}`, "topic"},
		{`{"op":"subscribe","id":1,"topic":"e\u0301"}`, "topic"},
		{`{"op":"subscribe","id":1,"topic":"a","after":-1}`, "after"},
		{`{"op":"subscribe","id":1,"topic":"a","after":"46"}`, "after"},
		{`{"op":"subscribe","id":1,"topic":"a","after":1.5}`, "after"},
		{`{"op":"subscribe","id":1,"topic":"a","after":9007199254740992}`, "after"},
		{`{"op":"subscribe","id":1,"topic":"a","after":1,"ts":"now"}`, "ts"},
		{`{"op":"subscribe","id":1,"topic":"a","last":0}`, "last"},
		{`{"op":"subscribe","id":1,"topic":"a","last":1001}`, "last"},
		{`{"op":"subscribe","id":1,"topic":"a","after":0,"last":1}`, "last"},
		{`{"op":"subscribe","id":1,"topic":"a.*","after":0}`, "after"},
		{`{"op":"subscribe","id":1,"topic":">","after":5}`, "after"},
		{`{"op":"subscribe","id":1,"topic":"a","presence":"look"}`, "presence"},
		{`{"op":"subscribe","id":1,"topic":"a","presence":""}`, "presence"},
		{`{"op":"subscribe","id":1,"topic":"a","presence":true}`, "presence"},
		{`{"op":"subscribe","id":1,"topic":"a","cursors":"true"}`, "cursors"},
		{`{"op":"subscribe","id":1,"topic":"a","cursors":1}`, "cursors"},
		{`{"op":"subscribe","id":1,"topic":"a","presence":"join","data":` + big(MaxMemberData+1) + `}`, "data"},

		{`{"op":"publish","id":1,"data":1}`, "topic"},
		{`{"op":"publish","id":1,"topic":"a.*"}`, "topic"},
		{`{"op":"publish","id":1,"topic":">"}`, "topic"},
		{`{"op":"publish","id":1,"topic":"a","event":7}`, "event"},
		{`{"op":"publish","id":1,"topic":"a","event":""}`, "event"},
		{`{"op":"publish","id":1,"topic":"a","event":"a b"}`, "event"},
		{`{"op":"publish","id":1,"topic":"a","key":""}`, "key"},
		{`{"op":"publish","id":1,"topic":"a","key":1}`, "key"},
		{`{"op":"publish","id":1,"topic":"a","key":"a\u0000"}`, "key"},
		{`{"op":"publish","id":1,"topic":"a","key":"\ud83d"}`, "key"},
		{`{"op":"publish","id":1,"topic":"a","key":` + big(MaxKey+3) + `}`, "key"},
		{`{"op":"publish","id":1,"topic":"a","echo":"no"}`, "echo"},

		{`{"op":"history","id":1,"topic":"a"}`, "after"},
		{`{"op":"history","id":1,"topic":"a","after":null}`, "after"},
		{`{"op":"history","id":1,"topic":"a.>","after":1}`, "topic"},
		{`{"op":"history","id":1,"topic":"a","after":1,"limit":0}`, "limit"},
		{`{"op":"history","id":1,"topic":"a","after":1,"limit":1001}`, "limit"},
		{`{"op":"gap","id":1,"after":1}`, "topic"},
		{`{"op":"presence","id":1,"topic":"a","cursor":1}`, "cursor"},
		{`{"op":"presence.update","id":1,"topic":"a"}`, "data"},
		{`{"op":"presence.update","id":1,"topic":"a","data":` + big(MaxMemberData+1) + `}`, "data"},
		{`{"op":"presence.join","id":1,"topic":"a","data":` + big(MaxMemberData+1) + `}`, "data"},
		{`{"op":"cursor","topic":"a","data":` + big(MaxCursorData+1) + `}`, "data"},

		{`{"op":"group.join","id":1}`, "group"},
		{`{"op":"group.join","id":1,"group":""}`, "group"},
		{`{"op":"group.join","id":1,"group":"g","role":"a b"}`, "role"},
		{`{"op":"group.join","id":1,"group":"g","data":` + big(MaxMemberData+1) + `}`, "data"},
		{`{"op":"group.publish","id":1,"group":"g","data":1}`, "event"},
		{`{"op":"group.send","id":1,"group":"g","event":"e"}`, "member"},
		{`{"op":"group.meta","id":1,"group":"g","meta":` + big(MaxMemberData+1) + `}`, "meta"},

		{`{"op":"call","id":1}`, "method"},
		{`{"op":"call","id":1,"method":"a.*"}`, "method"},
		{`{"op":"call","id":1,"method":"a b"}`, "method"},
		{`{"op":"call","id":1,"method":"a","timeoutMs":0}`, "timeoutMs"},
		{`{"op":"call","id":1,"method":"a","timeoutMs":60001}`, "timeoutMs"},
		{`{"op":"call","id":1,"method":"a","timeoutMs":"1s"}`, "timeoutMs"},
		{`{"op":"cancel"}`, "ref"},
		{`{"op":"cancel","ref":"7"}`, "ref"},
		{`{"op":"cancel","ref":0}`, "ref"},
		{`{"op":"reply","data":1}`, "ref"},
		{`{"op":"reply","ref":7}`, "ref"},
	} {
		t.Run(test.frame[:min(len(test.frame), 80)], func(t *testing.T) {
			got := decodeOne(t, []byte(test.frame))
			if got.err == nil {
				t.Fatalf("accepted: %+v", got.Frame)
			}
			if got.err.Code != InvalidArgument || got.err.Details["field"] != test.field || !strings.HasPrefix(got.err.Message, test.field+": ") {
				t.Errorf("got %v with details %v, want %s that names %s", got.err, got.err.Details, InvalidArgument, test.field)
			}
			if len(got.err.Message) > 500 {
				t.Errorf("a message of %d bytes", len(got.err.Message))
			}
		})
	}
}

func TestDecodeFramesSizesAllowed(t *testing.T) {
	for _, test := range []struct {
		frame string
		bytes int
	}{
		{`{"op":"subscribe","id":1,"topic":"a","presence":"join","data":%s}`, MaxMemberData},
		{`{"op":"presence.join","id":1,"topic":"a","data":%s}`, MaxMemberData},
		{`{"op":"presence.update","id":1,"topic":"a","data":%s}`, MaxMemberData},
		{`{"op":"group.join","id":1,"group":"g","data":%s}`, MaxMemberData},
		{`{"op":"group.meta","id":1,"group":"g","meta":%s}`, MaxMemberData},
		{`{"op":"cursor","topic":"a","data":%s}`, MaxCursorData},
		{`{"op":"publish","topic":"a","data":%s}`, 1 << 20},
		{`{"op":"publish","topic":"a","key":%s}`, MaxKey + 2},
		{`{"op":"publish","topic":"a","event":%s}`, MaxEvent + 2},
		{`{"op":"publish","topic":%s}`, MaxTopic + 2},
	} {
		got := decodeOne(t, fmt.Appendf(nil, test.frame, `"`+strings.Repeat("x", test.bytes-2)+`"`))
		if got.err != nil {
			t.Errorf("%s of %d bytes: %v", test.frame, test.bytes, got.err)
		}
	}
}

func TestDecodeFramesKeepsWhatItRead(t *testing.T) {
	for _, test := range []struct{ frame, want string }{
		{`{"op":"publish","id":7,"topic":"a","event":"a b"}`, "7 publish a"},
		{`{"op":"subscribe","id":0,"topic":"a"}`, "0 subscribe a"},
		{`{"op":"subscribe","topic":"a"}`, "0 subscribe a"},
		{`{"op":"history","id":7,"topic":"a"}`, "7 history a"},
		{`{"op":"nope","id":7,"topic":"a"}`, "7  "},
		{`{"op":"cursor","topic":"a","data":"` + strings.Repeat("x", MaxCursorData) + `"}`, "0 cursor a"},
	} {
		got := decodeOne(t, []byte(test.frame))
		if got.err == nil {
			t.Errorf("%s: accepted", test.frame)
		}
		if is := fmt.Sprintf("%d %s %s", got.ID, got.Op, got.Topic); is != test.want {
			t.Errorf("%s: got %q, want %q", test.frame, is, test.want)
		}
	}
}
