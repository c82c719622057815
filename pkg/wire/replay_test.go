package wire

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func samplePage() ReplayPage {
	return ReplayPage{
		Messages: []ReplayMessage{
			{Position: Position{45, 1760000000000}, Prev: 44, Event: "said", Payload: []byte(`{"a" : [1.50,  "é"]}`), User: `ann "a"`, Exclude: "conn-1"},
			{Position: Position{46, 1760000000001}, Prev: 45, Event: "message", Payload: []byte("no JSON\n")},
			{Position: Position{47, 1760000000001}, Prev: 46, Event: "message", Payload: []byte{0, 0xff}},
			{Position: Position{48, 1760000000002}, Event: "message", Payload: []byte("null")},
		},
		Base: Position{Seq: 44}, Head: Position{48, 1760000000002}, At: Position{48, 1760000000002},
		Truncated: true, MissingFrom: 12, More: true,
	}
}

func TestReplayPage(t *testing.T) {
	full := samplePage()
	empty := ReplayPage{Messages: []ReplayMessage{}, Base: Position{7, -1760000000000}, At: Position{9, -1760000000001}}
	for _, c := range []struct {
		page ReplayPage
		want string
	}{
		{full, `{"messages":[` +
			`{"event":"said","data":{"a" : [1.50,  "é"]},"from":"ann \"a\"","seq":45,"prev":44,"ts":1760000000000,"exclude":"conn-1"},` +
			`{"event":"message","text":"no JSON\n","seq":46,"prev":45,"ts":1760000000001},` +
			`{"event":"message","base64":"AP8=","seq":47,"prev":46,"ts":1760000000001},` +
			`{"event":"message","data":null,"seq":48,"prev":0,"ts":1760000000002}],` +
			`"seq":48,"ts":1760000000002,"truncated":true,"missingFrom":12,"more":true,"base":{"seq":44},"at":{"seq":48,"ts":1760000000002}}`},
		{empty, `{"messages":[],"seq":0,"ts":0,"truncated":false,"more":false,"base":{"seq":7,"ts":-1760000000000},"at":{"seq":9,"ts":-1760000000001}}`},
	} {
		got := c.page.AppendJSON(nil)
		if string(got) != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
		var read ReplayPage
		if err := json.Unmarshal(got, &read); err != nil || !reflect.DeepEqual(read, c.page) {
			t.Errorf("%s is read as %+v, %v", got, read, err)
		}
	}
	if got := string(full.AppendJSON([]byte("kept"))); !strings.HasPrefix(got, `kept{"messages"`) {
		t.Errorf("appended: %.20s", got)
	}
}

// What a page can't be is refused, with the field where there is one to name.
func TestReplayPageRefuses(t *testing.T) {
	for _, s := range []string{
		``, `1`, `"x"`, `[]`, `{"messages":{}}`, `{"messages":[1]}`, `{"seq":"7"}`, `{"base":7}`, `{"truncated":1}`,
		`{"messages":[{"seq":1.5}]}`, `{"messages":[{"base64":"%"}]}`,
	} {
		var page ReplayPage
		if err := json.Unmarshal([]byte(s), &page); err == nil {
			t.Errorf("%s is read as %+v", s, page)
		}
	}
}

// A payload as deep as is taken for JSON anywhere comes through a page too.
func TestReplayPageOfADeepPayload(t *testing.T) {
	for _, depth := range []int{maxDepth - 1, maxDepth, maxDepth + 1, 20000} {
		payload := []byte(strings.Repeat("[", depth) + strings.Repeat("]", depth))
		page := ReplayPage{Messages: []ReplayMessage{{Position: Position{1, 1}, Event: "e", Payload: payload}}}
		var read ReplayPage
		if err := json.Unmarshal(page.AppendJSON(nil), &read); err != nil {
			t.Errorf("depth %d: %v", depth, err)
		} else if got := read.Messages[0].Payload; !bytes.Equal(got, payload) {
			t.Errorf("depth %d: %d bytes, want %d", depth, len(got), len(payload))
		}
	}
}

// FuzzReplayPage checks that whatever was published comes out of a page as it
// went in, with its place.
func FuzzReplayPage(f *testing.F) {
	for _, m := range samplePage().Messages {
		f.Add(m.Payload, m.Event, m.User, m.Exclude, m.Seq, m.Prev, m.Ts, false)
	}
	f.Add([]byte(" {} \n"), "", "\u2028", "\"\\", int64(1), int64(-1), int64(-1), true)
	f.Add([]byte(""), "e", "", "", int64(1<<53), int64(1<<62), int64(1<<62), true)
	f.Add([]byte(`"\ud800"`), "e", "u", "c", int64(2), int64(1), int64(0), false)
	f.Fuzz(func(t *testing.T, payload []byte, event, user, exclude string, seq, prev, ts int64, flag bool) {
		if seq <= 0 || !utf8.ValidString(event) || !utf8.ValidString(user) || !utf8.ValidString(exclude) {
			return // no stored message
		}
		m := ReplayMessage{Position: Position{seq, ts}, Prev: prev, Event: event, Payload: payload, User: user, Exclude: exclude}
		page := ReplayPage{
			Messages: []ReplayMessage{m, m}, Base: Position{prev, -ts}, Head: Position{seq, ts}, At: Position{seq, ts},
			Truncated: flag, More: !flag,
		}
		if flag {
			page.MissingFrom = seq
		}
		data := page.AppendJSON(nil)
		var read ReplayPage
		if err := json.Unmarshal(data, &read); err != nil || len(read.Messages) != 2 {
			t.Fatalf("%q: %v", data, err)
		}
		switch { // white space around JSON is no part of it
		case len(payload) == 0:
			payload = []byte("null")
		case ValidJSON(payload):
			payload = bytes.Trim(payload, " \t\r\n")
		}
		for i := range page.Messages {
			page.Messages[i].Payload = payload
		}
		if !reflect.DeepEqual(read, page) {
			t.Errorf("%q\nread  %+v\nwrote %+v", data, read, page)
		}
	})
}

// FuzzReadReplay checks that nothing that comes as an answer or a request of
// the replay service panics, and that what was read once is read the same again.
func FuzzReadReplay(f *testing.F) {
	page := samplePage()
	f.Add(page.AppendJSON(nil))
	for _, v := range []any{
		ReplayTopic{"chat.a"}, ReplayHead{Seq: 1, Ts: 2, At: Position{1, 2}}, ReplayAfter{"chat.a", 1, -2},
		ReplayHeadsRequest{[]ReplayAfter{{"chat.a", 1, 2}}}, ReplayHeads{[]Position{{1, 2}, {}}, 7},
		ReplaySinceRequest{"chat.a", 1, 2, 3, 4}, ReplayGap{true, 2, 3},
		ReplayBatch{[]ReplayPublish{{"chat.a", "e", json.RawMessage(`{"a" :1}`), "p", "k"}}, true},
		ReplayResults{[]ReplayResult{{1, true, nil}, {0, false, json.RawMessage(`{"code":"INTERNAL"}`)}}},
		ReplayTopicsRequest{"chat.>", 1, "chat.a"}, ReplayTopics{[]ReplaySummary{{"chat.a", 1, 2}}, "chat.a"},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, s := range []string{``, `null`, `[]`, `{"messages":null}`, `{"messages":[null,{}]}`, `{"after":1e3}`, `{"after":9223372036854775808}`, `{"topics":[null]}`, `{"data":null}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		readAgain[ReplayTopic](t, data)
		readAgain[ReplayHead](t, data)
		readAgain[ReplayAfter](t, data)
		readAgain[ReplayHeadsRequest](t, data)
		readAgain[ReplayHeads](t, data)
		readAgain[ReplaySinceRequest](t, data)
		readAgain[ReplayGap](t, data)
		readAgain[ReplayPublish](t, data)
		readAgain[ReplayStored](t, data)
		readAgain[ReplayBatch](t, data)
		readAgain[ReplayResults](t, data)
		readAgain[ReplayTopicsRequest](t, data)
		readAgain[ReplayTopics](t, data)

		var page, again ReplayPage
		if json.Unmarshal(data, &page) != nil {
			return
		}
		for i := range page.Messages {
			if page.Messages[i].Seq <= 0 {
				return // nothing that a page is written of
			}
		}
		written := page.AppendJSON(nil)
		if err := json.Unmarshal(written, &again); err != nil {
			t.Fatalf("%q, read from %q: %v", written, data, err)
		}
		if twice := again.AppendJSON(nil); !bytes.Equal(twice, written) {
			t.Errorf("%q\nis written as %q\nthen as       %q", data, written, twice)
		}
	})
}

// readAgain reads a value, writes it, and reads that.
func readAgain[T any](t *testing.T, data []byte) {
	var v, again T
	if json.Unmarshal(data, &v) != nil {
		return
	}
	written, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%T of %q: %v", v, data, err)
	}
	if err := json.Unmarshal(written, &again); err != nil {
		t.Fatalf("%T of %q, written as %q: %v", v, data, written, err)
	}
	if twice, err := json.Marshal(again); err != nil || !bytes.Equal(twice, written) {
		t.Errorf("%T of %q is written as %q, then as %q: %v", v, data, written, twice, err)
	}
}
