package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// serve runs a replica until the test ends and returns a connection to ask it on.
func serve(t testing.TB, server *natsdev.Server, file string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	live, err := rules.Follow(rules.Options{Store: rules.Store{JetStream: js, Namespace: "fl"}, Mode: rules.Dev, File: []byte(file)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{IndexBytes: 1 << 20, Namespace: "fl"}, Deps{NATS: bus.Config{URL: server.ClientURL()}, Rules: live})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- live.Run(ctx) }()
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		nc.Close()
	})
	deadline, tick := time.After(30*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for s.Ready() != nil {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not ready: %v", s.Ready())
		}
	}
	return nc
}

// ask sends a request as any peer would, and returns the answer or its error.
func ask(t testing.TB, nc *nats.Conn, endpoint string, body []byte) ([]byte, *wire.Error) {
	t.Helper()
	reply, err := nc.Request("fl.svc.replay."+endpoint, body, 20*time.Second)
	if err != nil {
		t.Fatalf("%s %.200q: %v", endpoint, body, err)
	}
	e := wire.ParseErrorHeader(reply.Header, reply.Data)
	if e == nil {
		return reply.Data, nil
	}
	var more struct{ Details map[string]any }
	if len(reply.Data) > 0 {
		if err := json.Unmarshal(reply.Data, &more); err != nil {
			t.Errorf("%s %.200q: the body of the error is %q", endpoint, body, reply.Data)
		}
	}
	e.Details = more.Details
	return nil, e
}

var endpointNames = []string{"head", "heads", "since", "gap", "publish", "batch", "clear-topic", "topics", "clear", "ping"}

const inputRules = `topics: [{name: t, match: "t.>", replay: {size: 10, ttl: 1h, maxMessageBytes: 1000}}, {match: ">"}]`

// What is wrong with a request is said with the field and what it allows.
func TestEndpointsRefuse(t *testing.T) {
	nc := serve(t, natsdev.Test(t), inputRules)
	many := func(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	long := strings.Repeat("x", 300)
	for _, c := range []struct{ endpoints, body, code, field, says string }{
		{"*", `{`, "INVALID_ARGUMENT", "request", "JSON"},
		{"*", `garbage`, "INVALID_ARGUMENT", "request", "JSON"},
		{"*", "\xff\xfe", "INVALID_ARGUMENT", "request", "UTF-8"},
		{"*", `7`, "INVALID_ARGUMENT", "request", "object"},
		{"*", `[]`, "INVALID_ARGUMENT", "request", "object"},
		{"head since gap publish clear-topic", ``, "INVALID_ARGUMENT", "topic", "empty"},
		{"head since gap publish clear-topic", `{}`, "INVALID_ARGUMENT", "topic", "empty"},
		{"head since gap publish clear-topic", `{"topic":7}`, "INVALID_ARGUMENT", "topic", "string"},
		{"head since gap publish clear-topic", `{"topic":"t.*"}`, "INVALID_ARGUMENT", "topic", ""},
		{"head since gap publish clear-topic", `{"topic":"t..a"}`, "INVALID_ARGUMENT", "topic", ""},
		{"head since gap publish clear-topic", `{"topic":"$JS.API"}`, "INVALID_ARGUMENT", "topic", ""},
		{"head since gap publish clear-topic", `{"topic":"t.` + long + `"}`, "INVALID_ARGUMENT", "topic", "255"},
		{"head since gap publish clear-topic", `{"topic":"plain.a"}`, "FAILED_PRECONDITION", "", "no replay"},
		{"since gap", `{"topic":"t.a","after":-1}`, "INVALID_ARGUMENT", "after", "from 0 to 9007199254740991"},
		{"since gap", `{"topic":"t.a","after":9007199254740992}`, "INVALID_ARGUMENT", "after", "from 0 to 9007199254740991"},
		{"since gap", `{"topic":"t.a","after":9223372036854775808}`, "INVALID_ARGUMENT", "after", "64 bits"},
		{"since gap", `{"topic":"t.a","after":1.5}`, "INVALID_ARGUMENT", "after", "whole number"},
		{"since gap", `{"topic":"t.a","after":"1"}`, "INVALID_ARGUMENT", "after", "whole number"},
		{"since gap", `{"topic":"t.a","after":1,"ts":9007199254740992}`, "INVALID_ARGUMENT", "ts", "to 9007199254740991"},
		{"since gap", `{"topic":"t.a","after":1,"ts":-9223372036854775808}`, "INVALID_ARGUMENT", "ts", "from -9007199254740991"},
		{"since gap", `{"topic":"t.a","after":1,"ts":"now"}`, "INVALID_ARGUMENT", "ts", "whole number"},
		{"since", `{"topic":"t.a","limit":-1}`, "INVALID_ARGUMENT", "limit", "from 1 to 1000"},
		{"since", `{"topic":"t.a","limit":1001}`, "INVALID_ARGUMENT", "limit", "from 1 to 1000"},
		{"since", `{"topic":"t.a","limit":"all"}`, "INVALID_ARGUMENT", "limit", "whole number"},
		{"since", `{"topic":"t.a","last":1001}`, "INVALID_ARGUMENT", "last", "from 1 to 1000"},
		{"since", `{"topic":"t.a","last":-5}`, "INVALID_ARGUMENT", "last", "from 1 to 1000"},
		{"since", `{"topic":"t.a","last":5,"after":1}`, "INVALID_ARGUMENT", "last", "not together"},
		{"since", `{"topic":"t.a","last":5,"ts":1}`, "INVALID_ARGUMENT", "last", "not together"},
		{"heads", `{}`, "INVALID_ARGUMENT", "topics", "from 1 to 1024"},
		{"heads", `{"topics":[]}`, "INVALID_ARGUMENT", "topics", "from 1 to 1024"},
		{"heads", `{"topics":"t.a"}`, "INVALID_ARGUMENT", "topics", "array"},
		{"heads", `{"topics":["t.a"]}`, "INVALID_ARGUMENT", "topics", ""},
		{"heads", `{"topics":[{"topic":"t.>"}]}`, "INVALID_ARGUMENT", "topic", ""},
		{"heads", `{"topics":[null]}`, "INVALID_ARGUMENT", "topic", ""},
		{"heads", `{"topics":[{"topic":"t.a"},{"topic":"plain.a"}]}`, "FAILED_PRECONDITION", "", "no replay"},
		{"heads", `{"topics":[` + many(1025, `{"topic":"t.a"}`) + `]}`, "INVALID_ARGUMENT", "topics", "from 1 to 1024"},
		{"publish", `{"topic":"t.a","event":"a b"}`, "INVALID_ARGUMENT", "event", ""},
		{"publish", `{"topic":"t.a","event":"` + long + `"}`, "INVALID_ARGUMENT", "event", ""},
		{"publish", `{"topic":"t.a","producer":"a\u0000b","key":"k"}`, "INVALID_ARGUMENT", "producer", "control characters"},
		{"publish", `{"topic":"t.a","producer":"` + long + `","key":"k"}`, "INVALID_ARGUMENT", "producer", "1-128"},
		{"publish", `{"topic":"t.a","key":"` + long + `"}`, "INVALID_ARGUMENT", "key", "128"},
		{"publish", `{"topic":"t.a","key":"a\nb"}`, "INVALID_ARGUMENT", "key", ""},
		{"publish", `{"topic":"t.a","key":7}`, "INVALID_ARGUMENT", "key", "string"},
		{"publish", `{"topic":"t.a","data":` + strings.Repeat("[", 600) + strings.Repeat("]", 600) + `}`, "INVALID_ARGUMENT", "data", "JSON"},
		{"publish", `{"topic":"t.a","data":"` + strings.Repeat("x", 1000) + `"}`, "RESOURCE_EXHAUSTED", "", "larger"},
		{"batch", `{}`, "INVALID_ARGUMENT", "messages", "from 1 to 1000"},
		{"batch", `{"messages":{}}`, "INVALID_ARGUMENT", "messages", "array"},
		{"batch", `{"messages":[1]}`, "INVALID_ARGUMENT", "messages", ""},
		{"batch", `{"messages":[` + many(1001, `{"topic":"t.a"}`) + `]}`, "INVALID_ARGUMENT", "messages", "from 1 to 1000"},
		{"batch", `{"messages":[{"topic":"t.a"}],"atomic":"yes"}`, "INVALID_ARGUMENT", "atomic", "true or false"},
		{"batch", `{"atomic":true,"messages":[{"topic":"t.a"},{"topic":"t.a","event":""},{"topic":"t.*"}]}`, "INVALID_ARGUMENT", "topic", ""},
		{"batch", `{"atomic":true,"messages":[{"topic":"t.a"},{"topic":"plain.a"}]}`, "FAILED_PRECONDITION", "", ""},
		{"topics", `{"match":"a..b"}`, "INVALID_ARGUMENT", "match", "pattern"},
		{"topics", `{"match":7}`, "INVALID_ARGUMENT", "match", "string"},
		{"topics", `{"limit":1001}`, "INVALID_ARGUMENT", "limit", "from 1 to 1000"},
		{"topics", `{"limit":-1}`, "INVALID_ARGUMENT", "limit", "from 1 to 1000"},
		{"topics", `{"cursor":7}`, "INVALID_ARGUMENT", "cursor", "string"},
	} {
		names := strings.Fields(c.endpoints)
		if c.endpoints == "*" {
			names = endpointNames
		}
		for _, name := range names {
			answer, err := ask(t, nc, name, []byte(c.body))
			field := ""
			if err != nil {
				field, _ = err.Details["field"].(string)
				field, _, _ = strings.Cut(field, ".")
			}
			if err == nil || string(err.Code) != c.code || field != c.field || !strings.Contains(err.Message, c.says) {
				t.Errorf("%s %.80s: answer %.80s, error %v, field %q; want %s of %q that says %q", name, c.body, answer, err, field, c.code, c.field, c.says)
			}
		}
	}
	if answer, err := ask(t, nc, "topics", nil); err != nil || string(answer) != `{"topics":[]}` {
		t.Errorf("after all that something is stored: %s, %v", answer, err)
	}
}

// The messages of a batch that is not atomic have each a result of their own.
func TestBatchAnswersForEachMessage(t *testing.T) {
	nc := serve(t, natsdev.Test(t), inputRules)
	answer, err := ask(t, nc, "batch", []byte(`{"messages":[{"topic":"t.a","data":1},{"topic":"t.*"},{"topic":"plain.a"},{"topic":"t.a","data":2,"key":"k"},{"topic":"t.a","data":3,"key":"k"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var got wire.ReplayResults
	if err := json.Unmarshal(answer, &got); err != nil || len(got.Results) != 5 {
		t.Fatalf("%s: %v", answer, err)
	}
	for i, want := range []string{"1 false ", "0 false INVALID_ARGUMENT", "0 false FAILED_PRECONDITION", "2 false ", "2 true "} {
		r, code := got.Results[i], ""
		if r.Error != nil {
			code = string(wire.DecodeError(r.Error).Code)
		}
		if is := fmt.Sprintf("%d %v %s", r.Seq, r.Duplicate, code); is != want {
			t.Errorf("message %d: %s, want %s", i, is, want)
		}
	}
}

// FuzzEndpoints: whatever comes as a request is answered, with JSON or with an
// error that says what is wrong; nothing panics and nothing is INTERNAL.
func FuzzEndpoints(f *testing.F) {
	for i := range endpointNames {
		for _, s := range []string{
			``, `{}`, `null`, `[]`, `{"topic":"t.a"}`, `{"topic":"t.a","after":3,"ts":-1}`, `{"topic":"t.a","last":5}`,
			`{"topics":[{"topic":"t.a"},{"topic":"t.b","after":1,"ts":2}]}`, `{"match":"t.>","limit":5,"cursor":"t.a"}`,
			`{"topic":"t.a","event":"e","data":{"a":1},"producer":"p","key":"k"}`,
			`{"atomic":true,"messages":[{"topic":"t.a","data":1},{"topic":"t.b","key":"k"}]}`, `{"messages":[{"topic":"t.a"},null]}`,
		} {
			f.Add(uint8(i), []byte(s))
		}
	}
	nc := serve(f, natsdev.Test(f), inputRules)
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		name := endpointNames[int(which)%len(endpointNames)]
		answer, err := ask(t, nc, name, body)
		switch {
		case err == nil && !json.Valid(answer):
			t.Errorf("%s %q: the answer is %q", name, body, answer)
		case err != nil && (err.Code == wire.Internal || err.Message == "" || !err.Code.Known()):
			t.Errorf("%s %q: %v", name, body, err)
		case err != nil && err.Code == wire.InvalidArgument:
			if field, _ := err.Details["field"].(string); field == "" || !strings.HasPrefix(err.Message, field+": ") {
				t.Errorf("%s %q: %v, field %q", name, body, err, field)
			}
		}
	})
}

// An answer never grows beyond what NATS takes, whatever the messages become in
// JSON: fewer are answered and the rest follows.
func TestPagesFitIntoOneAnswer(t *testing.T) {
	server := natsdev.Test(t)
	nc := serve(t, server, `topics: [{name: t, match: "t.>", replay: {size: 1000, ttl: 1h, maxMessageBytes: 2MiB}}]`)
	most := int(nc.MaxPayload())
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		payload []byte
		n       int
	}{
		"control characters": {bytes.Repeat([]byte{1}, 60<<10), 6},
		"bytes":              {bytes.Repeat([]byte{0xff}, 700<<10), 2},
		"large JSON":         {[]byte(`"` + strings.Repeat("x", most-4<<10) + `"`), 2},
		"small messages":     {[]byte(`"` + strings.Repeat(`\`, 20) + `"`), 600},
	} {
		topic := "t." + strings.ReplaceAll(name, " ", "-")
		for range c.n {
			if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "fl.topic." + topic, Data: c.payload}); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		for _, last := range []int{0, c.n} {
			got, at, pages := 0, wire.Position{}, 0
			for more := true; more; pages++ {
				req := wire.ReplaySinceRequest{Topic: topic, After: at.Seq, Ts: at.Ts, Limit: 1000, Last: last}
				if got > 0 {
					req.Last = 0
				}
				page, err := bus.Call[wire.ReplaySinceRequest, *wire.ReplayPage](t.Context(), nc, "fl.svc.replay.since", req)
				if err != nil || len(page.Messages) == 0 || page.Truncated {
					t.Fatalf("%s behind %v, last %d: %+v, %v", name, at, last, page, err)
				}
				for _, m := range page.Messages {
					if !bytes.Equal(m.Payload, c.payload) {
						t.Fatalf("%s: message %d has %d bytes", name, m.Seq, len(m.Payload))
					}
					at = m.Position
				}
				got, more = got+len(page.Messages), page.More
			}
			if got != c.n {
				t.Errorf("%s, last %d: %d messages in %d pages, want %d", name, last, got, pages, c.n)
			}
		}
	}
}

// What fits into no answer is an error that names the message; where it is gone
// or not is answered all the same, and so is what comes before and after it.
func TestAMessageLargerThanAnAnswer(t *testing.T) {
	nc := serve(t, natsdev.Test(t), `topics: [{name: t, match: "t.>", replay: {size: 1000, ttl: 1h, maxMessageBytes: 2MiB}}]`)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	huge := bytes.Repeat([]byte{0xff}, int(nc.MaxPayload())-4<<10)
	for _, payload := range [][]byte{[]byte(`1`), huge, []byte(`3`)} {
		if _, err := js.Publish(t.Context(), "fl.topic.t.a", payload); err != nil {
			t.Fatal(err)
		}
	}
	since := func(after int64) (*wire.ReplayPage, error) {
		return bus.Call[wire.ReplaySinceRequest, *wire.ReplayPage](t.Context(), nc, "fl.svc.replay.since", wire.ReplaySinceRequest{Topic: "t.a", After: after})
	}
	if page, err := since(0); err != nil || len(page.Messages) != 1 || !page.More {
		t.Errorf("from the beginning: %+v, %v; want the first message and more", page, err)
	}
	_, err = since(1)
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.ResourceExhausted || e.Details["seq"] != 2.0 || e.RetryAfter != wire.Never {
		t.Errorf("behind the first: %v; want RESOURCE_EXHAUSTED of 2, never to retry", err)
	}
	if page, err := since(2); err != nil || len(page.Messages) != 1 || page.Messages[0].Seq != 3 || page.More {
		t.Errorf("behind the large one: %+v, %v", page, err)
	}
	gap, err := bus.Call[wire.ReplayAfter, wire.ReplayGap](t.Context(), nc, "fl.svc.replay.gap", wire.ReplayAfter{Topic: "t.a", After: 1})
	if err != nil || gap.Truncated || gap.Seq != 3 {
		t.Errorf("gap before it: %+v, %v", gap, err)
	}
}
