package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestParseBatch(t *testing.T) {
	for _, test := range []struct {
		body string
		want []BatchEvent
	}{
		{`[{}]`, []BatchEvent{{Event: "message"}}},
		{" [ { } ,\n{\t\"data\" : 1 } ] ", []BatchEvent{{Event: "message"}, {Event: "message", Data: []byte("1")}}},
		{`[{"event":"moved","data":{"x": 1.50,  "y":[]},"exclude":"c-17"},{"data":"done"}]`, []BatchEvent{
			{Event: "moved", Data: []byte(`{"x": 1.50,  "y":[]}`), Exclude: "c-17"},
			{Event: "message", Data: []byte(`"done"`)},
		}},
		{`[{"event":null,"data":null,"exclude":null}]`, []BatchEvent{{Event: "message", Data: []byte("null")}}},
		{`[{"event":"a","exclude":"\u0063\"","coalesce":"k","topic":"b c"}]`, []BatchEvent{{Event: "a", Exclude: `c"`}}},
		{`[{"event":"a b","event":"c","data":1,"data":2}]`, []BatchEvent{{Event: "c", Data: []byte("2")}}},
		{`[{"Event":"x","data":"]},{"}]`, []BatchEvent{{Event: "message", Data: []byte(`"]},{"`)}}},
	} {
		got, err := ParseBatch([]byte(test.body))
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s:\ngot  %+v, %v\nwant %+v", test.body, got, err, test.want)
		}
	}
}

func TestParseBatchRefused(t *testing.T) {
	for _, test := range []struct{ body, field string }{
		{``, "batch"},
		{` `, "batch"},
		{`null`, "batch"},
		{`{}`, "batch"},
		{`{"event":"a"}`, "batch"},
		{`[]`, "batch"},
		{`[{}`, "batch"},
		{`[{}]]`, "batch"},
		{`[{},]`, "batch"},
		{`[{}][{}]`, "batch"},
		{"[{\"data\":\"\xff\"}]", "batch"},
		{`[{"data":01}]`, "batch"},
		{`[1]`, "batch[0]"},
		{`[{},null]`, "batch[1]"},
		{`[[{}]]`, "batch[0]"},
		{`[{},"{}"]`, "batch[1]"},
		{`[{"event":""}]`, "batch[0].event"},
		{`[{"event":"a b"}]`, "batch[0].event"},
		{`[{"event":7}]`, "batch[0].event"},
		{`[{},{},{"event":"` + strings.Repeat("e", 65) + `"}]`, "batch[2].event"},
		{`[{"exclude":7}]`, "batch[0].exclude"},
		{`[{"exclude":["c"]}]`, "batch[0].exclude"},
		{`[{"exclude":"\ud800"}]`, "batch[0].exclude"},
	} {
		got, err := ParseBatch([]byte(test.body))
		if err == nil {
			t.Errorf("%s: got %+v, want an error", test.body, got)
			continue
		}
		if e := AsError(err); e.Code != InvalidArgument || e.Details["field"] != test.field {
			t.Errorf("%s: got %v with details %v, want one that names %s", test.body, err, e.Details, test.field)
		}
	}
}

func TestParseBatchLimit(t *testing.T) {
	body := func(n int) []byte { return []byte("[" + strings.TrimSuffix(strings.Repeat("{},", n), ",") + "]") }
	if got, err := ParseBatch(body(MaxBatch)); err != nil || len(got) != MaxBatch {
		t.Errorf("%d events: got %d, %v", MaxBatch, len(got), err)
	}
	if got, err := ParseBatch(body(MaxBatch + 1)); err == nil {
		t.Errorf("%d events: got %d, want an error", MaxBatch+1, len(got))
	}
}

func FuzzParseBatch(f *testing.F) {
	for _, seed := range []string{`[{}]`, `[{"event":"a","data":{"x":[1,"]"]},"exclude":"c"},{"data":null}]`, `[]`, `[1]`, `{"a":[{}]}`, `[{"event":"é"}]`, "[{\"data\":\"\\ud83d\\ude00\"}]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		got, err := ParseBatch(body)
		if !bytes.Equal(before, body) {
			t.Fatal("it wrote into the body")
		}
		if err != nil {
			if got != nil || AsError(err).Code != InvalidArgument {
				t.Fatalf("%d events and %v", len(got), err)
			}
			return
		}
		var all []map[string]json.RawMessage
		if err := json.Unmarshal(body, &all); err != nil {
			t.Fatalf("encoding/json refuses what was taken: %v", err)
		}
		if len(got) != len(all) || len(got) == 0 || len(got) > MaxBatch {
			t.Fatalf("%d events, want %d", len(got), len(all))
		}
		for i, e := range got {
			if CheckEvent(e.Event) != nil || e.Data != nil && !ValidJSON(e.Data) {
				t.Fatalf("event %d: %+v", i, e)
			}
			want, there := all[i]["data"]
			if there != (e.Data != nil) || string(want) != string(e.Data) {
				t.Fatalf("event %d: data %s, want %s", i, e.Data, want)
			}
			frame := AppendMessage(nil, &Message{Topic: "t", Event: e.Event, Payload: e.Data})
			var decoded struct{ Data json.RawMessage }
			if err := json.Unmarshal(frame, &decoded); err != nil {
				t.Fatalf("event %d is sent as %s: %v", i, frame, err)
			}
			if there && string(decoded.Data) != string(e.Data) {
				t.Fatalf("event %d: %s is sent as %s", i, e.Data, decoded.Data)
			}
		}
	})
}

func BenchmarkParseBatch(b *testing.B) {
	var body []byte
	for i := range 50 {
		body = fmt.Appendf(body, `,{"event":"moved","data":{"x":%d,"y":%d,"label":"something"}}`, i, i*i)
	}
	body[0] = '['
	body = append(body, ']')
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := ParseBatch(body); err != nil {
			b.Fatal(err)
		}
	}
}
