package ledger

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, name := range natsdev.Lingering() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

const patience = 20 * time.Second

// book is the ledger of a rule, with its stream and nobody who fills it.
type book struct {
	*Ledger
	t    *testing.T
	rule *rules.Topic
	nc   *nats.Conn
	js   jetstream.JetStream
}

func rule(t *testing.T, replay string) *rules.Topic {
	t.Helper()
	set, err := rules.Parse([]byte(`topics: [{name: chat, match: "chat.>", replay: `+replay+`}]`), rules.Dev)
	if err != nil {
		t.Fatal(err)
	}
	return set.Topics[0]
}

func open(t *testing.T, replay string) *book {
	t.Helper()
	nc, err := nats.Connect(natsdev.Test(t).ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	b := &book{t: t, rule: rule(t, replay), nc: nc}
	if b.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	b.make()
	if _, err := Setup(t.Context(), b.js, "fl", b.rule, 1); err != nil {
		t.Fatal(err)
	}
	b.Ledger = Open(nc, "fl", b.rule)
	return b
}

// make makes the stream.
func (b *book) make() {
	b.t.Helper()
	if err := (streams.Store{JetStream: b.js, Namespace: "fl"}).Ensure(b.t.Context(), b.rule); err != nil {
		b.t.Fatal(err)
	}
}

// say stores a message under an id; "" is none.
func (b *book) say(id string) Entry {
	b.t.Helper()
	msg := &nats.Msg{Subject: "fl.topic.chat.a", Data: []byte("1"), Header: nats.Header{}}
	if id != "" {
		msg.Header.Set(wire.HeaderMsgID, id)
	}
	ack, err := b.js.PublishMsg(b.t.Context(), msg)
	if err != nil {
		b.t.Fatal(err)
	}
	stream, err := b.js.Stream(b.t.Context(), "FL_CHAT")
	if err != nil {
		b.t.Fatal(err)
	}
	stored, err := stream.GetMsg(b.t.Context(), ack.Sequence)
	if err != nil {
		b.t.Fatal(err)
	}
	return Entry{Seq: int64(ack.Sequence), Ts: stored.Time.UnixMilli()}
}

// now is the position of a ledger that has everything.
func (b *book) now() *Position {
	b.t.Helper()
	stream, err := b.js.Stream(b.t.Context(), "FL_CHAT")
	if err != nil {
		b.t.Fatal(err)
	}
	is := stream.CachedInfo()
	at := is.TimeStamp.UnixMilli()
	return &Position{UpTo: at, At: at, Last: int64(is.State.LastSeq), Created: is.Created.UnixMilli(), Window: 120_000}
}

// advance tells the ledger how far it is, and forgets what was read of that.
func (b *book) advance(p *Position) {
	b.t.Helper()
	if _, err := b.Advance(b.t.Context(), *p); err != nil {
		b.t.Fatal(err)
	}
	b.seen.last = nil
}

func (b *book) fill(id string, e Entry) {
	b.t.Helper()
	if err := b.Fill(b.t.Context(), id, e, b.now()); err != nil {
		b.t.Fatalf("fill %s: %v", id, err)
	}
}

// check is the place of an id: 0 where it is free.
func (b *book) check(id string) int64 {
	b.t.Helper()
	found, err := b.Check(b.t.Context(), id, b.rule.Replay.DedupeKeys)
	if err != nil {
		b.t.Fatalf("check %s: %v", id, err)
	}
	if found == nil {
		return 0
	}
	return found.Seq
}

func outcome(err error) string {
	e := wire.AsErrorOrNil(err)
	if e == nil {
		return "none refused"
	}
	return fmt.Sprint(e.Code, " ", e.Details["outcome"])
}

func TestNeededBeyondTheStreamsWindow(t *testing.T) {
	for replay, want := range map[string]bool{`{}`: false, `{dedupe: 10s}`: false, `{dedupe: 2m}`: false, `{dedupe: 121s}`: true, `{dedupe: 168h}`: true} {
		if got := Needed(rule(t, replay).Replay); got != want {
			t.Errorf("%s: got %v, want %v", replay, got, want)
		}
	}
	if Needed(nil) {
		t.Error("a rule without replay needs a ledger")
	}
}

// Workers may write any id; every key is one that a bucket takes.
func TestKeysAreTokens(t *testing.T) {
	seen := map[string]string{}
	for _, id := range []string{"", "a", "a.b", "chat.a|7 €\n", "AAAA:ann:k", "AAAA:ann:k:1", string(make([]byte, 4096))} {
		key := Key(id)
		if len(key) != 24 || wire.EscapeToken(key) != key || seen[key] != "" {
			t.Errorf("%q: got the key %q", id, key)
		}
		seen[key] = "taken by " + id
	}
}

func TestFirstMessageOfAnIDStays(t *testing.T) {
	b := open(t, `{dedupe: 1h}`)
	b.advance(b.now())
	if got := b.check("a"); got != 0 {
		t.Errorf("an unknown id: got %d, want 0", got)
	}
	first := b.say("a")
	b.say("")
	if got := b.check("a"); got != 0 {
		t.Errorf("before it is noted: got %d, want 0", got)
	}
	b.fill("a", first)
	b.fill("a", first) // it came again
	b.fill("a", Entry{Seq: first.Seq + 1, Ts: first.Ts + 1})
	if got := b.check("a"); got != first.Seq {
		t.Errorf("got %d, want %d", got, first.Seq)
	}
	second := b.say("b")
	if err := b.Note("b", second.Seq); err != nil {
		t.Fatal(err)
	}
	if err := b.nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); b.check("b") != second.Seq; {
		if time.Now().After(deadline) {
			t.Fatal("what was noted is never there")
		}
	}
	b.fill("b", second)
	if got := b.check("b"); got != second.Seq {
		t.Errorf("noted and filled: got %d, want %d", got, second.Seq)
	}
}

// A message that its stream evicted was stored once: its id is still taken.
func TestAnEvictedMessageIsRemembered(t *testing.T) {
	b := open(t, `{dedupe: 1h, size: 1}`)
	first := b.say("a")
	b.fill("a", first)
	for range 3 {
		b.say("")
	}
	b.advance(b.now())
	if got := b.check("a"); got != first.Seq {
		t.Errorf("got %d, want %d", got, first.Seq)
	}
}

// A stream that was deleted and made anew never had what the ledger says: the
// ids are free, whether another message has their place by now, had it and was
// evicted, or none has come so far. The next message of an id takes the entry.
func TestALostStreamFreesItsIDs(t *testing.T) {
	b := open(t, `{dedupe: 1h, size: 2}`)
	for i := range 20 {
		b.fill(fmt.Sprint("old", i), b.say(fmt.Sprint("old", i)))
	}
	b.fill("noted by a gateway", Entry{Seq: b.say("noted by a gateway").Seq})
	if err := b.js.DeleteStream(t.Context(), "FL_CHAT"); err != nil {
		t.Fatal(err)
	}
	b.make()
	for i := range 12 {
		b.say(fmt.Sprint("new", i))
	}
	b.advance(b.now())
	for _, id := range []string{"old0", "old10", "old15", "noted by a gateway"} {
		if got := b.check(id); got != 0 {
			t.Errorf("%s: got %d, want 0", id, got)
		}
	}
	again := b.say("old0")
	b.fill("old0", again)
	if got := b.check("old0"); got != again.Seq {
		t.Errorf("stored again: got %d, want %d", got, again.Seq)
	}
}

// What an entry is worth whose message is not there to be asked.
// An entry that was deleted by hand frees the id and can be written again.
func TestADeletedEntryFreesItsID(t *testing.T) {
	b := open(t, `{dedupe: 1h}`)
	b.advance(b.now())
	b.fill("a", b.say("a"))
	bucket, err := b.js.KeyValue(t.Context(), "fl_dedupe_CHAT")
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.Delete(t.Context(), Key("a")); err != nil {
		t.Fatal(err)
	}
	if got := b.check("a"); got != 0 {
		t.Errorf("deleted: got %d, want 0", got)
	}
	next := Entry{Seq: b.say("b").Seq}
	b.fill("a", next)
	if e, err := b.entry(t.Context(), "a"); err != nil || e.Seq != next.Seq {
		t.Errorf("written again: got %+v, %v, want %d", e, err, next.Seq)
	}
}

// A key that is not at the expected revision is taken, in the words of a leader.
func TestPutKnowsATakenKey(t *testing.T) {
	b := open(t, `{dedupe: 1h}`)
	ctx := t.Context()
	if err := b.put(ctx, "a", Entry{Seq: 1}, 0); err != nil {
		t.Fatal(err)
	}
	for _, expected := range []int64{0, 7} {
		if err := b.put(ctx, "a", Entry{Seq: 2}, expected); !errors.Is(err, errTaken) {
			t.Errorf("at revision %d: got %v, want %v", expected, err, errTaken)
		}
	}
	if err := b.put(ctx, "a", Entry{Seq: 2}, 1); err != nil {
		t.Errorf("at its revision: %v", err)
	}
}

// Above the rule's bound new ids are refused, known ones answered; the bucket
// itself has a little room above the bound and then takes no more.
func TestAFullLedger(t *testing.T) {
	b := open(t, `{dedupe: 1h, dedupeKeys: 8}`)
	b.fill("known", b.say("known"))
	p := b.now()
	p.Keys = 8
	b.advance(p)
	if got := b.check("known"); got == 0 {
		t.Error("a known id is not found")
	}
	_, err := b.Check(t.Context(), "new", 8)
	if got, want := outcome(err), "RESOURCE_EXHAUSTED none"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p.Keys = 7
	p.At += 1000
	p.UpTo += 1000
	b.advance(p)
	if got := b.check("new"); got != 0 {
		t.Errorf("below the bound: got %d, want 0", got)
	}
	if err := b.Note("noted", 1); err != nil {
		t.Fatal(err)
	}
	_, err = b.Check(t.Context(), "new", 8)
	if got, want := outcome(err), "RESOURCE_EXHAUSTED none"; got != want {
		t.Errorf("with what was noted since: got %s, want %s", got, want)
	}
	for i := 0; ; i++ {
		err := b.put(t.Context(), fmt.Sprint("more", i), Entry{Seq: 1}, 0)
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil || i > 2000 {
			t.Fatalf("entry %d: got %v, want %v", i, err, ErrFull)
		}
	}
	p.At += 1000
	b.advance(p) // how far it is can be said even so
}

// New ids wait while the ledger is behind by more than half of what the stream
// remembers itself, and where nobody has ever said how far it is.
// No clock hides that nobody fills: one that is slow is overtaken by the time
// that has gone by since the position was first seen.
// The word of the replica that is further stands; of another stream it is void.
// What became of a batch shows once the filler has come to it.
// A rule that changes takes its ledger along; what an operator added stays.
func TestSetupFollowsTheRule(t *testing.T) {
	b := open(t, `{dedupe: 1h, dedupeKeys: 100}`)
	stream, err := b.js.Stream(t.Context(), "KV_fl_dedupe_CHAT")
	if err != nil {
		t.Fatal(err)
	}
	made := stream.CachedInfo().Created
	cfg := stream.CachedInfo().Config
	cfg.Metadata["mine"] = "yes"
	if _, err := b.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	b.fill("a", b.say("a"))
	created, err := Setup(t.Context(), b.js, "fl", rule(t, `{dedupe: 48h, dedupeKeys: 5}`), 1)
	if err != nil || !created.Equal(made) {
		t.Fatalf("got %v, %v, want the one from %v", created, err, made)
	}
	is, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := is.Config.MaxAge, 48*time.Hour; got != want {
		t.Errorf("keys live for %s, want %s", got, want)
	}
	if got, want := is.Config.MaxMsgs, int64(5+1024); got != want {
		t.Errorf("at most %d keys, want %d", got, want)
	}
	if is.State.Msgs != 1 || is.Config.Metadata["mine"] != "yes" {
		t.Errorf("got %d entries, metadata %v", is.State.Msgs, is.Config.Metadata)
	}
}
