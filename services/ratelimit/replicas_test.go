package ratelimit

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// What one replica changes is known to the other at once: not only when what it
// has of the key is too old to deny from.
func TestChangesAreHeardByOtherReplicas(t *testing.T) {
	t.Parallel()
	r := startRig(t, 2)
	here, there := r.replicas[0], r.replicas[1]
	consume := func(key string) rigAnswer {
		return r.ask("consume."+there.id, `{"policy":"five","key":"`+key+`","cost":5}`)
	}
	began := time.Now()
	const rounds = 20
	for i := range rounds {
		key := fmt.Sprint("k", i)
		id := wire.LimitKey{Policy: "five", Key: key}
		if a := consume(key); a.fields["allowed"] != true {
			t.Fatalf("a full bucket: %s", a.text)
		}
		if a := consume(key); a.fields["allowed"] != false {
			t.Fatalf("an empty bucket: %s", a.text)
		}
		if _, err := here.Reset(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.eventually("the other to hear of the reset", func() bool { return consume(key).fields["allowed"] == true })
		if _, err := here.Ban(t.Context(), wire.LimitBan{Policy: "five", Key: key}); err != nil {
			t.Fatal(err)
		}
		r.eventually("the other to hear of the ban", func() bool { return consume(key).fields["banned"] == true })
		if _, err := here.Unban(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.eventually("the other to hear of the end of the ban", func() bool { return consume(key).fields["banned"] == nil })
	}
	// Each of the three would take a second that is not heard.
	if took := time.Since(began); took > rounds*fresh {
		t.Errorf("%d rounds took %s", rounds, took)
	}
}

// Whatever is changed, everybody is told, with a revision above that of what was
// answered before.
func TestChangesAreSaid(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1)
	sub, err := r.nc.SubscribeSync("fl.limits.changed")
	if err == nil {
		err = r.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		endpoint, body string
		want           wire.LimitChange
	}{
		{"refund", `{"policy":"five","key":"k","id":"i"}`, wire.LimitChange{Policy: "five", Key: "k"}},
		{"ban", `{"policy":"five","key":"k","duration":"10m"}`, wire.LimitChange{Policy: "five", Key: "k", BannedMs: 600_000}},
		{"unban", `{"policy":"five","key":"k"}`, wire.LimitChange{Policy: "five", Key: "k"}},
		{"reset", `{"policy":"five","key":"k"}`, wire.LimitChange{Policy: "five", Key: "k"}},
		{"clear", `{"policy":"five"}`, wire.LimitChange{Policy: "five"}},
		{"clear", `{}`, wire.LimitChange{}},
	} {
		r.ask("consume", `{"policy":"five","key":"k"}`)
		before := uint64(r.ask("consume", `{"policy":"five","key":"k"}`).fields["revision"].(float64))
		if a := r.ask(c.endpoint, c.body); a.code != "" {
			t.Fatalf("%s: %s", c.endpoint, a.text)
		}
		msg, err := sub.NextMsg(rigPatience)
		if err != nil {
			t.Fatalf("%s says nothing: %v", c.endpoint, err)
		}
		var got wire.LimitChange
		if err := json.Unmarshal(msg.Data, &got); err != nil {
			t.Fatal(err)
		}
		if got.Revision <= before {
			t.Errorf("%s: revision %d after %d", c.endpoint, got.Revision, before)
		}
		got.Revision = 0
		if c.want.BannedMs-got.BannedMs < 5000 && got.BannedMs <= c.want.BannedMs { // some of it is over
			got.BannedMs = c.want.BannedMs
		}
		if got != c.want {
			t.Errorf("%s: said %+v, want %+v", c.endpoint, got, c.want)
		}
		r.ask("unban", `{"policy":"five","key":"k"}`)
		if _, err := sub.NextMsg(rigPatience); err != nil {
			t.Fatal(err)
		}
	}
	r.ask("refund", `{"policy":"five","key":"k","id":"twice"}`)
	r.ask("refund", `{"policy":"five","key":"k","id":"twice"}`)
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	// Whoever made the first may not have come to say it.
	if n, _, _ := sub.Pending(); n != 2 {
		t.Errorf("of two refunds that are one, %d were said", n)
	}
	if got := r.replicas[0].metrics.refunds.Load(); got != 2 { // with that above
		t.Errorf("%d refunds are counted, want 2", got)
	}
}

// A replica that is asked for a key which another one prefers has that decide, and
// decides itself where it does not answer.
func TestKeysAreDecidedWhereTheyArePreferred(t *testing.T) {
	t.Parallel()
	r := startRig(t, 2)
	r.eventually("the replicas to know each other", func() bool {
		return r.replicas[0].client.Counts().Replicas == 2 && r.replicas[1].client.Counts().Replicas == 2
	})
	const keys = 40
	for i := range keys {
		r.wants("consume", fmt.Sprintf(`{"policy":"five","key":"k%d","cost":3}`, i), `{"allowed":true,"remaining":2,"limit":5}`)
		a := r.wants("consume", fmt.Sprintf(`{"batch":[{"policy":"five","key":"k%d","n":5}]}`, i), `{"allowed":false}`)
		if item := a.fields["batch"].([]any)[0].(map[string]any); item["granted"] != 2.0 {
			t.Errorf("granted %v of 5 with 2 left", item["granted"])
		}
		r.wants("consume", fmt.Sprintf(`{"policy":"five","key":"k%d","cost":9}`, i), `{"allowed":false,"remaining":0,"limit":5,"retryAfterMs":null}`)
	}
	forwarded, held := int64(0), int64(0)
	for _, s := range r.replicas {
		forwarded += s.metrics.forwarded.Load()
		held += s.metrics.conflicts.Load()
	}
	if forwarded == 0 {
		t.Error("nothing was forwarded")
	}
	if held > keys/4 {
		t.Errorf("%d writes met another replica's, though each key has one that decides", held)
	}
	// A replica that says that it is there and does not answer costs time, and no
	// decision.
	quiet, err := r.nc.SubscribeSync("fl.svc.ratelimit.consume.quiet")
	if err != nil {
		t.Fatal(err)
	}
	announcement, err := json.Marshal(wire.LimitReplica{ID: "quiet"})
	if err != nil {
		t.Fatal(err)
	}
	announce := func() {
		if err := r.nc.Publish("fl.limits.replica", announcement); err != nil {
			t.Fatal(err)
		}
	}
	r.eventually("the replicas to know of it", func() bool {
		announce()
		return r.replicas[0].client.Counts().Replicas == 3 && r.replicas[1].client.Counts().Replicas == 3
	})
	for i := 0; ; i++ {
		announce()
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		rep, err := bus.Call[wire.LimitRequest, wire.LimitReply](ctx, r.nc, "fl.svc.ratelimit.consume",
			wire.LimitRequest{LimitTake: wire.LimitTake{Policy: "five", Key: fmt.Sprint("q", i)}})
		cancel()
		if err != nil || !rep.Allowed || rep.Remaining != 4 {
			t.Fatalf("got %+v, %v", rep, err)
		}
		if n, _, _ := quiet.Pending(); n > 0 {
			break
		}
		if i > 1000 {
			t.Fatal("it was never asked")
		}
	}
	if r.replicas[0].metrics.forwardsFailed.Load()+r.replicas[1].metrics.forwardsFailed.Load() == 0 {
		t.Error("no forward failed")
	}
}

// Replicas come and go while they are asked, and no request is lost or refused.
func TestNoRequestIsLostToAReplicaThatStops(t *testing.T) {
	t.Parallel()
	r := startRig(t, 2)
	client := limits.NewClient(limits.Config{NATS: r.nc, Namespace: "fl"})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asking.Go(func() { _ = client.Run(ctx) })
	r.eventually("the client to know the replicas", func() bool { return client.Counts().Replicas == 2 })
	large := r.live.Current().Limit("large")
	const keys, callers = 16, 8
	var answered, granted atomic.Int64
	fail := func(err error) {
		if ctx.Err() == nil {
			t.Errorf("after %d answers: %v", answered.Load(), err)
			cancel()
		}
	}
	for i := range callers {
		asking.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprint("k", (n+i)%keys)
				if i%2 == 0 {
					a, err := client.Consume(ctx, limits.Ask{Limit: large, Key: key, Cost: 1}, 1)
					if err != nil {
						fail(err)
						return
					}
					granted.Add(a.Granted)
				} else {
					rep, err := bus.Call[wire.LimitRequest, wire.LimitReply](ctx, r.nc, "fl.svc.ratelimit.consume", wire.LimitRequest{LimitTake: wire.LimitTake{Policy: "large", Key: key}})
					if err != nil {
						fail(err)
						return
					}
					if rep.Allowed {
						granted.Add(1)
					}
				}
				answered.Add(1)
			}
		})
	}
	more := func() {
		t.Helper()
		before := answered.Load()
		r.eventually("more answers", func() bool { return answered.Load() > before+100 || ctx.Err() != nil })
	}
	more()
	for range 2 {
		r.replicas[0].stop()
		r.replicas = r.replicas[1:]
		more()
		r.start()
		more()
	}
	cancel()
	asking.Wait()
	taken := int64(0)
	for i := range keys {
		a := r.ask("consume", fmt.Sprintf(`{"policy":"large","key":"k%d"}`, i)) // a look may be a second old
		taken += 1_000_000 - 1 - int64(a.fields["remaining"].(float64))
	}
	// What was under way when the asking ended was taken and not heard of, and so
	// may have been what a replica that stopped was asked and did not answer.
	if got := granted.Load(); taken < got || taken > got+got/10+10*callers {
		t.Errorf("%d were granted, %d were taken", got, taken)
	}
}

// While the bucket can't be made a replica is not ready and refuses at once, and
// begins to count by itself when it can.
func TestJetStreamThatComesLate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// Another stream has the bucket's subjects: it can't be made.
	js := r.store.JetStream
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "other", Subjects: []string{"$KV.fl_ratelimit.>"}}); err != nil {
		t.Fatal(err)
	}
	s := r.run()
	r.eventually("the endpoints", s.serving.Load)
	if err := s.Ready(); err == nil {
		t.Error("ready without a bucket")
	}
	heard, err := r.nc.SubscribeSync("fl.limits.replica")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, endpoint := range []string{"consume", "peek", "refund", "reset", "ban", "unban", "clear", "consume." + s.id} {
		r.refused(endpoint, `{"policy":"five","key":"k","id":"i"}`, "UNAVAILABLE", "outcome", "none")
	}
	r.refused("consume", `{"takes":[{"policy":"five","key":"k"}]}`, "UNAVAILABLE", "outcome", "none")
	r.refused("consume", `{"batch":[{"policy":"five","key":"k"}]}`, "UNAVAILABLE", "outcome", "none")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("ten refusals took %s", took)
	}
	r.wants("policy", `{"policy":"five"}`, `{"capacity":5}`)
	if n, _, _ := heard.Pending(); n > 0 {
		t.Error("it says that it is there, and is not ready")
	}
	if err := js.DeleteStream(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	r.eventually("the replica to be ready", func() bool { return s.Ready() == nil })
	r.wants("consume", `{"policy":"five","key":"k"}`, `{"allowed":true,"remaining":4}`)
	if _, err := heard.NextMsg(rigPatience); err != nil {
		t.Errorf("it does not say that it is there: %v", err)
	}
	// The same when the bucket is lost later: it is made again.
	if err := js.DeleteStream(t.Context(), "KV_fl_ratelimit"); err != nil {
		t.Fatal(err)
	}
	r.eventually("the replica to count again", func() bool {
		a := r.ask("consume", `{"policy":"five","key":"after"}`)
		return a.code == "" && a.fields["allowed"] == true
	})
}

// A replica says that it goes before it stops answering.
func TestReplicaSaysThatItGoes(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1)
	heard, err := r.nc.SubscribeSync("fl.limits.replica")
	if err == nil {
		err = r.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	next := func() (said wire.LimitReplica) {
		t.Helper()
		msg, err := heard.NextMsg(rigPatience)
		if err == nil {
			err = json.Unmarshal(msg.Data, &said)
		}
		if err != nil {
			t.Fatal(err)
		}
		return said
	}
	want := wire.LimitReplica{ID: r.replicas[0].id}
	if got := next(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	r.replicas[0].stop()
	want.Leaving = true
	for said := next(); said != want; said = next() {
		if said.Leaving {
			t.Fatalf("got %+v, want %+v", said, want)
		}
	}
	if n, _, _ := heard.Pending(); n > 0 {
		t.Error("it says that it is there after it said that it goes")
	}
}

// A replica that can't count has those decide that can.
func TestWhoCannotCountHandsOn(t *testing.T) {
	t.Parallel()
	r := startRig(t, 2)
	a, b := r.replicas[0], r.replicas[1]
	r.eventually("the replicas to know each other", func() bool {
		return a.client.Counts().Replicas == 2 && b.client.Counts().Replicas == 2
	})
	key := func(of *rigReplica) string {
		for i := 0; ; i++ {
			if key := fmt.Sprint("k", i); of.client.Mine(key) {
				return key
			}
		}
	}
	a.clock.failures.Store(1000)
	ask := func(key string) (wire.LimitReply, error) {
		return a.Consume(t.Context(), wire.LimitRequest{LimitTake: wire.LimitTake{Policy: "five", Key: key}})
	}
	if rep, err := ask(key(b)); err != nil || !rep.Allowed {
		t.Errorf("a key of another replica: got %+v, %v", rep, err)
	}
	a.clock.failures.Store(1000) // it may have written meanwhile
	if rep, err := ask(key(a)); wire.CodeOf(err) != wire.Unavailable && (err != nil || a.clock.failures.Load() > 0) {
		t.Errorf("a key of its own: got %+v, %v", rep, err)
	}
}

// A clear of a policy that fails for one key is done for the others, and said.
func TestClearThatFailsInPart(t *testing.T) {
	t.Parallel()
	r := startRig(t, 2)
	if _, err := r.replicas[0].store.Put(t.Context(), kv.Write{Key: "v1.broken", Value: []byte("[]"), TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	heard, err := r.nc.SubscribeSync("fl.limits.changed")
	if err == nil {
		err = r.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		r.wants("consume", fmt.Sprintf(`{"policy":"five","key":"k%d","cost":5}`, i), `{"allowed":true}`)
	}
	if a := r.ask("clear", `{"policy":"five"}`); a.code != "INTERNAL" {
		t.Errorf("got %q %s, want INTERNAL", a.code, a.text)
	}
	if _, err := heard.NextMsg(rigPatience); err != nil {
		t.Errorf("nothing is said: %v", err)
	}
	for i := range 40 {
		r.wants("peek", fmt.Sprintf(`{"policy":"five","key":"k%d"}`, i), `{"remaining":5}`)
	}
}
