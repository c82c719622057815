package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ratedRules give nothing back while a test runs, except below soon.
const ratedRules = `
limits:
  five: {capacity: 5, refill: 1, per: 8760h}
  ten: {capacity: 10, refill: 1, per: 8760h}
  soon: {capacity: 2, refill: 1, per: 2s}
  banned: {capacity: 1, refill: 1000, per: 1s, block: 1h}
  topic: {capacity: 2, refill: 1, per: 8760h, key: topic}
  connection: {capacity: 2, refill: 1, per: 8760h, key: connection}
  given: {capacity: 2, refill: 1, per: 8760h, key: given}
  shadow: {capacity: 2, refill: 1, per: 8760h, shadow: true}
topics:
  - {match: "five.>", rate: {publish: five}}
  - {match: "two.>", rate: {publish: {limit: ten, cost: 2}}}
  - {match: "ten.>", rate: {publish: ten}}
  - {match: "soon.>", rate: {publish: soon}}
  - {match: "banned.>", rate: {publish: banned}}
  - {match: "topic.>", rate: {publish: topic}}
  - {match: "connection.>", rate: {publish: connection}}
  - {match: "given.>", rate: {publish: given}}
  - {match: "shadow.>", rate: {publish: shadow}}
  - {match: "kept.>", replay: {size: 100, maxMessageBytes: 1000}, rate: {publish: five}}
  - {match: "closed.>", publish: none}
  - {match: ">"}
calls:
  - {match: "five.*", rate: {limit: five, cost: 2}}
  - {match: ">"}
`

// What rules limit, over WebSocket and HTTP, by a gateway and the service that
// decides for it.
func TestRatesOfTheRules(t *testing.T) {
	t.Parallel()
	r := ratedStack(t, 2, ratedRules, "FAIRLEAD_HTTP_API=true")
	f := r.backend()
	worked := make(chan string, 1000)
	handle(t, f, "five.work", func(_ context.Context, c *fairlead.Call, _ json.RawMessage) (int, error) {
		worked <- c.User
		return 1, nil
	})
	watcher := r.as(1, "watcher")

	for name, scenario := range map[string]func(*trial){
		"within the limit messages pass, the next one does not": func(try *trial) {
			ann := try.as(0, "ann")
			topic := unique("soon")
			room := subscribe(t, watcher, topic)
			for i := range 2 {
				try.says(fmt.Sprint("message ", i), try.publish(ann, topic), "")
			}
			e := try.says("the third", try.publish(ann, topic), wire.ResourceExhausted)
			try.detail("the third", e, `{"limit":"soon","cost":1,"capacity":2,"remaining":0}`)
			if !upTo(e.RetryAfter, 2*time.Second) && try.undecided == 0 {
				try.bad("the third may come after %s, want within 2 s", e.RetryAfter)
			}
			_, err := try.as(0, "bob").Publish(within(t), topic, "", "end", client.PublishOptions{})
			if try.says("bob's", err, ""); try.undecided > 0 {
				return
			}
			heard := 0
			for string(next(t, room).Data) != `"end"` {
				heard++
			}
			if heard != 2 {
				try.bad("%d messages came, want the 2 that were within the limit", heard)
			}
		},
		"users have buckets of their own, and limits too": func(try *trial) {
			ann, again, bob := try.as(0, "ann"), try.as(1, "ann"), try.as(0, "bob")
			for i := range 5 {
				try.says(fmt.Sprint("message ", i), try.publish([]*client.Client{ann, again}[i%2], "five.a"), "")
			}
			try.says("the sixth of ann", try.publish(ann, "five.a"), wire.ResourceExhausted)
			try.says("the seventh, elsewhere", try.publish(again, "five.b"), wire.ResourceExhausted)
			try.says("the first of bob", try.publish(bob, "five.a"), "")
			try.says("ann's of another limit", try.publish(ann, "ten.a"), "")
			try.says("ann's without a limit", try.publish(ann, "free.a"), "")
		},
		"a message takes what its rule says": func(try *trial) {
			ann := try.as(0, "ann")
			try.says("one of 1", try.publish(ann, "ten.a"), "")
			for i := range 4 {
				try.says(fmt.Sprint("2 of the rest, ", i), try.publish(ann, "two.a"), "")
			}
			e := try.says("2 of 1", try.publish(ann, "two.a"), wire.ResourceExhausted)
			try.detail("2 of 1", e, `{"limit":"ten","cost":2,"capacity":10,"remaining":1}`)
			try.says("the last", try.publish(ann, "ten.a"), "") // a denial of 2 is not one of 1
			try.says("one more", try.publish(ann, "ten.a"), wire.ResourceExhausted)
		},
		"calls take too, before a worker hears of them": func(try *trial) {
			ann := try.as(0, "ann")
			call := func() error {
				_, err := ann.Call(within(t), "five.work", 1, client.CallOptions{})
				return err
			}
			try.says("a call", call(), "")
			try.says("a message", try.publish(ann, "five.a"), "")
			try.says("another call", call(), "")
			try.detail("the third call", try.says("the third call", call(), wire.ResourceExhausted), `{"limit":"five","cost":2,"capacity":5,"remaining":0}`)
			if len(worked) != 2 && try.undecided == 0 {
				try.bad("the worker heard of %d calls, want 2", len(worked))
			}
			for len(worked) > 0 {
				<-worked
			}
		},
		"of a batch the first that fit are published": func(try *trial) {
			ann := try.as(0, "ann")
			results, err := try.batch(ann, false, "five.1", "ten.1", "five.2", "five.3", "closed.1", "five.4", "free.1", "five.5", "five.6", "five.7", "ten.2")
			must(t, err)
			want := []wire.Code{"", "", "", "", wire.PermissionDenied, "", "", "", wire.ResourceExhausted, wire.ResourceExhausted, ""}
			for i, result := range results {
				var err error
				if result.Err != nil {
					err = result.Err
				}
				e := try.says(fmt.Sprint("message ", i), err, want[i])
				if want[i] == wire.ResourceExhausted {
					try.detail(fmt.Sprint("message ", i), e, `{"limit":"five","cost":1,"capacity":5,"remaining":0}`)
				}
			}
		},
		"an atomic batch takes all or nothing": func(try *trial) {
			ann := try.as(0, "ann")
			_, err := try.batch(ann, true, "kept.a", "kept.b", "kept.c")
			try.says("3 of 5", err, "")
			_, err = try.batch(ann, true, "kept.a", "kept.b", "kept.c")
			try.detail("3 of 2", try.says("3 of 2", err, wire.ResourceExhausted), `{"limit":"five","cost":3,"capacity":5,"remaining":2}`)
			_, err = try.batch(ann, true, "kept.a", "kept.b")
			try.says("2 of 2", err, "")
			_, err = try.batch(ann, true, "kept.a", "kept.b", "kept.c", "kept.d", "kept.e", "kept.f")
			e := try.says("6 of a bucket for 5", err, wire.ResourceExhausted)
			try.detail("6 of a bucket for 5", e, `{"limit":"five","cost":6,"capacity":5}`)
			if e.RetryAfter != wire.Never && try.undecided == 0 {
				try.bad("6 of a bucket for 5 may come after %s, want never", e.RetryAfter)
			}
		},
		"what is refused for another reason takes nothing": func(try *trial) {
			ann := try.as(0, "ann")
			large := strings.Repeat("x", 1000)
			for range 6 {
				_, err := ann.Publish(within(t), "kept.a", "", large, client.PublishOptions{})
				if e := wire.AsError(err); e.RetryAfter != wire.Never || e.Details["limit"] != float64(1000) {
					try.bad("too large: got %v %v", e, e.Details)
				}
				_, err = try.batch(ann, true, "kept.a", "five.a")
				try.says("atomic over two rules", err, wire.FailedPrecondition)
			}
			for i := range 5 {
				try.says(fmt.Sprint("message ", i), try.publish(ann, "kept.a"), "")
			}
			try.says("the sixth", try.publish(ann, "kept.a"), wire.ResourceExhausted)
		},
		"a bucket is a topic's, a connection's, or that of a given key": func(try *trial) {
			ann, again, bob := try.as(0, "ann"), try.as(1, "ann"), try.as(1, "bob")
			topic := unique("topic")
			try.says("ann to the topic", try.publish(ann, topic), "")
			try.says("bob to the topic", try.publish(bob, topic), "")
			try.says("a third to the topic", try.publish(again, topic), wire.ResourceExhausted)
			try.says("one to another topic", try.publish(ann, unique("topic")), "")
			for _, c := range []*client.Client{ann, again} {
				try.says("one of a connection", try.publish(c, "connection.a"), "")
				try.says("two of a connection", try.publish(c, "connection.b"), "")
				try.says("three of a connection", try.publish(c, "connection.a"), wire.ResourceExhausted)
			}
			given := func(c *client.Client, key string) error {
				_, err := c.Publish(within(t), "given.a", "", 1, client.PublishOptions{Key: key})
				return err
			}
			key := try.user("key")
			try.says("a key by ann", given(ann, key), "")
			try.says("the key by bob", given(bob, key), "")
			try.says("the key again", given(ann, key), wire.ResourceExhausted)
			try.says("another key", given(ann, key+"2"), "")
			try.says("no key, as the user", given(ann, ""), "")
			try.says("no key, as the user again", given(again, ""), "")
			try.says("no key, a third time", given(ann, ""), wire.ResourceExhausted)
		},
		"a limit with shadow refuses nobody, and says so": func(try *trial) {
			events := listen(t, connect(t, r.nats), "fl.event.limit.exceeded")
			ann := try.as(0, "ann")
			for i := range 6 {
				try.says(fmt.Sprint("message ", i), try.publish(ann, "shadow.a"), "")
			}
			if try.undecided > 0 {
				return
			}
			if e := burstOf(t, events, try.user("ann")); !e.Shadow || e.Limit != "shadow" || e.Allowed != 2 {
				try.bad("got the event %+v, want one of the limit shadow", e)
			}
		},
		"a flood is one burst": func(try *trial) {
			events := listen(t, connect(t, r.nats), "fl.event.limit.exceeded")
			ann := try.as(0, "ann")
			for range 20 {
				_, err := try.batch(ann, false, repeated("five.a", 50)...)
				must(t, err)
			}
			refused := try.publish(ann, "five.a")
			if try.says("the last", refused, wire.ResourceExhausted); try.undecided > 0 {
				return
			}
			e := burstOf(t, events, try.user("ann"))
			if e.Limit != "five" || e.User != try.user("ann") || e.Conn != ann.Welcome().Conn || e.Observed != 1 || e.Allowed != 5 {
				try.bad("got the event %+v", e)
			}
			// Another's burst comes behind all that there may be of ann's.
			bob := try.as(0, "bob")
			_, err := try.batch(bob, false, repeated("five.a", 6)...)
			must(t, err)
			for {
				var e exceeded
				must(t, json.Unmarshal(hear(t, events).Data, &e))
				if e.Key == try.user("ann") {
					try.bad("a second event of one burst: %+v", e)
				}
				if e.Key == try.user("bob") {
					break
				}
			}
		},
		"a ban counts from its reply on, until it is lifted": func(try *trial) {
			nc := connect(t, r.nats)
			ann, again := try.as(0, "ann"), try.as(1, "ann")
			of := fmt.Sprintf(`{"policy":"ten","key":%q`, try.user("ann"))
			try.says("before", try.publish(ann, "ten.a"), "")
			r.admin(nc, "ban", of+`,"duration":"1h"}`)
			for _, c := range []*client.Client{ann, again} {
				e := try.says("banned", try.publish(c, "ten.a"), wire.ResourceExhausted)
				if try.undecided == 0 && (!strings.Contains(e.Message, "banned by the limit ten") || e.RetryAfter < 59*time.Minute) {
					try.bad("banned: got %v after %s", e, e.RetryAfter)
				}
			}
			try.says("of another limit", try.publish(ann, "five.a"), "")
			r.admin(nc, "unban", of+`}`)
			// A gateway remembers a refusal for 5 s, unless it hears that it is over.
			granted := func(what string, c *client.Client) {
				began := time.Now()
				eventually(t, what, func() (any, bool) {
					err := try.publish(c, "ten.a")
					return err, err == nil
				})
				if took := time.Since(began); took > 4*time.Second {
					try.bad("%s: only after %s", what, took)
				}
			}
			granted("unbanned at the first gateway", ann)
			granted("unbanned at the second", again)
			for range 3 { // what is remembered is forgotten with a reset
				results, err := try.batch(ann, false, repeated("ten.a", 11)...)
				must(t, err)
				if results[10].Err == nil {
					try.bad("11 of 10 were granted")
				}
				r.admin(nc, "reset", of+`}`)
				granted("reset", ann)
			}
		},
		"want of tokens bans where the limit has a block": func(try *trial) {
			ann := try.as(0, "ann")
			eventually(t, "a refusal", func() (any, bool) {
				results, err := try.batch(ann, false, "banned.a", "banned.a", "banned.a", "banned.a")
				must(t, err)
				return results, results[3].Err != nil && results[3].Err.Code == wire.ResourceExhausted
			})
			e := try.says("banned", try.publish(ann, "banned.a"), wire.ResourceExhausted)
			if try.undecided == 0 && (e.RetryAfter < 59*time.Minute || e.Message != "banned by the limit banned") {
				try.bad("got %v after %s, want a ban of an hour", e, e.RetryAfter)
			}
		},
		"over HTTP it is 429 with Retry-After": func(try *trial) {
			may := bearer(token(try.user("cron"), map[string]any{"publish": []string{"soon.>", "five.>"}}))
			send := func(topic string) (int, string, http.Header) {
				req, err := http.NewRequest(http.MethodPost, r.gateways[0].http("/v1/topics/"+topic), strings.NewReader(`1`))
				must(t, err)
				req.Header = may.Clone()
				resp, err := web.Do(req)
				must(t, err)
				if resp.StatusCode == http.StatusServiceUnavailable {
					try.undecided++
				}
				return resp.StatusCode, readAll(t, resp), resp.Header
			}
			for i := range 2 {
				if status, text, _ := send("soon.a"); status != http.StatusOK {
					try.bad("message %d: %d %s", i, status, text)
				}
			}
			status, text, header := send("soon.a")
			wait, err := strconv.Atoi(header.Get("Retry-After"))
			if status != http.StatusTooManyRequests || err != nil || wait < 1 || wait > 2 || !strings.Contains(text, `"limit":"soon"`) {
				try.bad("the third: %d %s, Retry-After %q", status, text, header.Get("Retry-After"))
			}
		},
	} {
		t.Run(name, func(t *testing.T) { undisturbed(t, r, scenario) })
	}
}

// exceeded is what is said on fl.event.limit.exceeded.
type exceeded struct {
	Conn, User, Address, Limit, Key string
	Observed, Allowed               int64
	Shadow                          bool
}

// burstOf returns the next event about a key.
func burstOf(t *testing.T, events *nats.Subscription, key string) exceeded {
	t.Helper()
	for {
		var e exceeded
		must(t, json.Unmarshal(hear(t, events).Data, &e))
		if e.Key == key {
			return e
		}
	}
}

func repeated(topic string, n int) []string { return slices.Repeat([]string{topic}, n) }
