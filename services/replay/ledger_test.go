package replay

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/ledger"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// filling is a stream whose rule has a ledger, and its filler.
type filling struct {
	*stream
	t    *testing.T
	js   jetstream.JetStream
	rule *rules.Topic
}

// openFilling makes the stream, does before, and starts the filler.
func openFilling(t *testing.T, replay string, before func(*filling)) *filling {
	t.Helper()
	server := natsdev.Test(t)
	connect := func() *nats.Conn {
		nc, err := nats.Connect(server.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	set, err := rules.Parse([]byte(`topics: [{name: t, match: "t.>", replay: `+replay+`}]`), rules.Dev)
	if err != nil {
		t.Fatal(err)
	}
	f := &filling{t: t, rule: set.Topics[0]}
	publish := connect()
	if f.js, err = jetstream.New(connect()); err != nil {
		t.Fatal(err)
	}
	reader, err := newReader(connect())
	if err != nil {
		t.Fatal(err)
	}
	f.make()
	s := &Service{cfg: Config{Namespace: "fl", Replicas: 1}, requests: publish, slog: discard}
	f.stream = newStream(f.rule.Stream("fl"), "fl", f.rule.Replay, publish, reader, 1<<20, time.Now)
	f.fill = s.newFiller(f.name, f.rule, f.js)
	if before != nil {
		before(f)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.fill.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return f
}

func (f *filling) make() {
	f.t.Helper()
	if _, err := (streams.Store{JetStream: f.js, Namespace: "fl"}).Update(f.t.Context(), f.rule); err != nil {
		f.t.Fatal(err)
	}
}

// say stores n messages as a worker does that sets ids.
func (f *filling) say(prefix string, n int) {
	f.t.Helper()
	for i := range n {
		if _, err := f.js.PublishAsync("fl.topic.t.a", []byte("1"), jetstream.WithMsgID(fmt.Sprint(prefix, i))); err != nil {
			f.t.Fatal(err)
		}
	}
	select {
	case <-f.js.PublishAsyncComplete():
	case <-time.After(fillPatience):
		f.t.Fatal("publishes are not acknowledged")
	}
}

const fillPatience = 20 * time.Second

// eventually polls what the filler makes true.
func (f *filling) eventually(what string, ok func() (any, bool)) {
	f.t.Helper()
	deadline := time.After(fillPatience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got, done := ok()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			f.t.Fatalf("never: %s; last: %v", what, got)
		}
	}
}

// has waits until the ledger has so many ids, and has come to the stream's end.
func (f *filling) has(ids int) {
	f.t.Helper()
	now := time.Now().UnixMilli()
	f.eventually(fmt.Sprintf("%d ids are in the ledger", ids), func() (any, bool) {
		p := f.fill.position.Load()
		return p, p != nil && p.Keys == int64(ids) && p.UpTo >= now
	})
}

func (f *filling) append(key string) wire.ReplayStored {
	f.t.Helper()
	var at wire.ReplayStored
	f.eventually("a message is stored under "+key, func() (any, bool) {
		var err error
		at, err = f.Append(f.t.Context(), Entry{Topic: "t.a", Payload: []byte("1"), ID: key})
		if err != nil && wire.CodeOf(err) != wire.Unavailable {
			f.t.Fatal(err)
		}
		return err, err == nil
	})
	return at
}

// forgets has the stream forget all ids, and gives it its window back.
func (f *filling) forgets() {
	f.t.Helper()
	is, err := f.js.Stream(f.t.Context(), f.name)
	if err != nil {
		f.t.Fatal(err)
	}
	window := func(d time.Duration) {
		f.t.Helper()
		cfg := is.CachedInfo().Config
		cfg.Duplicates = d
		if _, err := f.js.UpdateStream(f.t.Context(), cfg); err != nil {
			f.t.Fatal(err)
		}
	}
	was := is.CachedInfo().Config.Duplicates
	publish := func() bool {
		f.t.Helper()
		ack, err := f.js.Publish(f.t.Context(), "fl.topic.t.probe", nil, jetstream.WithMsgID("probe"))
		if err != nil {
			f.t.Fatal(err)
		}
		return ack.Duplicate
	}
	publish()
	// The server may look for old ids before it takes the new window, and then
	// not again for as long as the old one is: each change has it look again.
	narrow := 100 * time.Millisecond
	f.eventually("the stream forgets ids", func() (any, bool) {
		narrow += time.Millisecond
		window(narrow)
		return nil, !publish()
	})
	window(was)
}

// What the stream held when the ledger was turned on is in it, and what comes
// later; markers and messages without an id are not.
func TestFillerBeginsWithWhatIsThere(t *testing.T) {
	f := openFilling(t, `{dedupe: 1h}`, func(f *filling) { f.say("early", 50) })
	f.has(50)
	f.say("late", 50)
	f.has(100) // what is purged before it is seen is in no ledger
	if err := f.ClearTopic(t.Context(), "t.a"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Append(t.Context(), Entry{Topic: "t.a", Payload: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	f.has(100)
	if ids, lag := f.fill.standing(time.Now()); ids != 100 || lag > time.Minute {
		t.Errorf("standing: %d ids, %s behind", ids, lag)
	}
	if got := f.append("early7"); !got.Duplicate || got.Seq != 8 {
		t.Errorf("a key of a message that was cleared: got %+v, want the duplicate of 8", got)
	}
}

// Workers' publishes and atomic batches are stored once.
func TestAppendAsksTheLedger(t *testing.T) {
	f := openFilling(t, `{dedupe: 1h}`, nil)
	first := f.append("a")
	batch := []Entry{{Topic: "t.a", Payload: []byte("1"), ID: "b"}, {Topic: "t.a", Payload: []byte("2"), ID: "c"}}
	stored, err := f.AppendAll(t.Context(), batch)
	if err != nil || len(stored) != 2 || stored[0].Duplicate {
		t.Fatalf("a batch: got %+v, %v", stored, err)
	}
	f.has(3)
	f.forgets()
	f.has(4) // the probe's
	if got, want := f.append("a"), (wire.ReplayStored{Seq: first.Seq, Duplicate: true}); got != want {
		t.Errorf("again: got %+v, want %+v", got, want)
	}
	again, err := f.AppendAll(t.Context(), batch)
	if err != nil || len(again) != 2 || again[0] != (wire.ReplayStored{Seq: stored[0].Seq, Duplicate: true}) || again[1] != (wire.ReplayStored{Seq: stored[1].Seq, Duplicate: true}) {
		t.Errorf("the batch again: got %+v, %v, want the duplicates of %+v", again, err, stored)
	}
	batch[0].ID = "d"
	if _, err := f.AppendAll(t.Context(), batch); wire.CodeOf(err) != wire.AlreadyExists {
		t.Errorf("a batch with an old key: got %v, want %s", err, wire.AlreadyExists)
	}
}

// A batch that was stored a moment ago, and whose acknowledgement was lost, is
// refused by the stream before the ledger knows of it.
func TestALostBatchIsResolved(t *testing.T) {
	f := openFilling(t, `{dedupe: 1h}`, nil)
	batch := []Entry{{Topic: "t.a", Payload: []byte("1"), ID: "lost0"}, {Topic: "t.a", Payload: []byte("2"), ID: "lost1"}}
	f.eventually("the ledger can be asked", func() (any, bool) {
		_, err := f.fill.ledger.Check(t.Context(), "nobody's", 1000)
		return err, err == nil
	})
	for round := range 20 {
		for i := range batch {
			batch[i].ID = fmt.Sprint("lost", round, ".", i)
		}
		f.say(fmt.Sprint("lost", round, "."), 2)
		got, err := f.AppendAll(t.Context(), batch)
		if err != nil || !got[0].Duplicate || got[0].Seq+1 != got[1].Seq {
			t.Fatalf("round %d: got %+v, %v, want both as duplicates", round, got, err)
		}
	}
}

// A ledger that was deleted is written again from what the stream holds.
func TestALostLedgerIsWrittenAgain(t *testing.T) {
	f := openFilling(t, `{dedupe: 1h}`, nil)
	f.say("a", 100)
	f.has(100)
	if err := f.js.DeleteStream(t.Context(), "KV_fl_dedupe_T"); err != nil {
		t.Fatal(err)
	}
	f.eventually("the session ends", func() (any, bool) { n := f.fill.counts.interruptions.Load(); return n, n > 0 })
	f.has(100)
}

// A stream that was deleted and made anew is filled from its beginning.
func TestAStreamMadeAnewIsFilled(t *testing.T) {
	f := openFilling(t, `{dedupe: 1h}`, nil)
	f.say("old", 20)
	f.has(20)
	created := f.fill.position.Load().Created
	if err := f.js.DeleteStream(t.Context(), f.name); err != nil {
		t.Fatal(err)
	}
	f.make()
	f.say("new", 10)
	f.eventually("the new stream is filled", func() (any, bool) {
		p := f.fill.position.Load()
		return p, p.Created > created && p.Keys == 30
	})
	f.eventually("what is known is of the new stream", func() (any, bool) {
		found, err := f.fill.ledger.Check(t.Context(), "old3", 1000)
		return found, err == nil && found == nil
	})
	if got := f.append("old3"); got.Duplicate || got.Seq != 11 {
		t.Errorf("a key of the lost stream: got %+v, want it stored as 11", got)
	}
	f.has(30) // the entry was there
	found, err := f.fill.ledger.Check(t.Context(), "old3", 1000)
	if err != nil || found == nil || found.Seq != 11 {
		t.Errorf("its entry: got %+v, %v, want 11", found, err)
	}
}

// The filler does not go past an id that a full ledger does not take, and goes
// on once there is room.
func TestFillerWaitsForRoom(t *testing.T) {
	const room = 1 + 1024 // with the rule's bound of 1; the position takes one
	f := openFilling(t, `{dedupe: 1h, dedupeKeys: 1, size: 5000}`, nil)
	f.say("a", room+100)
	f.eventually("the ledger is full", func() (any, bool) { n := f.fill.counts.full.Load(); return n, n > 0 })
	// Who publishes knows of it within a second.
	f.eventually("the ledger is known to be full", func() (any, bool) {
		found, err := f.fill.ledger.Check(t.Context(), "another", 1)
		return found, err != nil
	})
	_, err := f.Append(t.Context(), Entry{Topic: "t.a", Payload: []byte("1"), ID: "new"})
	var e *wire.Error
	if !errors.As(err, &e) || e.Details["outcome"] != "none" || e.Code != wire.ResourceExhausted && e.Code != wire.Unavailable {
		t.Errorf("a new key: got %v, want a refusal with outcome none", err)
	}
	bucket, err := f.js.Stream(t.Context(), ledger.Stream(ledger.Bucket("fl", f.rule)))
	if err != nil {
		t.Fatal(err)
	}
	cfg := bucket.CachedInfo().Config
	cfg.MaxMsgs = 10 * room
	if _, err := f.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	f.has(room + 100)
}
