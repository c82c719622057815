package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// hazardRules have limits that give nothing back for the length of a test, and
// one that soon does.
const hazardRules = `
limits:
  hot: {capacity: 6, refill: 1, per: 8760h, key: given}
  user: {capacity: 6, refill: 1, per: 8760h}
  brief: {capacity: 4, refill: 2, per: 1s, key: given}
  pairs: {capacity: 1000, refill: 1, per: 8760h, key: given}
topics:
  - {name: dear, match: "dear.>", subscribe: user, publish: user, rate: {publish: {limit: user, cost: 5}}}
  - {name: cheap, match: "cheap.>", subscribe: user, publish: user, rate: {publish: user}}
  - {name: free, match: "free.>", subscribe: user, publish: user}
`

// limitReplicas starts replicas on a NATS server and returns the subjects on
// which each of them decides by itself.
func limitReplicas(t *testing.T, nc *nats.Conn, rules string, n int) (replicas []*process, subjects []string) {
	t.Helper()
	said := listen(t, nc, "fl.limits.replica")
	for range n {
		replicas = append(replicas, startLimits(t, nc.ConnectedUrl(), rules))
	}
	awaitLimits(t, nc, n)
	known := map[string]bool{}
	for len(subjects) < n {
		var r wire.LimitReplica
		must(t, json.Unmarshal(hear(t, said).Data, &r))
		if !known[r.ID] {
			known[r.ID] = true
			subjects = append(subjects, strings.TrimPrefix(wire.DefaultNamespace.LimitConsume(r.ID), "fl.svc.ratelimit."))
		}
	}
	return replicas, subjects
}

// heeded waits until a reply is as it should be, and returns after how long.
func heeded(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	began := time.Now()
	eventually(t, what, func() (any, bool) { return nil, ok() })
	if took := time.Since(began); took > within {
		t.Errorf("%s after %s, want %s at most", what, took, within)
	}
}

// A reset, a ban and its end that one replica made count at the other, which
// knows something else of the key.
func TestWhatOneReplicaChangesCountsAtTheOther(t *testing.T) {
	t.Parallel()
	const soon = 2 * time.Second // a second is promised, and the machine is busy
	nc := connect(t, natsdev.Test(t).ClientURL())
	_, at := limitReplicas(t, nc, rulesFile(t, hazardRules), 2)
	for round := range 4 { // each is served by one of the two, by chance
		key := fmt.Sprintf(`{"policy":"hot","key":"k%d"`, round)
		allowed := func(i int) bool { return consumed(t, nc, at[i], key+`}`).Allowed }
		all := func(what string, want bool) {
			t.Helper()
			for i := range at {
				heeded(t, fmt.Sprintf("%s, replica %d", what, i), soon, func() bool { return allowed(i) == want })
			}
		}
		for i := range 6 {
			if !allowed(i % 2) {
				t.Fatalf("take %d of 6 is denied", i)
			}
		}
		all("all is taken", false)
		consumed(t, nc, "reset", key+`}`)
		all("reset", true)
		consumed(t, nc, "ban", key+`,"duration":"1h"}`)
		all("banned", false)
		for i := range at {
			if r := consumed(t, nc, at[i], key+`}`); !r.Banned || r.RetryAfterMs.Duration() < 50*time.Minute {
				t.Errorf("replica %d, while banned: got %+v", i, r)
			}
		}
		consumed(t, nc, "unban", key+`}`)
		all("not banned any more", true)
	}
}

// What a gateway remembers of denials is of their cost, and void once the bucket
// got more, or the ban is over.
func TestWhatAGatewayRemembersOfDenials(t *testing.T) {
	t.Parallel()
	const soon = 2 * time.Second // what is remembered counts for 5 s
	url, rules := natsdev.Test(t).ClientURL(), rulesFile(t, hazardRules)
	nc := connect(t, url)
	limitReplicas(t, nc, rules, 2)
	s := stackOn(t, url, 2, "FAIRLEAD_TOPICS_FILE="+rules)
	ann, again := s.as(0, "ann"), s.as(1, "ann") // one bucket at two gateways
	try := func(c *client.Client, topic string) *wire.Error {
		_, err := c.Publish(within(t), topic, "", 1, client.PublishOptions{})
		return wire.AsErrorOrNil(err)
	}
	granted := func(c *client.Client, topic string) {
		t.Helper()
		if err := try(c, topic); err != nil {
			t.Errorf("%s: %v", topic, err)
		}
	}
	denied := func(c *client.Client, topic string) {
		t.Helper()
		if err := try(c, topic); err == nil || err.Code != wire.ResourceExhausted || err.Details["limit"] != "user" {
			t.Errorf("%s: got %v, want RESOURCE_EXHAUSTED of the limit", topic, err)
		}
	}
	granted(ann, "dear.a")
	denied(ann, "dear.a")
	denied(again, "dear.a")
	granted(ann, "cheap.a") // 1 is left, though 5 are not
	for _, c := range []*client.Client{ann, again, ann, again} {
		denied(c, "cheap.a")
		denied(c, "dear.a")
		granted(c, "free.a")
	}
	user := `{"policy":"user","key":"ann"`
	consumed(t, nc, "reset", user+`}`)
	heeded(t, "the reset counts at a gateway", soon, func() bool { return try(ann, "cheap.a") == nil })
	heeded(t, "the reset counts at the other", soon, func() bool { return try(again, "cheap.a") == nil })
	consumed(t, nc, "ban", user+`,"duration":"1h"}`)
	heeded(t, "the ban counts at a gateway", soon, func() bool { return try(ann, "cheap.a") != nil })
	heeded(t, "the ban counts at the other", soon, func() bool { return try(again, "cheap.a") != nil })
	if err := try(ann, "cheap.a"); err == nil || err.RetryAfter < 50*time.Minute {
		t.Errorf("while banned: got %v, want to be told to wait for the hour", err)
	}
	granted(s.as(0, "bob"), "cheap.a") // others are not concerned
	consumed(t, nc, "unban", user+`}`)
	consumed(t, nc, "reset", user+`}`)
	heeded(t, "the end of the ban counts at a gateway", soon, func() bool { return try(ann, "cheap.a") == nil })
	heeded(t, "the end of the ban counts at the other", soon, func() bool { return try(again, "cheap.a") == nil })
	consumed(t, nc, "refund", user+`,"cost":6,"id":"r1"}`)
	heeded(t, "the refund counts at a gateway", soon, func() bool { return try(ann, "dear.a") == nil })
}

// An entry goes by itself once its bucket is full again. What another version
// of the service wrote is another entry: it counts for nothing, and is left to go
// by itself.
func TestEntriesOfLimitsGoByThemselves(t *testing.T) {
	t.Parallel()
	nc := connect(t, natsdev.Test(t).ClientURL())
	limitReplicas(t, nc, rulesFile(t, hazardRules), 1)
	js, err := jetstream.New(nc)
	must(t, err)
	bucket, err := js.KeyValue(within(t), "fl_ratelimit")
	must(t, err)
	entry, err := wire.DefaultNamespace.LimitEntry("brief one")
	must(t, err)
	old := "v0" + strings.TrimPrefix(entry, "v1")
	for _, key := range []string{old, strings.TrimPrefix(old, "v0.")} {
		_, err = bucket.Put(within(t), key, []byte(`{"brief":{"m":4000000000,"s":1}}`))
		must(t, err)
	}
	const body = `{"policy":"brief","key":"brief one","cost":4}`
	if r := consumed(t, nc, "consume", body); !r.Allowed || r.Remaining != 0 {
		t.Fatalf("got %+v, want all of a full bucket", r)
	}
	stream, err := js.Stream(within(t), limitStream)
	must(t, err)
	m, err := stream.GetLastMsgForSubject(within(t), "$KV.fl_ratelimit."+entry)
	must(t, err)
	// 2 s until it is full, and 5 s.
	if got := m.Header.Get("Nats-TTL"); got != "7s" && got != "7" {
		t.Errorf("its TTL is %q, want 7 s", got)
	}
	eventually(t, "the entry is gone", func() (any, bool) {
		_, err := bucket.Get(within(t), entry)
		return err, err != nil
	})
	if _, err := bucket.Get(within(t), old); err != nil {
		t.Errorf("what another version wrote: %v", err)
	}
	info, err := stream.Info(within(t))
	must(t, err)
	if info.Config.SubjectDeleteMarkerTTL != 0 || !info.Config.AllowMsgTTL {
		t.Errorf("the stream leaves markers of what is gone for %s, and lets messages go: %v", info.Config.SubjectDeleteMarkerTTL, info.Config.AllowMsgTTL)
	}
	if r := consumed(t, nc, "consume", body); !r.Allowed || r.Remaining != 0 {
		t.Errorf("afterwards: got %+v, want all of a full bucket", r)
	}
}

// The answer to a replica's write is late, again and again: the write is made
// again meanwhile, which it must not be, and is recognised. What was asked for
// counts once.
func TestAWriteWithoutAnAnswerCountsOnce(t *testing.T) {
	t.Parallel()
	const held = 1200 * time.Millisecond // a replica writes again after half a second
	url, rules := natsdev.Test(t).ClientURL(), rulesFile(t, countedRules)
	way := startValve(t, strings.TrimPrefix(url, "nats://"))
	nc := connect(t, url)
	startLimits(t, "nats://"+way.addr(), rules)
	awaitLimits(t, nc, 1)
	const key = `{"policy":"hot","key":"k"`
	left := consumed(t, nc, "consume", key+`,"cost":100}`).Remaining
	for _, c := range []struct {
		endpoint, fields string
		gone             int64
	}{{"consume", `,"cost":7}`, 7}, {"refund", `,"cost":50,"id":"r"}`, -50}} {
		type answer struct {
			m   *nats.Msg
			err error
		}
		got := make(chan answer, 1)
		sent := way.deafenAt("$KV.fl_ratelimit.v1.")
		go func() {
			m, err := nc.Request("fl.svc.ratelimit."+c.endpoint, []byte(key+c.fields), patience)
			got <- answer{m, err}
		}()
		receive(t, sent)
		passes(held)
		way.mu.Lock()
		way.watch = nil // once is enough
		way.mu.Unlock()
		way.release()
		a := receive(t, got)
		must(t, a.err)
		var reply wire.LimitReply
		if code := a.m.Header.Get("Nats-Service-Error-Code"); code != "" || json.Unmarshal(a.m.Data, &reply) != nil {
			t.Fatalf("%s: got %s %s", c.endpoint, code, a.m.Data)
		}
		left -= c.gone
		if now := consumed(t, nc, "peek", key+`}`).Remaining; reply.Remaining != left || now != left {
			t.Errorf("%s: it says that %d are left, and then %d, want %d", c.endpoint, reply.Remaining, now, left)
		}
	}
}

// Takes of two keys at once are both made or neither, though replicas are killed
// in the middle of them, and though there is nothing left of a third.
func TestTakesOfTwoKeysAreBothMadeOrNeither(t *testing.T) {
	t.Parallel()
	const clients, kills = 8, 3
	url, rules := natsdev.Test(t).ClientURL(), rulesFile(t, strings.Replace(hazardRules, "capacity: 1000", "capacity: 1000000", 1))
	nc := connect(t, url)
	replicas, _ := limitReplicas(t, nc, rules, 2)
	var taken, unheard atomic.Int64
	stop := limitCrowd(t, url, clients, func(nc *nats.Conn, _, i int) {
		takes := `{"takes":[{"policy":"pairs","key":"a"},{"policy":"pairs","key":"b"}]}`
		if i%4 == 0 { // the third is soon used up
			takes = `{"takes":[{"policy":"pairs","key":"a"},{"policy":"hot","key":"c"}]}`
		}
		m, err := nc.Request("fl.svc.ratelimit.consume", []byte(takes), limitPatience)
		var reply wire.LimitReply
		switch {
		case err != nil || m.Header.Get("Nats-Service-Error-Code") != "":
			unheard.Add(1)
		case json.Unmarshal(m.Data, &reply) != nil:
			t.Errorf("got %s", m.Data)
		case reply.Allowed:
			taken.Add(1)
		}
	})
	reach := func(n int64) {
		t.Helper()
		want := taken.Load() + n
		eventually(t, fmt.Sprintf("%d pairs", want), func() (any, bool) { got := taken.Load(); return got, got >= want })
	}
	reach(20)
	for i := range kills {
		replicas[i%2].kill()
		replicas[i%2] = startLimits(t, url, rules)
		awaitLimits(t, nc, 2)
		reach(20)
	}
	stop()
	gone := func(policy, key string) int64 {
		r := consumed(t, nc, "peek", fmt.Sprintf(`{"policy":%q,"key":%q}`, policy, key))
		return r.Limit - r.Remaining
	}
	eventually(t, "each pair is both or neither", func() (any, bool) { // a look may be a second old
		a, b, c := gone("pairs", "a"), gone("pairs", "b"), gone("hot", "c")
		said := fmt.Sprintf("%d of a, %d of b, %d of c; %d told, %d not", a, b, c, taken.Load(), unheard.Load())
		// What two replicas were asked for counts twice, and that whole.
		return said, a == b+c && c == 6 && a >= taken.Load()
	})
	t.Logf("%d taken, %d without an answer", taken.Load(), unheard.Load())
}
