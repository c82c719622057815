package wire

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAppendAppends(t *testing.T) {
	m := &Message{Topic: "a", Event: "e", Payload: []byte("1")}
	dst := make([]byte, 0, 1024)
	dst = AppendMessage(dst, m)
	dst = AppendOK(append(dst, ','), 1, nil)
	dst = AppendDrain(append(dst, ','), 5)
	if got, want := string(dst), `{"topic":"a","event":"e","data":1},{"id":1,"ok":{}},{"op":"drain","afterMs":5}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAppendPayload(t *testing.T) {
	for _, test := range []struct{ payload, want string }{
		{"", `"data":null`}, {"null", `"data":null`}, {`{"a":1}`, `"data":{"a":1}`}, {" {} \n", "\"data\": {} \n"}, {"  ", `"text":"  "`},
		{"hello", `"text":"hello"`}, {`{"a":1`, `"text":"{\"a\":1"`}, {"\x00", `"text":"\u0000"`}, {"\xff", `"base64":"/w=="`}, {"\"\xff\"", `"base64":"Iv8i"`},
		{`1 2`, `"text":"1 2"`}, {strings.Repeat("[", 513) + strings.Repeat("]", 513), `"text":"` + strings.Repeat("[", 513) + strings.Repeat("]", 513) + `"`},
	} {
		if got := string(AppendPayload(nil, []byte(test.payload))); got != test.want {
			t.Errorf("AppendPayload(%.50q) = %.80s, want %.80s", test.payload, got, test.want)
		}
	}
}

func TestAppendMessageAllocations(t *testing.T) {
	m := Message{Topic: "chat.room-7", Event: "said", Payload: []byte(`{"text":"hi"}`), From: "u42", Seq: 46, Prev: 45, Ts: 1760000000000}
	buf := make([]byte, 0, 512)
	if got := testing.AllocsPerRun(100, func() { buf = AppendMessage(buf[:0], &m) }); got != 0 {
		t.Errorf("AppendMessage into a buffer costs %v allocations, want none", got)
	}
	if got := testing.AllocsPerRun(100, func() { buf = AppendOK(buf[:0], 7, nil) }); got != 0 {
		t.Errorf("AppendOK into a buffer costs %v allocations, want none", got)
	}
}

func TestDecodeServer(t *testing.T) {
	frames, err := DecodeServer([]byte(" [ {\"op\":\"ping\"} , {\"id\":0,\"error\":{\"code\":\"NOT_FOUND\"}},{\"event\":\"e\",\"data\":1} ] \n"))
	if err != nil || len(frames) != 3 {
		t.Fatalf("got %d frames, %v, want 3", len(frames), err)
	}
	for i, want := range []Kind{KindControl, KindReply, KindMessage} {
		if frames[i].Kind != want {
			t.Errorf("frame %d: kind %d, want %d", i, frames[i].Kind, want)
		}
	}
	if frames, err := DecodeServer([]byte("[]")); err != nil || len(frames) != 0 {
		t.Errorf("empty array: %v, %v", frames, err)
	}
	for _, s := range []string{"", " ", "null", "[null]", "[1]", "[[]]", "7", `"x"`, "{", `{"id":"7"}`, `{"id":1.5}`, `{"seq":"x"}`, "{}{}", "[{}", `[{"op":"ping"},null]`} {
		if frames, err := DecodeServer([]byte(s)); err == nil || frames != nil {
			t.Errorf("DecodeServer(%q) = %v, %v, want an error", s, frames, err)
		}
	}
	f := ServerFrame{Base64: new(string)}
	*f.Base64 = "%"
	if _, err := f.Payload(); err == nil {
		t.Error("a payload of bad base64 was accepted")
	}
}

// FuzzMessage checks that any payload under any names makes one JSON object
// from which a client reads the same bytes.
func FuzzMessage(f *testing.F) {
	f.Add("chat.lobby", "", "message", "u42", []byte(`{"text":"hi"}`), int64(46))
	f.Add("", "team", "e", "", []byte("hello"), int64(0))
	f.Add("", "", "", "\xff", []byte("\xff"), int64(-1))
	f.Add("a\"b", "", "\n", "\u2028", []byte("\"\\ud800\""), int64(1))
	f.Add("a", "", "e", "", []byte(" {} \n"), int64(1))
	f.Fuzz(func(t *testing.T, topic, group, event, from string, payload []byte, seq int64) {
		m := Message{Topic: topic, Group: group, Event: event, From: from, Payload: payload, Seq: seq, Prev: seq - 1, Ts: seq}
		frame := AppendMessage(nil, &m)
		if !ValidJSON(frame) && depthOf(frame) <= maxDepth {
			t.Fatalf("%+v is sent as %q", m, frame)
		}
		frames, err := DecodeServer(frame)
		if err != nil || len(frames) != 1 || frames[0].Kind != KindMessage {
			t.Fatalf("%q is read as %+v, %v", frame, frames, err)
		}
		got := frames[0]
		valid := utf8.ValidString(event) && utf8.ValidString(topic) && utf8.ValidString(from)
		if valid && (got.Event != event || got.Topic != topic || got.From != from) {
			t.Errorf("%q is read as %+v", frame, got)
		}
		if seq > 0 && (got.Seq != seq || got.Prev != seq-1 || got.Ts != seq) || seq <= 0 && got.Seq != 0 {
			t.Errorf("%q: position %d after %d, want %d", frame, got.Seq, got.Prev, seq)
		}
		want := payload
		switch { // white space around JSON is no part of it
		case len(payload) == 0:
			want = []byte("null")
		case got.Data != nil:
			want = bytes.Trim(payload, " \t\r\n")
		}
		if read, err := got.Payload(); err != nil || !bytes.Equal(read, want) {
			t.Errorf("payload %q is read as %q, %v", payload, read, err)
		}
		for _, reply := range [][]byte{AppendAnswer(nil, 7, payload), AppendProgress(nil, 7, payload), AppendRequest(nil, from, event, payload, 1)} {
			if frames, err := DecodeServer(reply); err != nil || len(frames) != 1 || frames[0].Kind == KindMessage {
				t.Errorf("%q is read as %+v, %v", reply, frames, err)
			}
		}
		progress, err := DecodeServer(AppendProgress(nil, 7, payload))
		if err != nil || progress[0].Progress == nil || progress[0].OK != nil || progress[0].Text != nil || progress[0].Base64 != nil {
			t.Errorf("progress %q is read as %+v, %v", payload, progress, err)
		}
	})
}
