package wire

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

type header = map[string][]string

func TestHeaderValue(t *testing.T) {
	for _, test := range []struct {
		name string
		h    header
		want string
	}{
		{"absent", header{"Fl-User": {"u"}}, ""},
		{"nil", nil, ""},
		{"canonical", header{"Fl-Event": {"said"}}, "said"},
		{"lower case", header{"fl-event": {"said"}}, "said"},
		{"upper case", header{"FL-EVENT": {"said"}}, "said"},
		{"last value", header{"Fl-Event": {"one", "two", "three"}}, "three"},
		{"last value may be empty", header{"Fl-Event": {"one", ""}}, ""},
		{"no values", header{"Fl-Event": {}}, ""},
		{"canonical without values", header{"Fl-Event": {}, "fl-event": {"said"}}, "said"},
		{"canonical counts", header{"FL-EVENT": {"a"}, "Fl-Event": {"b"}, "fl-event": {"c"}}, "b"},
		{"else the first spelling", header{"fl-event": {"c"}, "FL-EVENT": {"a"}, "fL-EVENT": {"d"}}, "a"},
		{"no prefix of a name", header{"Fl-Events": {"x"}, "Fl-Even": {"y"}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 20 { // maps are read in another order each time
				if got := HeaderValue(test.h, HeaderEvent); got != test.want {
					t.Fatalf("got %q, want %q", got, test.want)
				}
			}
		})
	}
}

// A publisher may write any header: the sequence that counts is the one the
// server appended.
func TestHeaderValueForgedSequence(t *testing.T) {
	for _, h := range []header{
		{HeaderSequence: {"999", "46"}},
		{HeaderSequence: {"46"}, "nats-sequence": {"999"}},
		{HeaderSequence: {"46"}, "NATS-SEQUENCE": {"999"}},
	} {
		if got := HeaderValue(h, HeaderSequence); got != "46" {
			t.Errorf("%v: got %q, want 46", h, got)
		}
	}
}

func TestSetHeader(t *testing.T) {
	for _, value := range []string{"", "a", "a b", "é", "\u0085", `{"a":1}`, "a:b", "\xff", strings.Repeat("x", 5000)} {
		h := header{"Fl-User": {"old", "older"}}
		if err := SetHeader(h, HeaderUser, value); err != nil || !reflect.DeepEqual(h, header{"Fl-User": {value}}) {
			t.Errorf("SetHeader(%q): %v, %v", value, h, err)
		}
	}
	refused := []string{" ", " a", "a ", "a\r\nFl-User: eve", "a\nb", "a\r", "\x00", "\t", "a\x1f", "\x7f", "a\x7fb"}
	for c := range byte(0x20) {
		refused = append(refused, "a"+string(rune(c))+"b")
	}
	for _, value := range refused {
		h := header{}
		if err := SetHeader(h, HeaderUser, value); !errors.Is(err, ErrInvalidArgument) || len(h) != 0 || AsError(err).Details["field"] != HeaderUser {
			t.Errorf("SetHeader(%q): %v, %v, want %s that names the header, and nothing set", value, h, err, InvalidArgument)
		}
	}
}

func TestParseMeta(t *testing.T) {
	for _, test := range []struct {
		name string
		h    header
		want Meta
	}{
		{"nothing", nil, Meta{Event: "message"}},
		{"everything", header{
			"Fl-Event": {"said"}, "Fl-Topic": {"chat.lobby"}, "Fl-User": {"u 42"}, "Fl-Conn": {"c1"}, "Fl-Exclude": {"c2"},
			"Nats-Sequence": {"46"}, "traceparent": {"00-…"}, "x": {"y"}, "": {"z"},
		}, Meta{Event: "said", Topic: "chat.lobby", User: "u 42", Conn: "c1", Exclude: "c2"}},
		{"other spellings", header{"fl-event": {"said"}, "FL-TOPIC": {"a"}, "fl-User": {"u"}, "FL-conn": {"c"}, "fl-exclude": {"d"}},
			Meta{Event: "said", Topic: "a", User: "u", Conn: "c", Exclude: "d"}},
		{"last values", header{"Fl-Event": {"a", "b"}, "Fl-User": {"eve", "ann"}}, Meta{Event: "b", User: "ann"}},
		{"canonical spelling counts", header{"FL-USER": {"eve"}, "Fl-User": {"ann"}, "fl-user": {"eve"}}, Meta{Event: "message", User: "ann"}},
		{"key of coalescing", header{"fl-coalesce": {"load/eu"}}, Meta{Event: "message", Coalesce: "load/eu"}},
		{"key that is none", header{"Fl-Coalesce": {strings.Repeat("x", 129)}}, Meta{Event: "message"}},
		{"empty key", header{"Fl-Coalesce": {""}}, Meta{Event: "message"}},
		{"batch", header{"FL-BATCH": {"1"}}, Meta{Event: "message", Batch: true}},
		{"batch of another kind", header{"Fl-Batch": {"true"}}, Meta{Event: "message"}},
		{"also with a bad value", header{"Fl-Event": {"a b"}, "fl-event": {"said"}}, Meta{Event: "message"}},
		{"no values", header{"Fl-Event": {}, "Fl-User": nil}, Meta{Event: "message"}},
		{"empty event", header{"Fl-Event": {""}}, Meta{Event: "message"}},
		{"event with a quote", header{"Fl-Event": {`a"b`}}, Meta{Event: "message"}},
		{"event too long", header{"Fl-Event": {strings.Repeat("x", 65)}}, Meta{Event: "message"}},
		{"topic with a space", header{"Fl-Topic": {"a b"}}, Meta{Event: "message"}},
		{"topic with a wildcard", header{"Fl-Topic": {"a.*"}}, Meta{Event: "message"}},
		{"topic that is ours", header{"Fl-Topic": {"$SYS.x"}}, Meta{Event: "message"}},
		{"user too long", header{"Fl-User": {strings.Repeat("x", 129)}}, Meta{Event: "message"}},
		{"user that is no UTF-8", header{"Fl-User": {"a\xff"}}, Meta{Event: "message"}},
		{"user with a control byte", header{"Fl-User": {"a\x01"}}, Meta{Event: "message"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 20 {
				if got := ParseMeta(test.h); got != test.want {
					t.Fatalf("got %+v, want %+v", got, test.want)
				}
			}
		})
	}
}

func TestErrorHeader(t *testing.T) {
	for _, e := range []*Error{
		Errorf(NotFound, "no such order"),
		{Code: ResourceExhausted, Message: "slow down", RetryAfter: 1200 * time.Millisecond},
		{Code: ResourceExhausted, Message: "never", RetryAfter: Never},
		{Code: Aborted, RetryAfter: 50 * time.Millisecond},
	} {
		h := header{}
		ErrorHeader(h, e)
		if got := ParseErrorHeader(h, AppendErrorBody(nil, e)); !reflect.DeepEqual(got, e) {
			t.Errorf("got %+v, want %+v", got, e)
		}
	}
	h := header{}
	ErrorHeader(h, Errorf(Internal, " line 1\r\nNats-Service-Error-Code: X\x7f "))
	if got := h[HeaderError][0]; !ValidHeaderValue(got) || got != "line 1  Nats-Service-Error-Code: X" {
		t.Errorf("message in the header: %q", got)
	}
}

func TestParseErrorHeader(t *testing.T) {
	for _, test := range []struct {
		name string
		h    header
		body string
		want *Error
	}{
		{"none", header{"Fl-Event": {"x"}}, "", nil},
		{"message only", header{HeaderError: {"x"}}, "", nil},
		{"code only", header{HeaderErrorCode: {"NOT_FOUND"}}, "", &Error{Code: NotFound}},
		{"lower-case names", header{"nats-service-error-code": {"NOT_FOUND"}, "nats-service-error": {"x"}}, "", &Error{Code: NotFound, Message: "x"}},
		{"code of another", header{HeaderErrorCode: {"400"}, HeaderError: {"x"}}, "", &Error{Code: Internal, Message: "x", Details: map[string]any{"code": "400"}}},
		{"lower-case code", header{HeaderErrorCode: {"not_found"}}, "", &Error{Code: Internal, Details: map[string]any{"code": "not_found"}}},
		{"pause", header{HeaderErrorCode: {"UNAVAILABLE"}}, `{"retryAfterMs":5}`, &Error{Code: Unavailable, RetryAfter: 5 * time.Millisecond}},
		{"never", header{HeaderErrorCode: {"UNAVAILABLE"}}, `{"retryAfterMs":null}`, &Error{Code: Unavailable, RetryAfter: Never}},
		{"no pause", header{HeaderErrorCode: {"UNAVAILABLE"}}, `{}`, &Error{Code: Unavailable}},
		{"a body that is no JSON", header{HeaderErrorCode: {"UNAVAILABLE"}}, `oops`, &Error{Code: Unavailable}},
		{"a pause that is none", header{HeaderErrorCode: {"UNAVAILABLE"}}, `{"retryAfterMs":"5"}`, &Error{Code: Unavailable}},
		{"a negative pause", header{HeaderErrorCode: {"UNAVAILABLE"}}, `{"retryAfterMs":-5}`, &Error{Code: Unavailable}},
		{"a pause of ages", header{HeaderErrorCode: {"UNAVAILABLE"}}, `{"retryAfterMs":9999999999999999}`, &Error{Code: Unavailable}},
		{"a pause where the code has none", header{HeaderErrorCode: {"NOT_FOUND"}}, `{"retryAfterMs":5}`, &Error{Code: NotFound}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := ParseErrorHeader(test.h, []byte(test.body)); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestDeadline(t *testing.T) {
	if got := Deadline(1760000000000); got != "1760000000000" {
		t.Errorf("got %s", got)
	}
}

// FuzzHeaders checks that whatever a worker writes, the metadata of its message
// can be passed on and is the same for every reader.
func FuzzHeaders(f *testing.F) {
	f.Add("Fl-Event", "said", "fl-event", "b", "msg")
	f.Add("FL-USER", "eve", "Fl-User", "ann", "a\nb")
	f.Add("Fl-Topic", "a b", "Nats-Service-Error-Code", "X", `{"retryAfterMs":1}`)
	f.Add("Nats-Service-Error-Code", "UNAVAILABLE", "Nats-Service-Error", "x\x00", `{"retryAfterMs":null}`)
	f.Fuzz(func(t *testing.T, name, value, name2, value2, body string) {
		h := header{name: {value}}
		h[name2] = append(h[name2], value2)
		m := ParseMeta(h)
		if CheckEvent(m.Event) != nil || m.Topic != "" && CheckTopic(m.Topic) != nil || m.User != "" && CheckUser(m.User) != nil {
			t.Errorf("ParseMeta(%q) = %+v", h, m)
		}
		if again := ParseMeta(maps.Clone(h)); again != m {
			t.Errorf("ParseMeta(%q) = %+v, then %+v", h, m, again)
		}
		if want := HeaderValue(h, HeaderConn); m.Conn != want {
			t.Errorf("ParseMeta(%q).Conn = %q, HeaderValue = %q", h, m.Conn, want)
		}
		if e := ParseErrorHeader(h, []byte(body)); e != nil {
			out := header{}
			ErrorHeader(out, e)
			if !e.Code.Known() || !ValidHeaderValue(out[HeaderError][0]) || !ValidHeaderValue(out[HeaderErrorCode][0]) {
				t.Errorf("ParseErrorHeader(%q) = %+v, written as %q", h, e, out)
			}
			if !ValidJSON(AppendErrorReply(nil, 1, e)) || !utf8.Valid(AppendErrorBody(nil, e)) {
				t.Errorf("%+v is sent as %s", e, AppendErrorReply(nil, 1, e))
			}
		}
		out := header{}
		if err := SetHeader(out, name, value); (err == nil) != ValidHeaderValue(value) || err == nil && strings.ContainsAny(value, "\r\n\x00") {
			t.Errorf("SetHeader(%q) = %v", value, err)
		}
	})
}
