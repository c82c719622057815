package integration

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const dedupeRules = `
topics:
  - {name: chat, match: "chat.>", subscribe: user, publish: user, from: true, replay: {size: 10000, ttl: 1h, dedupe: 1h, dedupeKeys: %d}}
`

// shortWindow is how long the stream itself remembers ids in these tests: an
// operator may shorten it, and what depends on it follows.
const shortWindow = 2 * time.Second

// remembering is a stack whose rule remembers keys for an hour.
type remembering struct {
	*stack
	rules    string
	replicas []*process
	js       jetstream.JetStream
	topic    string
	heard    *client.Subscription
	voice    *client.Client
	ends     int
}

// remember starts replicas of the replay service and gateways, and shortens the
// window of their stream.
func remember(t *testing.T, keys, replicas, gateways int) *remembering {
	t.Helper()
	server := natsdev.Test(t)
	r := &remembering{stack: &stack{t: t, nats: server.ClientURL()}, topic: unique("chat.once")}
	r.rules = rulesFile(t, fmt.Sprintf(dedupeRules, keys))
	for range replicas {
		r.replicas = append(r.replicas, startReplay(t, r.nats, r.rules))
	}
	for range gateways {
		r.add("FAIRLEAD_TOPICS_FILE="+r.rules, "FAIRLEAD_HTTP_API=true")
	}
	var err error
	r.js, err = jetstream.New(r.worker())
	must(t, err)
	stream, err := r.js.Stream(within(t), "FL_CHAT")
	must(t, err)
	cfg := stream.CachedInfo().Config
	if got, want := cfg.Duplicates, 2*time.Minute; got != want {
		t.Errorf("the stream remembers ids for %s, want %s: each costs broker memory", got, want)
	}
	cfg.Duplicates = shortWindow
	eventually(t, "the ledger follows the stream's window", func() (any, bool) {
		// A replica that starts makes the stream what the rule says, once.
		_, err := r.js.UpdateStream(within(t), cfg)
		p := r.position()
		return fmt.Sprint(p, err), p.Window == shortWindow.Milliseconds()
	})
	r.voice = r.as(0, "voice")
	r.heard = subscribe(t, r.as(gateways-1, "listener"), r.topic)
	return r
}

// ledgerPosition is what the ledger says of itself.
type ledgerPosition struct{ UpTo, Created, Window, Keys int64 }

func (r *remembering) position() (p ledgerPosition) {
	r.t.Helper()
	bucket, err := r.js.KeyValue(within(r.t), "fl_dedupe_CHAT")
	if err != nil {
		return p
	}
	value, err := bucket.Get(within(r.t), "position")
	if err != nil {
		return p
	}
	must(r.t, json.Unmarshal(value.Value(), &p))
	return p
}

// messageID is the Nats-Msg-Id of a keyed publish.
func messageID(topic, user, key string) string {
	sum := sha256.Sum256([]byte(topic))
	return base64.RawURLEncoding.EncodeToString(sum[:12]) + ":" + wire.EscapeToken(user) + ":" + wire.EscapeToken(key)
}

// straight stores a message as a gateway does that dies before it can say so to
// anybody: in the stream, and nowhere else.
func (r *remembering) straight(user, key, data string) int64 {
	r.t.Helper()
	msg := &nats.Msg{Subject: "fl.topic." + r.topic, Data: []byte(data), Header: nats.Header{
		wire.HeaderUser: {user}, wire.HeaderMsgID: {messageID(r.topic, user, key)},
	}}
	ack, err := r.js.PublishMsg(within(r.t), msg)
	must(r.t, err)
	return int64(ack.Sequence)
}

// once publishes under a key until the gateway takes it. Where the machine is
// slow the ledger may be behind its short window for a moment.
func (r *remembering) once(c *client.Client, key, data string) (res client.Result) {
	r.t.Helper()
	eventually(r.t, "a publish under "+key, func() (any, bool) {
		var err error
		res, err = c.Publish(within(r.t), r.topic, "", json.RawMessage(data), client.PublishOptions{Key: key})
		if err != nil && errorText(err) != "UNAVAILABLE none" {
			r.t.Fatalf("publish under %s: %v", key, err)
		}
		return err, err == nil
	})
	return res
}

// forgets waits until the stream itself has forgotten every id up to now.
func (r *remembering) forgets() {
	r.t.Helper()
	id := unique("probe")
	publish := func() bool {
		ack, err := r.js.Publish(within(r.t), "fl.topic.chat.probe", nil, jetstream.WithMsgID(id))
		must(r.t, err)
		return ack.Duplicate
	}
	publish()
	eventually(r.t, "the stream forgets an id", func() (any, bool) { return nil, !publish() })
}

// deliveries counts, by its data, what came on the topic so far.
func (r *remembering) deliveries() map[string]int {
	r.t.Helper()
	r.ends++
	end := fmt.Sprintf(`"end %d"`, r.ends)
	publish(r.t, r.voice, r.topic, end)
	counts := map[string]int{}
	for {
		m := next(r.t, r.heard)
		if string(m.Data) == end {
			return counts
		}
		counts[string(m.Data)]++
	}
}

func (r *remembering) last() uint64 {
	r.t.Helper()
	stream, err := r.js.Stream(within(r.t), "FL_CHAT")
	must(r.t, err)
	return stream.CachedInfo().State.LastSeq
}

// A key is remembered for as long as its rule says, long after the stream has
// forgotten it: whichever gateway is asked, over whichever way, and whether or
// not the gateway that stored the message lived to tell. Without the entry in
// the ledger the same publish comes twice: the count below can tell.
func TestAKeyIsRememberedForAsLongAsTheRuleSays(t *testing.T) {
	t.Parallel()
	r := remember(t, 1000, 1, 2)
	ann, bob, far := r.as(0, "ann"), r.as(0, "bob"), r.as(1, "ann")
	first := r.once(ann, "k", `"ann's"`)
	if first.Duplicate || first.Seq == 0 {
		t.Fatalf("the first: got %+v", first)
	}
	if res := r.once(bob, "k", `"bob's"`); res.Duplicate {
		t.Errorf("another user with the same key: got %+v, want it stored", res)
	}
	orphan := r.straight("ann", "orphan", `"orphan"`)
	worker := r.worker()
	byWorker := func() (res wire.ReplayStored) {
		t.Helper()
		body := fmt.Sprintf(`{"topic":%q,"data":"worker's","producer":"cron","key":"k"}`, r.topic)
		eventually(t, "a worker's publish", func() (any, bool) {
			reply, err := worker.Request("fl.svc.replay.publish", []byte(body), patience)
			must(t, err)
			if code := reply.Header.Get("Nats-Service-Error-Code"); code != "" {
				return string(reply.Data), false
			}
			must(t, json.Unmarshal(reply.Data, &res))
			return nil, true
		})
		return res
	}
	workers := byWorker()
	overHTTP := func() (answer string) {
		t.Helper()
		header := bearer(token("cron", map[string]any{"publish": []string{r.topic}}))
		header.Set("Idempotency-Key", "h")
		eventually(t, "a publish over HTTP", func() (any, bool) {
			var status int
			status, answer = post(t, r.gateways[0].http("/v1/topics/"+r.topic), header, `"http"`)
			return answer, status == http.StatusOK
		})
		return answer
	}
	httpFirst := overHTTP()
	lost := r.once(ann, "lost", `"lost"`)
	r.forgets()

	for name, c := range map[string]*client.Client{"the same gateway": ann, "another gateway": far} {
		if got, want := r.once(c, "k", `"ann's"`), (client.Result{Seq: first.Seq, Duplicate: true}); got != want {
			t.Errorf("again, on %s: got %+v, want %+v", name, got, want)
		}
	}
	if got, want := r.once(far, "orphan", `"orphan"`), (client.Result{Seq: orphan, Duplicate: true}); got != want {
		t.Errorf("what a dead gateway stored: got %+v, want %+v", got, want)
	}
	if got, want := byWorker(), (wire.ReplayStored{Seq: workers.Seq, Duplicate: true}); got != want {
		t.Errorf("a worker's again: got %+v, want %+v", got, want)
	}
	if got, want := overHTTP(), strings.TrimSuffix(httpFirst, "}")+`,"duplicate":true}`; got != want {
		t.Errorf("over HTTP again: got %s, want %s", got, want)
	}
	bucket, err := r.js.KeyValue(within(t), "fl_dedupe_CHAT")
	must(t, err)
	sum := sha256.Sum256([]byte(messageID(r.topic, "ann", "lost")))
	must(t, bucket.Delete(within(t), base64.RawURLEncoding.EncodeToString(sum[:18])))
	if res := r.once(far, "lost", `"lost"`); res.Duplicate || res.Seq == lost.Seq {
		t.Errorf("without an entry: got %+v, want it stored again", res)
	}
	want := map[string]int{`"ann's"`: 1, `"bob's"`: 1, `"orphan"`: 1, `"worker's"`: 1, `"http"`: 1, `"lost"`: 2}
	if got := r.deliveries(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("deliveries: got %v, want %v", got, want)
	}
}

// While nobody fills the ledger, publishes with a new key are refused before
// anything is stored. Known keys are answered, and those without a key stored.
func TestKeyedPublishesWaitForTheLedger(t *testing.T) {
	t.Parallel()
	r := remember(t, 1000, 1, 1)
	ann := r.as(0, "ann")
	first := r.once(ann, "known", `1`)
	r.forgets()
	r.replicas[0].kill()
	stored := 0
	eventually(t, "a keyed publish is refused", func() (any, bool) {
		_, err := ann.Publish(within(t), r.topic, "", stored, client.PublishOptions{Key: fmt.Sprint(stored)})
		if err == nil {
			stored++
		}
		return err, errorText(err) == "UNAVAILABLE none"
	})
	before := r.last()
	for i := range 3 {
		_, err := ann.Publish(within(t), r.topic, "", i, client.PublishOptions{Key: fmt.Sprint("new", i)})
		if got, want := errorText(err), "UNAVAILABLE none"; got != want {
			t.Errorf("got %s (%v), want %s", got, err, want)
		}
	}
	if after := r.last(); after != before {
		t.Errorf("refused publishes brought the stream from %d to %d", before, after)
	}
	if got, want := r.once(ann, "known", `1`), (client.Result{Seq: first.Seq, Duplicate: true}); got != want {
		t.Errorf("a known key: got %+v, want %+v", got, want)
	}
	publish(t, ann, r.topic, `"without a key"`)
	startReplay(t, r.nats, r.rules)
	if res := r.once(ann, "new0", `"late"`); res.Duplicate {
		t.Errorf("with a replica again: got %+v, want it stored", res)
	}
}

// A full ledger refuses new keys before anything is stored.
func TestAFullLedgerRefusesKeys(t *testing.T) {
	t.Parallel()
	const keys = 20
	r := remember(t, keys, 1, 1)
	ann := r.as(0, "ann")
	first := r.once(ann, "k0", `"k0"`)
	n := 1
	var err error
	eventually(t, "a keyed publish is refused", func() (any, bool) {
		_, err = ann.Publish(within(t), r.topic, "", n, client.PublishOptions{Key: fmt.Sprint("k", n)})
		if err == nil {
			n++
		}
		return err, errorText(err) == "RESOURCE_EXHAUSTED none"
	})
	if n < keys || n > 2*keys {
		t.Errorf("%d keys were taken, want about %d", n, keys)
	}
	if details := wire.AsError(err).Details; fmt.Sprint(details["limit"]) != fmt.Sprint(keys) {
		t.Errorf("details: got %v, want the limit %d", details, keys)
	}
	if got, want := r.last(), uint64(n); got != want {
		t.Errorf("%d messages are stored, %d were acknowledged", got, want)
	}
	if got, want := r.once(ann, "k0", `"k0"`), (client.Result{Seq: first.Seq, Duplicate: true}); got != want {
		t.Errorf("a known key: got %+v, want %+v", got, want)
	}
	publish(t, ann, r.topic, `"without a key"`)
}

// One of two replicas is killed while both fill: the other one notes all.
func TestAReplicaIsKilledWhileItFills(t *testing.T) {
	t.Parallel()
	const ids = 2000
	r := remember(t, 10*ids, 2, 1)
	last := make([]int64, 0, ids)
	for i := range ids {
		last = append(last, r.straight("ann", fmt.Sprint(i), fmt.Sprint(i)))
		if i == ids/2 {
			r.replicas[0].kill()
		}
	}
	r.forgets()
	eventually(t, "all ids are in the ledger", func() (any, bool) { p := r.position(); return p, p.Keys >= ids })
	ann := r.as(0, "ann")
	for i := 0; i < ids; i += ids / 50 {
		if got, want := r.once(ann, fmt.Sprint(i), fmt.Sprint(i)), (client.Result{Seq: last[i], Duplicate: true}); got != want {
			t.Errorf("key %d: got %+v, want %+v", i, got, want)
		}
	}
}

// An atomic batch that is sent again is answered with where it is. One that
// shares a key with another is refused as a whole.
func TestAnAtomicBatchIsStoredOnce(t *testing.T) {
	t.Parallel()
	r := remember(t, 1000, 1, 1)
	ann := r.as(0, "ann")
	batch := func(keys ...string) (seqs []int64, duplicates int, err error) {
		t.Helper()
		messages := make([]map[string]any, len(keys))
		for i, key := range keys {
			messages[i] = map[string]any{"topic": r.topic, "data": key, "key": key}
		}
		var raw json.RawMessage
		eventually(t, "a batch", func() (any, bool) {
			raw, err = ann.Request(within(t), "batch", map[string]any{"atomic": true, "messages": messages})
			return err, errorText(err) != "UNAVAILABLE none"
		})
		if err != nil {
			return nil, 0, err
		}
		var answer struct{ Results []wire.ReplayResult }
		must(t, json.Unmarshal(raw, &answer))
		for _, res := range answer.Results {
			seqs = append(seqs, res.Seq)
			if res.Duplicate {
				duplicates++
			}
		}
		return seqs, duplicates, nil
	}
	first, duplicates, err := batch("a", "b", "c")
	must(t, err)
	if duplicates != 0 || len(first) != 3 || first[0]+2 != first[2] {
		t.Fatalf("the first: got %v with %d duplicates", first, duplicates)
	}
	for _, when := range []string{"at once", "after the stream forgot"} {
		again, duplicates, err := batch("a", "b", "c")
		must(t, err)
		if fmt.Sprint(again) != fmt.Sprint(first) || duplicates != 3 {
			t.Errorf("%s: got %v with %d duplicates, want %v with 3", when, again, duplicates, first)
		}
		r.forgets()
	}
	before := r.last()
	_, _, err = batch("x", "b", "y")
	if got, want := errorText(err), "ALREADY_EXISTS none"; got != want {
		t.Errorf("a batch with an old key: got %s (%v), want %s", got, err, want)
	}
	if details := wire.AsError(err).Details; fmt.Sprint(details["message"]) != "1" || fmt.Sprint(details["seq"]) != fmt.Sprint(first[1]) {
		t.Errorf("details: got %v, want message 1 at %d", details, first[1])
	}
	if after := r.last(); after != before {
		t.Errorf("a refused batch brought the stream from %d to %d", before, after)
	}
	if got, want := fmt.Sprint(r.deliveries()), fmt.Sprint(map[string]int{`"a"`: 1, `"b"`: 1, `"c"`: 1}); got != want {
		t.Errorf("deliveries: got %s, want %s", got, want)
	}
}
