package wire

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func batchOf(n int) []byte {
	return []byte(`{"op":"batch","id":1,"messages":[` + strings.TrimSuffix(strings.Repeat(`{"topic":"a"},`, n), ",") + `]}`)
}

func TestBatchLimit(t *testing.T) {
	got := decodeOne(t, batchOf(MaxBatch))
	if got.err != nil || len(got.Messages) != MaxBatch {
		t.Errorf("%d messages: got %d, error %v", MaxBatch, len(got.Messages), got.err)
	}
	got = decodeOne(t, batchOf(MaxBatch+1))
	if got.err == nil || got.err.Details["field"] != "messages" || got.ID != 1 {
		t.Errorf("%d messages: got id %d, error %v, want an error that names messages", MaxBatch+1, got.ID, got.err)
	}
}

func TestBatchRefused(t *testing.T) {
	for _, test := range []struct{ messages, field string }{
		{`null`, "messages"},
		{`{}`, "messages"},
		{`"x"`, "messages"},
		{`[1]`, "messages"},
		{`[null]`, "messages"},
		{`[[]]`, "messages"},
		{`[{}]`, "messages[0].topic"},
		{`[{"topic":"a"},{"topic":null}]`, "messages[1].topic"},
		{`[{"topic":"a"},{"topic":7}]`, "messages[1].topic"},
		{`[{"topic":"a.*"}]`, "messages[0].topic"},
		{`[{"topic":"a","event":"a b"}]`, "messages[0].event"},
		{`[{"topic":"a","event":1}]`, "messages[0].event"},
		{`[{"topic":"a","key":""}]`, "messages[0].key"},
		{`[{"topic":"a","key":{}}]`, "messages[0].key"},
		{`[{"topic":"a","topic":"b c"}]`, "messages[0].topic"},
	} {
		got := decodeOne(t, fmt.Appendf(nil, `{"op":"batch","id":1,"messages":%s}`, test.messages))
		if got.err == nil || got.err.Details["field"] != test.field {
			t.Errorf("%s: got error %v with details %v, want one that names %s", test.messages, got.err, got.err.Details, test.field)
			continue
		}
		if prefix := test.field + ": "; !strings.HasPrefix(got.err.Message, prefix) || strings.HasPrefix(got.err.Message[len(prefix):], "topic: ") {
			t.Errorf("%s: message %q", test.messages, got.err.Message)
		}
	}
	for _, frame := range []string{`{"op":"batch","id":1}`, `{"op":"batch","messages":[]}`, `{"op":"batch","id":1,"messages":[],"atomic":1}`} {
		if got := decodeOne(t, []byte(frame)); got.err == nil {
			t.Errorf("%s: accepted", frame)
		}
	}
}

func TestBatchMessages(t *testing.T) {
	got := decodeOne(t, []byte(` {"op":"batch","id":1,"messages": [ {"topic":"a","event":null,"key":null,"x":[{}]} ,
		{"topic":7,"topic":"b","event":"a b","event":"e","key":1,"key":"k","data":0,"data":{"a":[1,2]}} ,{"event":"e","event":null,"topic":"c"}] }`))
	want := []BatchMessage{
		{Topic: "a", Event: "message"},
		{Topic: "b", Event: "e", Key: "k", Data: []byte(`{"a":[1,2]}`)},
		{Topic: "c", Event: "message"},
	}
	if got.err != nil || !reflect.DeepEqual(got.Messages, want) {
		t.Errorf("got  %+v (error %v)\nwant %+v", got.Messages, got.err, want)
	}
}
