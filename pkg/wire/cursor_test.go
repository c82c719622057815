package wire

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// goldenCursors are the frames of cursors.
func goldenCursors() []goldenServerFrame {
	const topic = "doc.7"
	point := json.RawMessage(`{"x":10,"y":20}`)
	odd := json.RawMessage(`{"n" : 1.0,"s":"<&>"}`)
	ann := AppendCursor(nil, "ann", point)
	both := AppendCursor(ann, `b"ä`, odd)
	one, two := map[string]json.RawMessage{"ann": point}, map[string]json.RawMessage{"ann": point, `b"ä`: odd}
	gone := AppendCursorGone(AppendCursorGone(nil, "cid"), `d"`)
	cursors := func(name string, frame []byte, f ServerFrame) goldenServerFrame {
		f.Kind, f.Op, f.Topic = KindControl, "cursors", topic
		return goldenServerFrame{"server-cursors-" + name, frame, f}
	}
	return []goldenServerFrame{
		cursors("all", AppendCursorsAll(nil, topic, both), ServerFrame{All: two}),
		cursors("all-empty", AppendCursorsAll(nil, topic, nil), ServerFrame{All: map[string]json.RawMessage{}}),
		cursors("moved", AppendCursorsMoved(nil, topic, ann, nil), ServerFrame{Moved: one}),
		cursors("gone", AppendCursorsMoved(nil, topic, nil, gone), ServerFrame{Gone: []string{"cid", `d"`}}),
		cursors("moved-gone", AppendCursorsMoved(nil, topic, ann, gone), ServerFrame{Moved: one, Gone: []string{"cid", `d"`}}),
	}
}

func TestAppendCursorsKeepsWhatIsThere(t *testing.T) {
	m := &CursorMessage{Gateway: "g", Topic: "a", Ask: true, Whole: true, Page: 2, More: true}
	for name, frame := range map[string][]byte{
		"all":     AppendCursorsAll([]byte("x"), "a", nil),
		"moved":   AppendCursorsMoved([]byte("x"), "a", nil, nil),
		"message": AppendCursorMessage([]byte("x"), m, nil, nil),
	} {
		if frame[0] != 'x' || !ValidJSON(frame[1:]) {
			t.Errorf("%s: got %s, want x and an object", name, frame)
		}
	}
}

// encoded is what a gateway sends for m.
func encoded(m *CursorMessage) []byte {
	var moved, gone []byte
	for i := range m.Moved {
		moved = AppendCursorMove(moved, &m.Moved[i])
	}
	for _, g := range m.Gone {
		gone = AppendCursorEnd(gone, g)
	}
	return AppendCursorMessage(nil, m, moved, gone)
}

func TestCursorMessageRoundTrip(t *testing.T) {
	for want, m := range map[string]CursorMessage{
		`{"gateway":"g1"}`:            {Gateway: "g1"},
		`{"gateway":"g1","ask":true}`: {Gateway: "g1", Ask: true},
		`{"gateway":"g1","moved":{"ann":{"at":7,"data":{"x" : 1.0}},"b\"":{"at":9,"age":1200,"data":0}}}`: {
			Gateway: "g1", Moved: []CursorMove{{"ann", 7, 0, []byte(`{"x" : 1.0}`)}, {`b"`, 9, 1200, []byte("0")}}},
		`{"gateway":"g1","moved":{"ann":{"at":7,"data":""}},"gone":{"bob":3,"cid":{"at":4,"age":1200}}}`: {
			Gateway: "g1", Moved: []CursorMove{{"ann", 7, 0, []byte(`""`)}}, Gone: []CursorGone{{"bob", 3, 0}, {"cid", 4, 1200}}},
		`{"gateway":"g1","topic":"doc.7","whole":true,"page":2,"more":true}`: {Gateway: "g1", Topic: "doc.7", Whole: true, Page: 2, More: true},
	} {
		got := encoded(&m)
		if string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		back, err := DecodeCursorMessage(got)
		if err != nil || !reflect.DeepEqual(*back, m) {
			t.Errorf("%s: decoded %+v, %v, want %+v", got, back, err, m)
		}
	}
}

func TestCursorMessagesThatAreRefused(t *testing.T) {
	ann := func(s string) string { return `{"gateway":"g","moved":{"ann":` + s + `}}` }
	for _, s := range []string{
		"", " ", "null", "[]", "1", "{}", `{"gateway":""}`, `{"gateway":1}`, `{"gateway":"g"`, `{"gateway":"g","topic":"a..b"}`,
		`{"gateway":"g","ask":1}`, `{"gateway":"g","whole":"x"}`, `{"gateway":"g","page":-1}`, `{"gateway":"g","more":null}`,
		`{"gateway":"g","moved":[]}`, `{"gateway":"g","moved":null}`, `{"gateway":"g","moved":{"":{"at":1,"data":1}}}`,
		`{"gateway":"g","moved":{"a\u0001":{"at":1,"data":1}}}`, `{"gateway":"g","moved":{" a":{"at":1,"data":1}}}`,
		ann(`1`), ann(`{}`), ann(`{"at":1}`), ann(`{"data":1}`), ann(`{"at":0,"data":1}`), ann(`{"at":1,"data":null}`),
		ann(`{"at":1,"age":-1,"data":1}`), ann(`{"at":1.5,"data":1}`), ann(`{"at":9007199254740992,"data":1}`),
		ann(`{"at":1,"data":"` + strings.Repeat("x", MaxCursorData-1) + `"}`),
		`{"gateway":"g","gone":["ann"]}`, `{"gateway":"g","gone":{"ann":0}}`, `{"gateway":"g","gone":{"":1}}`, `{"gateway":"g","gone":{"ann":"1"}}`,
		`{"gateway":"g","gone":{"ann":{}}}`, `{"gateway":"g","gone":{"ann":{"age":1}}}`, `{"gateway":"g","gone":{"ann":{"at":0}}}`,
		`{"gateway":"g","gone":{"ann":{"at":1,"age":-1}}}`, `{"gateway":"g","gone":{"bob":[1],"ann":1}}`,
		`{"gateway":"g","gone":{"a":1` + strings.Repeat(`,"a":1`, cursorEntries) + `}}`,
		`{"gateway":"g","moved":{"a":{"at":1,"data":1}` + strings.Repeat(`,"a":{"at":1,"data":1}`, cursorEntries) + `}}`,
	} {
		if m, err := DecodeCursorMessage([]byte(s)); err == nil {
			t.Errorf("%s: got %+v, want an error", s, m)
		}
	}
	if m, err := DecodeCursorMessage([]byte(`{"gateway":"g","gone":{"a":1` + strings.Repeat(`,"a":1`, cursorEntries-1) + `}}`)); err != nil || len(m.Gone) != cursorEntries {
		t.Errorf("as many as there may be: %v", err)
	}
	if _, err := DecodeCursorMessage([]byte(` {"new":[1],"gateway":"g","moved":{"ann":{"at":1,"tint":"red","data":"` + strings.Repeat("x", MaxCursorData-2) + `"}}} `)); err != nil {
		t.Errorf("a message with members that are not known: %v", err)
	}
}

// FuzzCursorMessage checks that no peer can make a gateway panic, and that what
// it takes stays what it is when it is sent on.
func FuzzCursorMessage(f *testing.F) {
	for _, s := range []string{
		`{"gateway":"g1","moved":{"ann":{"at":7,"data":{"x":1}},"b\"":{"at":9,"age":1200,"data":0}},"gone":{"bob":3,"cid":{"at":4,"age":5}}}`,
		`{"gateway":"g1","topic":"doc.7","whole":true,"page":2,"more":true}`, `{"gateway":"g1","ask":true}`, `{}`, `{"gateway":"\ud800"}`,
		`{"gateway":"g","moved":{"a":{"at":1,"data":1},"a":{"at":2,"data":2}},"moved":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeCursorMessage(data)
		if err != nil {
			return
		}
		for _, move := range m.Moved {
			if CheckUser(move.User) != nil || move.At <= 0 || move.AgeMs < 0 || len(move.Data) > MaxCursorData || !ValidJSON(move.Data) {
				t.Errorf("%s: took %+v", data, move)
			}
		}
		if !m.Whole { // what says nothing without it is not sent
			m.Page, m.More = 0, false
		}
		again := encoded(m)
		back, err := DecodeCursorMessage(again)
		if err != nil {
			t.Fatalf("%s: sent on as %s: %v", data, again, err)
		}
		if len(m.Moved) == 0 {
			m.Moved = nil
		}
		if len(m.Gone) == 0 {
			m.Gone = nil
		}
		if !reflect.DeepEqual(back, m) {
			t.Errorf("%s: got %+v, want %+v", again, back, m)
		}
	})
}
