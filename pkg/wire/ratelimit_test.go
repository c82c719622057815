package wire

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func costOf(n int64) *int64 { return &n }

func TestLimitRequestParsesItself(t *testing.T) {
	for text, want := range map[string]LimitRequest{
		`{}`:                                 {},
		` {"policy":"p","key":"a\u00e9\n"} `: {LimitTake: LimitTake{Policy: "p", Key: "aé\n"}},
		`{"policy":"p","key":"k","cost":0,"later":{"key":"x"}}`:          {LimitTake: LimitTake{Policy: "p", Key: "k", Cost: costOf(0)}},
		`{"policy":"p","key":"k","cost":9223372036854775807}`:            {LimitTake: LimitTake{Policy: "p", Key: "k", Cost: costOf(1<<63 - 1)}},
		`{"policy":null,"cost":null,"n":null,"takes":null,"batch":null}`: {},
		`{"takes":[]}`: {Takes: []LimitTake{}},
		`{"takes":[{"policy":"p","key":"k"} , {"policy":"q","key":"l","cost":3}]}`:      {Takes: []LimitTake{{Policy: "p", Key: "k"}, {Policy: "q", Key: "l", Cost: costOf(3)}}},
		"{\"batch\":\t[ {\"policy\":\"p\",\"key\":\"k\",\"n\":100000,\"cost\":2}\n]\r}": {Batch: []LimitTake{{Policy: "p", Key: "k", N: 100000, Cost: costOf(2)}}},
	} {
		var got LimitRequest
		if err := got.ParseJSON([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
		var again LimitRequest
		if err := again.ParseJSON(got.AppendJSON(nil)); err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%s: written as %s, which is %+v, %v", text, got.AppendJSON(nil), again, err)
		}
	}
}

func TestLimitRequestNamesWhatIsWrong(t *testing.T) {
	for text, field := range map[string]string{
		`{"policy":"p"`: "request", `[]`: "request", `"x"`: "request", `null`: "request",
		`{"policy":1}`: "policy", `{"key":{}}`: "key", `{"key":"\ud800"}`: "key",
		`{"cost":-1}`: "cost", `{"cost":1.5}`: "cost", `{"cost":"1"}`: "cost", `{"cost":1e3}`: "cost", `{"cost":9223372036854775808}`: "cost", `{"cost":true}`: "cost",
		`{"takes":{}}`: "takes", `{"batch":"x"}`: "batch", `{"takes":[1]}`: "takes[0]", `{"batch":[{},null]}`: "batch[1]",
		`{"takes":[{"cost":1},{"cost":-2}]}`: "takes[1].cost", `{"batch":[{"policy":[]}]}`: "batch[0].policy",
		`{"batch":[{"n":0}]}`: "batch[0].n", `{"batch":[{"n":-3}]}`: "batch[0].n", `{"batch":[{"n":100001}]}`: "batch[0].n", `{"batch":[{"n":2.5}]}`: "batch[0].n", `{"n":0}`: "n",
	} {
		var req LimitRequest
		var coded *Error
		if err := req.ParseJSON([]byte(text)); !errors.As(err, &coded) || coded.Code != InvalidArgument || coded.Details["field"] != field {
			t.Errorf("%s: got %v, want INVALID_ARGUMENT about %s", text, err, field)
		}
	}
}

// However many a request holds, no more are read than show that they are too many.
func TestLimitRequestReadsNoMoreThanItMay(t *testing.T) {
	var req LimitRequest
	text := `{"takes":[` + strings.Repeat(`{"policy":"p","key":"k"},`, 50_000) + `{}]}`
	if err := req.ParseJSON([]byte(text)); err != nil || len(req.Takes) != MaxLimitTakes+1 {
		t.Errorf("got %d takes, %v, want %d", len(req.Takes), err, MaxLimitTakes+1)
	}
}

func TestLimitReplyWritesItself(t *testing.T) {
	for want, reply := range map[string]LimitReply{
		`{"allowed":true,"remaining":4,"limit":5,"resetMs":100}`:                      {LimitVerdict: LimitVerdict{Allowed: true, Remaining: 4, Limit: 5, ResetMs: 100}},
		`{"allowed":false,"remaining":0,"limit":5,"resetMs":2500,"retryAfterMs":500}`: {LimitVerdict: LimitVerdict{Limit: 5, ResetMs: 2500, RetryAfterMs: 500}},
		`{"allowed":false,"remaining":5,"limit":5,"resetMs":0,"retryAfterMs":null}`:   {LimitVerdict: LimitVerdict{Remaining: 5, Limit: 5, RetryAfterMs: -1}},
		`{"allowed":false,"remaining":0,"limit":5,"resetMs":9,"retryAfterMs":9,"banned":true,"revision":18446744073709551615,"version":"\"v"}`: {
			LimitVerdict: LimitVerdict{Limit: 5, ResetMs: 9, RetryAfterMs: 9, Banned: true, Revision: 1<<64 - 1, Version: `"v`}},
		`{"allowed":true,"remaining":0,"limit":5,"resetMs":9,"shadowed":true,"takes":[{"allowed":true,"remaining":0,"limit":5,"resetMs":9,"shadowed":true}]}`: {
			LimitVerdict: LimitVerdict{Allowed: true, Limit: 5, ResetMs: 9, Shadowed: true}, Takes: []LimitVerdict{{Allowed: true, Limit: 5, ResetMs: 9, Shadowed: true}}},
		`{"allowed":false,"remaining":0,"limit":5,"resetMs":9,"retryAfterMs":9,"batch":[{"allowed":false,"remaining":0,"limit":5,"resetMs":9,"retryAfterMs":9,"granted":0},{"allowed":true,"remaining":1,"limit":5,"resetMs":9,"granted":4}]}`: {
			LimitVerdict: LimitVerdict{Limit: 5, ResetMs: 9, RetryAfterMs: 9}, Batch: []LimitVerdict{{Limit: 5, ResetMs: 9, RetryAfterMs: 9}, {Allowed: true, Remaining: 1, Limit: 5, ResetMs: 9, Granted: 4}}},
		`{"allowed":false,"remaining":1,"limit":5,"resetMs":9,"batch":[{"allowed":false,"remaining":0,"limit":0,"resetMs":0,"granted":0,"code":"DEADLINE_EXCEEDED"},{"allowed":true,"remaining":1,"limit":5,"resetMs":9,"granted":1}]}`: {
			LimitVerdict: LimitVerdict{Remaining: 1, Limit: 5, ResetMs: 9}, Batch: []LimitVerdict{{Code: DeadlineExceeded}, {Allowed: true, Remaining: 1, Limit: 5, ResetMs: 9, Granted: 1}}},
	} {
		got := reply.AppendJSON(nil)
		if string(got) != want {
			t.Errorf("got %s, want %s", got, want)
		}
		var back LimitReply
		if err := back.ParseJSON(got); err != nil || !reflect.DeepEqual(back, reply) {
			t.Errorf("%s: read as %+v, %v", got, back, err)
		}
		var slow struct { // what encoding/json makes of it
			LimitVerdict
			Takes, Batch []LimitVerdict
		}
		if err := json.Unmarshal(got, &slow); err != nil || !reflect.DeepEqual(LimitReply(slow), reply) {
			t.Errorf("%s: another reader has %+v, %v", got, slow, err)
		}
	}
}

func TestLimitReplyRefusesWhatItIsNot(t *testing.T) {
	for _, text := range []string{``, `{`, `[]`, `{"allowed":1}`, `{"remaining":"x"}`, `{"revision":-1}`, `{"version":1}`, `{"code":1}`, `{"takes":{}}`, `{"batch":[1]}`, `{"limit":1.5}`} {
		var reply LimitReply
		if err := reply.ParseJSON([]byte(text)); err == nil {
			t.Errorf("%s: got %+v, want an error", text, reply)
		}
	}
}

// The decoder of requests takes whatever comes, agrees with encoding/json about
// what it takes, and reads what it writes.
func FuzzLimitRequest(f *testing.F) {
	for _, seed := range []string{
		`{"policy":"p","key":"k","cost":3}`, `{"takes":[{"policy":"p","key":"k"},{"policy":"q","key":"k","cost":0}]}`,
		`{"batch":[{"policy":"p","key":"k","n":5,"cost":2}]}`, `{"key":"\u0000\ud83d\ude00"}`, `{"takes":[],"batch":null}`, ``, `{"n":0}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got LimitRequest
		err := got.ParseJSON(data)
		if err != nil {
			var coded *Error
			if !errors.As(err, &coded) || coded.Code != InvalidArgument || coded.Details["field"] == "" {
				t.Fatalf("%q: %v names no field", data, err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatalf("%q is no JSON and was read as %+v", data, got)
		}
		if got.N < 0 || got.N > MaxLimitRepeats || got.Cost != nil && *got.Cost < 0 || len(got.Takes) > MaxLimitTakes+1 || len(got.Batch) > MaxLimitTakes+1 {
			t.Fatalf("%q was read as %+v", data, got)
		}
		var again LimitRequest
		if err := again.ParseJSON(got.AppendJSON(nil)); err != nil {
			t.Fatalf("%q: written as %s, which is %v", data, got.AppendJSON(nil), err)
		}
		if written, twice := got.AppendJSON(nil), again.AppendJSON(nil); string(written) != string(twice) {
			t.Fatalf("%q: written as %s, then as %s", data, written, twice)
		}
	})
}

func BenchmarkLimitRequest(b *testing.B) {
	data := []byte(`{"policy":"messages","key":"user-4711","cost":1}`)
	b.ReportAllocs()
	for b.Loop() {
		var req LimitRequest
		if err := req.ParseJSON(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLimitReply(b *testing.B) {
	reply := LimitReply{LimitVerdict: LimitVerdict{Allowed: true, Remaining: 99, Limit: 100, ResetMs: 10, Revision: 123456, Version: "abc"}}
	b.ReportAllocs()
	for b.Loop() {
		if len(reply.AppendJSON(nil)) == 0 {
			b.Fatal("nothing written")
		}
	}
}
