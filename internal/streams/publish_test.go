package streams

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Topic, publisher and key each make another id, whatever separators stand in
// them.
func TestMessageIDsNeverMeet(t *testing.T) {
	parts := []string{"", "a", "b", "a:b", ":", "::", "a:", ":a", "a=3Ab", "=3A", "1", "a:1", "a b", "ä", "A"}
	seen := map[string]string{}
	for _, topic := range []string{"t", "t.a", "t:a", "t.a:b"} {
		for _, publisher := range parts {
			for _, key := range parts {
				for salt := -1; salt < 3; salt++ {
					what := fmt.Sprintf("%q %q %q %d", topic, publisher, key, salt)
					id := MessageID(topic, publisher, key, salt)
					if salt < 0 {
						what, id = "producer "+what, ProducerID(topic, publisher, key)
					}
					if other, ok := seen[id]; ok {
						t.Fatalf("%s and %s are both %s", other, what, id)
					}
					if !wire.ValidHeaderValue(id) {
						t.Errorf("%s: %q can't stand in a header", what, id)
					}
					seen[id] = what
				}
			}
		}
	}
	if a, b := MessageID("t", "ann", "k", 0), MessageID("t", "ann", "k", 0); a != b {
		t.Errorf("the same message is %s and %s", a, b)
	}
	if id := MessageID(strings.Repeat("t", 255), strings.Repeat("ü", 64), strings.Repeat("ü", 64), 3); len(id) > 1024 {
		t.Errorf("the longest id has %d bytes", len(id))
	}
}

func TestParseAck(t *testing.T) {
	reply := func(body string) *nats.Msg { return &nats.Msg{Data: []byte(body)} }
	failed := func(code, errCode int) *nats.Msg {
		return reply(fmt.Sprintf(`{"error":{"code":%d,"err_code":%d,"description":"why"},"stream":"FL_CHAT","seq":0}`, code, errCode))
	}
	for _, c := range []struct {
		what    string
		msg     *nats.Msg
		code    wire.Code // "": stored
		outcome string
		retry   bool
	}{
		{"stored", reply(`{"stream":"FL_CHAT","seq":7}`), "", "", false},
		{"stored before", reply(`{"stream":"FL_CHAT","seq":7,"duplicate":true}`), "", "", false},
		{"of a domain", reply(`{"stream":"FL_CHAT","domain":"hub","seq":7,"batch":"b","count":3}`), "", "", false},

		{"nobody listens", &nats.Msg{Header: nats.Header{"Status": {"503"}}}, wire.Unavailable, "none", true},
		{"no quorum", failed(503, 10008), wire.Unavailable, "none", true},
		{"no resources", failed(503, 10023), wire.Unavailable, "none", true},
		{"the store failed", failed(503, 10077), wire.Unavailable, "none", true},
		{"the first one is being stored", failed(409, 10158), wire.Unavailable, "unknown", true},
		{"the batch was dropped", failed(400, 10176), wire.Unavailable, "none", true},
		{"too many batches", failed(429, 10210), wire.Unavailable, "none", true},
		{"unavailable for a reason of tomorrow", failed(503, 19999), wire.Unavailable, "none", true},

		{"the disk is full", failed(500, 10047), wire.Unavailable, "none", false},
		{"memory is full", failed(500, 10028), wire.Unavailable, "none", false},
		{"too large", failed(400, 10054), wire.ResourceExhausted, "none", false},
		{"a key of the batch was stored before", failed(400, 10201), wire.AlreadyExists, "none", false},
		{"wrong last sequence", failed(400, 10071), wire.FailedPrecondition, "none", false},
		{"a message TTL", failed(400, 10166), wire.FailedPrecondition, "none", false},
		{"sealed", failed(400, 10109), wire.FailedPrecondition, "none", false},
		{"batches are off", failed(400, 10174), wire.FailedPrecondition, "none", false},
		{"an error without numbers", reply(`{"error":{}}`), wire.FailedPrecondition, "none", false},

		{"nothing", reply(``), wire.Unavailable, "unknown", false},
		{"no JSON", reply(`+OK`), wire.Unavailable, "unknown", false},
		{"of another kind", reply(`{"stream":7}`), wire.Unavailable, "unknown", false},
		{"an empty object", reply(`{}`), wire.Unavailable, "unknown", false},
		{"null", reply(`null`), wire.Unavailable, "unknown", false},
		{"no stream", reply(`{"seq":7}`), wire.Unavailable, "unknown", false},
		{"no sequence", reply(`{"stream":"FL_CHAT"}`), wire.Unavailable, "unknown", false},
		{"a negative sequence", reply(`{"stream":"FL_CHAT","seq":-7}`), wire.Unavailable, "unknown", false},
		{"a body with a status", &nats.Msg{Header: nats.Header{"Status": {"503"}}, Data: []byte("x")}, wire.Unavailable, "unknown", false},
	} {
		ack, retry, err := ParseAck(c.msg)
		if c.code == "" {
			if err != nil || retry || ack.Seq != 7 || ack.Stream != "FL_CHAT" || ack.Duplicate != (c.what == "stored before") {
				t.Errorf("%s: %+v, retry %v, %v", c.what, ack, retry, err)
			}
			continue
		}
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != c.code || e.Details["outcome"] != c.outcome || retry != c.retry || ack != (Ack{}) {
			t.Errorf("%s: %+v, retry %v, %v; want %s, outcome %s, retry %v", c.what, ack, retry, err, c.code, c.outcome, c.retry)
		}
	}
	_, _, err := ParseAck(failed(400, 10054))
	if ms, null, _ := wire.AsError(err).RetryAfterMs(); !null {
		t.Errorf("too large: retry after %d ms, want never", ms)
	}
}

// FuzzParseAck: whatever comes to a reply subject, it is an acknowledgement
// with a place or an error with an outcome; only what is certainly not stored
// may be sent again at once.
func FuzzParseAck(f *testing.F) {
	for _, s := range []string{
		`{"stream":"S","seq":1}`, `{"stream":"S","seq":1,"duplicate":true}`, `{"error":{"code":503,"err_code":10008,"description":"x"}}`,
		`{"error":{"code":400,"err_code":10054}}`, `{"error":null,"stream":"S","seq":-1}`, `{"Stream":"S","SEQ":1e3}`, ``, `[]`, `null`, `{"error":[]}`,
	} {
		f.Add([]byte(s), "")
		f.Add([]byte(s), "503")
	}
	f.Fuzz(func(t *testing.T, data []byte, status string) {
		msg := &nats.Msg{Data: data}
		if status != "" {
			msg.Header = nats.Header{"Status": {status}}
		}
		ack, retry, err := ParseAck(msg)
		if err == nil {
			if ack.Stream == "" || ack.Seq <= 0 || retry {
				t.Errorf("%q: %+v, retry %v", data, ack, retry)
			}
			return
		}
		var e *wire.Error
		if !errors.As(err, &e) || !e.Code.Known() || ack != (Ack{}) {
			t.Fatalf("%q: %+v, %v", data, ack, err)
		}
		outcome := e.Details["outcome"]
		if outcome != "none" && outcome != "unknown" || retry && outcome != "none" {
			t.Errorf("%q: outcome %v, retry %v", data, outcome, retry)
		}
		if body, err := json.Marshal(e); err != nil || !wire.ValidJSON(body) {
			t.Errorf("%q: the error is %s, %v", data, body, err)
		}
	})
}

func TestBatch(t *testing.T) {
	msgs := []*nats.Msg{{Subject: "a"}, {Subject: "b", Header: nats.Header{"Fl-Event": {"said"}, "Nats-Batch-Id": {"old"}}}, {Subject: "c"}}
	Batch("one", msgs)
	for i, m := range msgs {
		if got, want := fmt.Sprint(m.Header["Nats-Batch-Id"], m.Header["Nats-Batch-Sequence"]), fmt.Sprintf("[one] [%d]", i+1); got != want {
			t.Errorf("message %d: %s, want %s", i, got, want)
		}
		if got, want := m.Header.Get("Nats-Batch-Commit") == "1", i == 2; got != want {
			t.Errorf("message %d commits: %v, want %v", i, got, want)
		}
	}
	if msgs[1].Header.Get("Fl-Event") != "said" {
		t.Error("a header is lost")
	}
	alone := []*nats.Msg{{Subject: "a"}}
	Batch("two", alone)
	if got := fmt.Sprint(alone[0].Header); got != "map[Nats-Batch-Commit:[1] Nats-Batch-Id:[two] Nats-Batch-Sequence:[1]]" {
		t.Errorf("a batch of one: %s", got)
	}
	Batch("three", nil)
}

// The server takes a batch of these headers as a whole.
func TestBatchOnTheServer(t *testing.T) {
	nc, js := connect(t, natsdev.Test(t))
	must(t, Store{JetStream: js, Namespace: "fl"}.Ensure(t.Context(), rule(t, `{name: chat, match: "chat.>", replay: {}}`)))
	msgs := []*nats.Msg{{Subject: "fl.topic.chat.a", Data: []byte("1")}, {Subject: "fl.topic.chat.b", Data: []byte("2")}, {Subject: "fl.topic.chat.a", Data: []byte("3")}}
	Batch("one", msgs)
	for _, m := range msgs[:2] {
		must(t, nc.PublishMsg(m))
	}
	if state := info(t, js, "FL_CHAT").State; state.Msgs != 0 {
		t.Errorf("%d messages before the commit", state.Msgs)
	}
	reply, err := nc.RequestMsg(msgs[2], 5*time.Second)
	must(t, err)
	ack, _, err := ParseAck(reply)
	if err != nil || ack.Seq != 3 || ack.Stream != "FL_CHAT" {
		t.Errorf("acknowledged %+v, %v; want the third of FL_CHAT", ack, err)
	}
}

func TestStored(t *testing.T) {
	const ts = "2026-01-02T03:04:05.678912345Z"
	at := wire.Position{Seq: 7, Ts: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC).UnixMilli()}
	h := func(seq, last, stamp string) nats.Header {
		out := nats.Header{}
		for name, value := range map[string]string{"Nats-Sequence": seq, "Nats-Last-Sequence": last, "Nats-Time-Stamp": stamp} {
			if value != "" {
				out[name] = []string{value}
			}
		}
		return out
	}
	with := func(h nats.Header, name string, values ...string) nats.Header { h[name] = values; return h }
	for _, c := range []struct {
		what string
		h    nats.Header
		prev int64
		ok   bool
	}{
		{"republished", h("7", "5", ts), 5, true},
		{"the first of its topic", h("7", "0", ts), 0, true},
		{"read", h("7", "", ts), -1, true},
		{"another spelling", nats.Header{"nats-sequence": {"7"}, "NATS-LAST-SEQUENCE": {"5"}, "nats-time-stamp": {ts}}, 5, true},
		{"forged values before the server's", nats.Header{"Nats-Sequence": {"9999", "7"}, "Nats-Last-Sequence": {"9998", "5"}, "Nats-Time-Stamp": {"1999-01-01T00:00:00Z", ts}}, 5, true},
		{"a forged spelling beside the server's", with(h("7", "5", ts), "nats-sequence", "1"), 5, true},
		{"a forged status", with(h("7", "5", ts), "Status", "404", "503"), 5, true},
		{"a forged subject", with(h("7", "5", ts), "Nats-Subject", "fl.topic.other"), 5, true},

		{"nothing", nil, 0, false},
		{"no sequence", h("", "5", ts), 0, false},
		{"sequence 0", h("0", "0", ts), 0, false},
		{"a negative sequence", h("-7", "5", ts), 0, false},
		{"no number", h("seven", "5", ts), 0, false},
		{"too large a number", h("9223372036854775808", "5", ts), 0, false},
		{"no time", h("7", "5", ""), 0, false},
		{"no time that can be read", h("7", "5", "yesterday"), 0, false},
		{"a previous one that is no number", h("7", "x", ts), 0, false},
		{"a negative previous one", h("7", "-1", ts), 0, false},
		{"an empty last value", nats.Header{"Nats-Sequence": {"7", ""}, "Nats-Last-Sequence": {"5"}, "Nats-Time-Stamp": {ts}}, 0, false},
	} {
		got, prev, ok := Stored(c.h)
		want := wire.Position{}
		if c.ok {
			want = at
		}
		if got != want || prev != c.prev || ok != c.ok {
			t.Errorf("%s: %v, previous %d, %v; want %v, %d, %v", c.what, got, prev, ok, want, c.prev, c.ok)
		}
	}
}

// A publisher writes the server's own headers, and the server appends to them:
// what is read is the server's.
func TestStoredOfWhatAForgerPublished(t *testing.T) {
	nc, js := connect(t, natsdev.Test(t))
	must(t, Store{JetStream: js, Namespace: "fl"}.Ensure(t.Context(), rule(t, `{name: chat, match: "chat.>", replay: {}}`)))
	sub, err := nc.SubscribeSync("fl.seq.chat.a")
	must(t, err)
	put(t, js, "fl.topic.chat.a")
	_, err = sub.NextMsg(5 * time.Second)
	must(t, err)
	began := time.Now()
	for i, forged := range []nats.Header{
		{"Nats-Sequence": {"9999"}, "Nats-Last-Sequence": {"9998"}, "Nats-Time-Stamp": {"1999-01-01T00:00:00Z"}, "Nats-Subject": {"fl.topic.chat.b"}, "Nats-Stream": {"X"}},
		{"nats-sequence": {"9999"}, "nats-last-sequence": {"9998"}, "nats-time-stamp": {"1999-01-01T00:00:00Z"}},
		{"Status": {"404"}, "Description": {"Message Not Found"}},
		{"Status": {"503"}},
	} {
		must(t, nc.PublishMsg(&nats.Msg{Subject: "fl.topic.chat.a", Header: forged, Data: []byte("2")}))
		msg, err := sub.NextMsg(5 * time.Second)
		must(t, err)
		want := int64(i + 2)
		at, prev, ok := Stored(msg.Header)
		if !ok || at.Seq != want || prev != want-1 || at.Ts < began.Add(-time.Minute).UnixMilli() {
			t.Errorf("%v republished: %v, previous %d, %v; want %d", forged, at, prev, ok, want)
		}
		reply, err := nc.Request(DirectGet("FL_CHAT"), fmt.Appendf(nil, `{"seq":%d}`, want), 5*time.Second)
		must(t, err)
		if read, _, ok := Stored(reply.Header); !ok || read != at || string(reply.Data) != "2" {
			t.Errorf("%v read: %v %s, %v; want %v", forged, read, reply.Data, ok, at)
		}
	}
}

// FuzzStored: whatever stands in the headers, a position is one of a stream;
// and what the server appends counts, whatever was written before.
func FuzzStored(f *testing.F) {
	f.Add("Nats-Sequence", "7", "Nats-Last-Sequence", "5", "Nats-Time-Stamp", "2026-01-02T03:04:05Z")
	f.Add("nats-sequence", "-7", "Status", "404", "Nats-Time-Stamp", "0000-01-01T00:00:00Z")
	f.Add("Nats-Sequence", "", "Nats-Last-Sequence", "x", "", "")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, k3, v3 string) {
		h := nats.Header{}
		for _, kv := range [][2]string{{k1, v1}, {k2, v2}, {k3, v3}} {
			h[kv[0]] = append(h[kv[0]], kv[1])
		}
		at, prev, ok := Stored(h)
		if ok && (at.Seq <= 0 || prev < -1) || !ok && (at != wire.Position{} || prev != 0) {
			t.Errorf("%v: %v, previous %d, %v", h, at, prev, ok)
		}
		h["Nats-Sequence"] = append(h["Nats-Sequence"], "12")
		h["Nats-Last-Sequence"] = append(h["Nats-Last-Sequence"], "11")
		h["Nats-Time-Stamp"] = append(h["Nats-Time-Stamp"], "2026-01-02T03:04:05Z")
		at, prev, ok = Stored(h)
		if want := (wire.Position{Seq: 12, Ts: 1767323045000}); !ok || at != want || prev != 11 {
			t.Errorf("%v: %v, previous %d, %v; want %v and 11", h, at, prev, ok, want)
		}
	})
}

func TestMarker(t *testing.T) {
	for _, c := range []struct {
		h    nats.Header
		want bool
	}{
		{nil, false},
		{nats.Header{"Fl-Event": {"cleared"}}, false},
		{nats.Header{"Fl-Clear": {""}}, false},
		{nats.Header{"Fl-Clear": {}}, false},
		{nats.Header{"Fl-Clear": {"1"}}, true},
		{nats.Header{"fl-clear": {"1"}}, true},
	} {
		if got := Marker(c.h); got != c.want {
			t.Errorf("%v: %v, want %v", c.h, got, c.want)
		}
	}
}

func TestSubjects(t *testing.T) {
	for got, want := range map[string]string{
		DirectGet("FL_CHAT"):          "$JS.API.DIRECT.GET.FL_CHAT",
		LeaderGet("FL_CHAT"):          "$JS.API.STREAM.MSG.GET.FL_CHAT",
		StreamOf(Elected + "FL_CHAT"): "FL_CHAT",
		Elected:                       "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
