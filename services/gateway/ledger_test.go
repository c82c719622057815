package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/ledger"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// filled is a gateway with a rule that has a ledger, which the test fills.
type filled struct {
	*rig
	js     jetstream.JetStream
	ledger *ledger.Ledger
}

const keptFor = `{topics: [{name: chat, match: "chat.>", subscribe: any, publish: any, replay: {dedupe: %s}}]}`

func startFilled(t *testing.T) *filled {
	t.Helper()
	f := &filled{rig: startGateway(t, natsdev.Test(t))}
	f.apply(fmt.Sprintf(keptFor, "1h"))
	nc := f.bus()
	var err error
	if f.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream is there", func() bool { _, err := f.js.Stream(t.Context(), "FL_CHAT"); return err == nil })
	rule := f.g.rules.Current().Topic("chat.a")
	if _, err := ledger.Setup(t.Context(), f.js, "fl", rule, 1); err != nil {
		t.Fatal(err)
	}
	f.ledger = ledger.Open(nc, "fl", rule)
	if _, err := f.ledger.Advance(t.Context(), f.position()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *filled) position() ledger.Position {
	f.t.Helper()
	stream, err := f.js.Stream(f.t.Context(), "FL_CHAT")
	if err != nil {
		f.t.Fatal(err)
	}
	is := stream.CachedInfo()
	at := is.TimeStamp.UnixMilli()
	return ledger.Position{UpTo: at, At: at, Last: int64(is.State.LastSeq), Created: is.Created.UnixMilli(), Window: 120_000}
}

// store stores a message as a gateway does for a user, under any id.
func (f *filled) store(user, id, data string) int64 {
	f.t.Helper()
	ack, err := f.js.PublishMsg(f.t.Context(), &nats.Msg{Subject: "fl.topic.chat.a", Data: []byte(data), Header: nats.Header{
		wire.HeaderUser: {user}, wire.HeaderMsgID: {id},
	}})
	if err != nil {
		f.t.Fatal(err)
	}
	return int64(ack.Sequence)
}

func (f *filled) fill(id string, seq int64) {
	f.t.Helper()
	p := f.position()
	if err := f.ledger.Fill(f.t.Context(), id, ledger.Entry{Seq: seq, Ts: p.At}, &p); err != nil {
		f.t.Fatal(err)
	}
}

func (f *filled) ann() *peer {
	f.t.Helper()
	p := f.dial()
	p.hello(token(f.t, auth.Claims{User: "ann"}))
	return p
}

// An atomic batch whose acknowledgement was lost, and whose ids the filler has
// not come to: the stream refuses it, and the ledger says where it is.
func TestALostBatchIsFoundInTheLedger(t *testing.T) {
	f := startFilled(t)
	ids := []string{streams.MessageID("chat.a", "ann", "x", 0), streams.MessageID("chat.a", "ann", "y", 0)}
	first, second := f.store("ann", ids[0], `1`), f.store("ann", ids[1], `2`)
	p := f.ann()
	p.send(`{"op":"batch","id":2,"atomic":true,"messages":[{"topic":"chat.a","data":1,"key":"x"},{"topic":"chat.a","data":2,"key":"y"}]}`)
	eventually(t, "the batch was looked up", func() bool { return f.g.metrics.ledgerLookups.Load() > 0 })
	f.fill(ids[0], first)
	f.fill(ids[1], second)
	p.expect(fmt.Sprintf(`{"id":2,"ok":{"results":[{"seq":%d,"duplicate":true},{"seq":%d,"duplicate":true}]}}`, first, second))
	// With a message that has no key nobody can tell the batch from another.
	p.send(`{"op":"batch","id":3,"atomic":true,"messages":[{"topic":"chat.a","data":1,"key":"x"},{"topic":"chat.a","data":2}]}`)
	if details := p.expectError(3, "ALREADY_EXISTS"); details["outcome"] != "none" {
		t.Errorf("got details %v, want outcome none", details)
	}
	if got := f.position().Last; got != second {
		t.Errorf("the stream is at %d, want %d", got, second)
	}
}

// An id that somebody else has written, straight on the bus, does not silence
// the user whose it is.
func TestATakenIDDoesNotSilenceItsOwner(t *testing.T) {
	f := startFilled(t)
	id := streams.MessageID("chat.a", "ann", "k", 0)
	taken := f.store("mallory", id, `"mine"`)
	f.fill(id, taken)
	p := f.ann()
	for i, want := range []string{
		fmt.Sprintf(`{"id":2,"ok":{"seq":%d}}`, taken+1),
		fmt.Sprintf(`{"id":3,"ok":{"seq":%d,"duplicate":true}}`, taken+1),
	} {
		p.send(fmt.Sprintf(`{"op":"publish","id":%d,"topic":"chat.a","data":1,"key":"k"}`, i+2))
		p.expect(want)
	}
}

// What a connection publishes is stored in its order, with keys and without.
func TestKeysDoNotChangeTheOrder(t *testing.T) {
	const n = 200
	f := startFilled(t)
	p := f.ann()
	var frames []string
	for i := range n {
		key := ""
		if i%3 != 1 {
			key = fmt.Sprintf(`,"key":"k%d"`, i)
		}
		frames = append(frames, fmt.Sprintf(`{"op":"publish","id":%d,"topic":"chat.a","data":%d%s}`, i+2, i, key))
	}
	p.send("[" + strings.Join(frames, ",") + "]")
	seqs := map[int64]int64{}
	for range n {
		var answer struct {
			ID int64
			OK struct{ Seq int64 }
		}
		frame := p.read()
		if err := json.Unmarshal([]byte(frame), &answer); err != nil || answer.OK.Seq == 0 {
			t.Fatalf("got %s", frame)
		}
		seqs[answer.ID] = answer.OK.Seq
	}
	for id := int64(3); id < n+2; id++ {
		if seqs[id] != seqs[id-1]+1 {
			t.Errorf("frame %d is at %d, the one before it at %d", id, seqs[id], seqs[id-1])
		}
	}
}

// A rule's ledger comes and goes with what the rule promises.
func TestALedgerFollowsItsRule(t *testing.T) {
	f := startFilled(t)
	p := f.ann()
	publish := func(id int, key string) {
		t.Helper()
		p.send(fmt.Sprintf(`{"op":"publish","id":%d,"topic":"chat.a","data":1,"key":%q}`, id, key))
	}
	publish(2, "a")
	p.expect(`{"id":2,"ok":{"seq":1}}`)
	f.apply(fmt.Sprintf(keptFor, "2m"))
	lookups := f.g.metrics.ledgerLookups.Load()
	publish(3, "b")
	p.expect(`{"id":3,"ok":{"seq":2}}`)
	if got := f.g.metrics.ledgerLookups.Load(); got != lookups {
		t.Errorf("%d lookups for a rule that needs none", got-lookups)
	}
	f.apply(fmt.Sprintf(keptFor, "2h"))
	if _, err := f.ledger.Advance(t.Context(), f.position()); err != nil {
		t.Fatal(err)
	}
	for id, key := range []string{2: "a", 3: "b"} { // the ledger knows one, the stream both
		if key != "" {
			publish(id+10, key)
			p.expect(fmt.Sprintf(`{"id":%d,"ok":{"seq":%d,"duplicate":true}}`, id+10, id-1))
		}
	}
}

// While the ledger can't be read a publish with a key is refused within its
// deadline, and one without is not held up.
func TestALedgerThatIsAway(t *testing.T) {
	f := startFilled(t)
	if err := f.js.DeleteStream(t.Context(), "KV_fl_dedupe_CHAT"); err != nil {
		t.Fatal(err)
	}
	p := f.ann()
	began := time.Now()
	p.send(`{"op":"publish","id":2,"topic":"chat.a","data":1,"key":"a"}`)
	if details := p.expectError(2, "UNAVAILABLE"); details["outcome"] != "none" {
		t.Errorf("got details %v, want outcome none", details)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
	p.send(`{"op":"publish","id":3,"topic":"chat.a","data":1}`)
	p.expect(`{"id":3,"ok":{"seq":1}}`)
	if got := f.g.metrics.ledgerRefusals.Load(); got != 1 {
		t.Errorf("%d refusals are counted, want 1", got)
	}
}
