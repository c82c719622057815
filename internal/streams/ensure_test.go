package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

func info(t *testing.T, js jetstream.JetStream, name string) *jetstream.StreamInfo {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	must(t, err)
	return stream.CachedInfo()
}

func put(t *testing.T, js jetstream.JetStream, subject string) *jetstream.PubAck {
	t.Helper()
	ack, err := js.Publish(t.Context(), subject, []byte("1"))
	must(t, err)
	return ack
}

func TestEnsureMakesAStreamOnce(t *testing.T) {
	_, js := connect(t, natsdev.Test(t))
	s := Store{JetStream: js, Namespace: "fl"}
	r := rule(t, `{name: chat, match: "chat.>", replay: {size: 5}}`)
	must(t, s.Ensure(t.Context(), r))
	made := info(t, js, "FL_CHAT")
	put(t, js, "fl.topic.chat.a")
	for range 3 {
		must(t, s.Ensure(t.Context(), r))
	}
	again := info(t, js, "FL_CHAT")
	if !again.Created.Equal(made.Created) || again.State.Msgs != 1 {
		t.Errorf("created %v with %d messages, want %v and 1", again.Created, again.State.Msgs, made.Created)
	}
	if changed, err := s.Update(t.Context(), r); changed || err != nil {
		t.Errorf("what Ensure made is changed %v by Update, %v", changed, err)
	}
}

// Who may only make what is missing does not touch what is there.
func TestEnsureLeavesAnotherConfiguration(t *testing.T) {
	_, js := connect(t, natsdev.Test(t))
	s := Store{JetStream: js, Namespace: "fl"}
	must(t, s.Ensure(t.Context(), rule(t, `{name: chat, match: "chat.>", replay: {size: 5}}`)))
	must(t, s.Ensure(t.Context(), rule(t, `{name: chat, match: "chat.*", replay: {size: 50}}`)))
	cfg := info(t, js, "FL_CHAT").Config
	if cfg.MaxMsgsPerSubject != 6 || cfg.Subjects[0] != "fl.topic.chat.>" {
		t.Errorf("got %d messages of %v, want 6 of fl.topic.chat.>", cfg.MaxMsgsPerSubject, cfg.Subjects)
	}
}

// Services start at once and in any order: whoever comes first makes the
// stream, and nobody sees an error.
func TestEnsureAndUpdateByManyAtOnce(t *testing.T) {
	server := natsdev.Test(t)
	r := rule(t, `{name: chat, match: "chat.>", replay: {}}`)
	const callers = 8
	stores := make([]Store, callers)
	for i := range stores {
		_, js := connect(t, server)
		stores[i] = Store{JetStream: js, Namespace: "fl"}
	}
	for round := range 10 {
		errs := make([]error, callers)
		var work sync.WaitGroup
		for i, s := range stores {
			work.Go(func() {
				if i%4 == 3 {
					_, errs[i] = s.Update(t.Context(), r)
				} else {
					errs[i] = s.Ensure(t.Context(), r)
				}
			})
		}
		work.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		must(t, stores[0].JetStream.DeleteStream(t.Context(), "FL_CHAT"))
	}
}

func TestUpdateChangesInPlace(t *testing.T) {
	_, js := connect(t, natsdev.Test(t))
	s := Store{JetStream: js, Namespace: "fl"}
	rule := func(match, replay string) string {
		return `{name: chat, match: "` + match + `", replay: ` + replay + `}`
	}
	update := func(topic string, want bool) {
		t.Helper()
		set := parse(t, topic)
		changed, err := s.Update(t.Context(), set.Topics[0])
		must(t, err)
		if changed != want {
			t.Errorf("%s: changed %v, want %v", topic, changed, want)
		}
		cfg, err := Config(set.Topics[0], "fl", 1)
		must(t, err)
		if have := info(t, js, "FL_CHAT").Config; !same(have, cfg) {
			t.Errorf("%s:\nhave %+v\nwant %+v", topic, have, cfg)
		}
	}
	update(rule("chat.>", `{size: 5, ttl: 1h}`), true)
	first := put(t, js, "fl.topic.chat.a")
	for _, topic := range []string{
		rule("chat.>", `{size: 50, ttl: 1h}`),
		rule("chat.>", `{size: 2, ttl: 1h}`),
		rule("chat.>", `{size: 2, ttl: 2h}`),
		rule("chat.>", `{size: 2, ttl: 1ms}`),
		rule("chat.>", `{size: 2, ttl: 1h, dedupe: 10s}`),
		rule("chat.>", `{size: 2, ttl: 1h, maxMessageBytes: 100}`),
		rule("chat.>", `{size: 2, ttl: 1h, maxBytes: 1MiB}`),
		rule("chat.>", `{size: 2, ttl: 1h, archive: true}`),
		rule("chat.*", `{size: 2, ttl: 1h}`),
	} {
		update(topic, true)
		update(topic, false)
	}
	if state := info(t, js, "FL_CHAT").State; state.Msgs != 1 || state.LastSeq != first.Sequence {
		t.Errorf("the stream holds %d messages up to %d, want the first one", state.Msgs, state.LastSeq)
	}
}

// What an operator added to a stream stays; what would break a promise goes.
func TestUpdateKeepsWhatIsNotTheRules(t *testing.T) {
	_, js := connect(t, natsdev.Test(t))
	s := Store{JetStream: js, Namespace: "fl"}
	r := rule(t, `{name: chat, match: "chat.>", replay: {}}`)
	cfg, err := Config(r, "fl", 1)
	must(t, err)
	cfg.Compression = jetstream.S2Compression
	cfg.Metadata["owner"] = "ops"
	cfg.AllowRollup, cfg.RePublish.HeadersOnly, cfg.DenyDelete = true, true, false
	_, err = js.CreateStream(t.Context(), cfg)
	must(t, err)
	changed, err := s.Update(t.Context(), r)
	must(t, err)
	got := info(t, js, "FL_CHAT").Config
	if !changed || got.Compression != jetstream.S2Compression || got.Metadata["owner"] != "ops" || got.Metadata["fairlead.rule"] != "chat" {
		t.Errorf("changed %v to %+v; want compression and owner kept", changed, got)
	}
	if got.AllowRollup || got.RePublish.HeadersOnly || !got.DenyDelete {
		t.Errorf("rollup %v, republish headers only %v, deny delete %v; want what the rule says", got.AllowRollup, got.RePublish.HeadersOnly, got.DenyDelete)
	}
}

func TestDriftSaysWhatToDo(t *testing.T) {
	_, js := connect(t, natsdev.Test(t))
	s := Store{JetStream: js, Namespace: "fl"}
	r := rule(t, `{name: chat, match: "chat.>", replay: {}}`)
	memory, err := Config(r, "fl", 1)
	must(t, err)
	memory.Storage = jetstream.MemoryStorage
	_, err = js.CreateStream(t.Context(), memory)
	must(t, err)
	drifted := func(r string, say ...string) {
		t.Helper()
		set := parse(t, r)
		changed, err := s.Update(t.Context(), set.Topics[0])
		var drift *Drift
		if changed || !errors.As(err, &drift) || drift.Stream != set.Topics[0].Stream("fl") || drift.Rule != set.Topics[0].Name {
			t.Fatalf("changed %v, %v; want a drift of %s", changed, err, set.Topics[0].Name)
		}
		for _, word := range append(say, drift.Stream, "rule "+drift.Rule) {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q does not say %q", err, word)
			}
		}
		if _, err := js.Stream(t.Context(), drift.Stream); drift.Missing != errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("missing %v, looked for: %v", drift.Missing, err)
		}
		if drift.Unwrap() == nil {
			t.Error("the cause is lost")
		}
	}
	// The storage of a stream is for ever.
	drifted(`{name: chat, match: "chat.>", replay: {}}`, "storage", "Memory", "File", "another `name`", "delete the stream")
	if info(t, js, "FL_CHAT").Config.Storage != jetstream.MemoryStorage {
		t.Error("a stream that drifted was changed")
	}
	// A server alone has no replicas to give.
	must(t, js.DeleteStream(t.Context(), "FL_CHAT"))
	must(t, s.Ensure(t.Context(), r))
	drifted(`{name: chat, match: "chat.>", replay: {replicas: 3}}`, "replicas", "another `name`")
	// The subjects are another stream's, both for a stream that is there and
	// for one that is to be made.
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "AUDIT", Subjects: []string{"fl.topic.log.>"}})
	must(t, err)
	for _, name := range []string{"chat", "log"} {
		drifted(`{name: `+name+`, match: "log.>", replay: {}}`, "overlap", "another stream takes its subjects")
	}
}

// An error that is the network's is no drift: it passes.
func TestUpdateWithoutJetStreamIsNoDrift(t *testing.T) {
	server := natsdev.Test(t)
	nc, js := connect(t, server)
	s := Store{JetStream: js, Namespace: "fl"}
	r := rule(t, `{name: chat, match: "chat.>", replay: {}}`)
	must(t, s.Ensure(t.Context(), r))
	nc.Close()
	_, err := s.Update(t.Context(), r)
	var drift *Drift
	if err == nil || errors.As(err, &drift) || !strings.Contains(err.Error(), "FL_CHAT") {
		t.Errorf("update without a connection: %v; want an error that names the stream and is no drift", err)
	}
	if err := s.Ensure(t.Context(), r); err == nil || !strings.Contains(err.Error(), "look for stream FL_CHAT") {
		t.Errorf("ensure without a connection: %v", err)
	}
}

func TestRetireFreesTheSubjects(t *testing.T) {
	nc, js := connect(t, natsdev.Test(t))
	s := Store{JetStream: js, Namespace: "fl"}
	before := parse(t, `{name: old, match: "chat.>", replay: {}}`, `{name: log, match: "log.>", replay: {}}`, `{name: plain, match: "plain.>"}`)
	for _, r := range before.Topics[:2] {
		must(t, s.Ensure(t.Context(), r))
	}
	// A stream of somebody else's on our subjects, and one of another namespace.
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MINE", Subjects: []string{"fl.topic.plain.>"}})
	must(t, err)
	must(t, Store{JetStream: js, Namespace: "other"}.Ensure(t.Context(), before.Topics[0]))
	kept := put(t, js, "fl.topic.chat.a")

	names, err := s.Retire(t.Context(), before)
	must(t, err)
	if len(names) != 0 {
		t.Errorf("retired %v although their rules are there", names)
	}
	after := parse(t, `{name: new, match: "chat.>", replay: {}}`, `{name: log, match: "log.>", replay: {}}`)
	names, err = s.Retire(t.Context(), after)
	must(t, err)
	if !slices.Equal(names, []string{"FL_OLD"}) {
		t.Fatalf("retired %v, want FL_OLD", names)
	}
	if names, err = s.Retire(t.Context(), after); err != nil || len(names) != 0 {
		t.Errorf("retired again %v, %v", names, err)
	}
	old := info(t, js, "FL_OLD")
	if old.State.Msgs != 1 || old.Config.RePublish != nil || slices.Contains(old.Config.Subjects, "fl.topic.chat.>") {
		t.Errorf("the retired stream: %+v, %+v; want its message, no topic and no republishing", old.State, old.Config)
	}
	must(t, s.Ensure(t.Context(), after.Topics[0]))
	if ack := put(t, js, "fl.topic.chat.a"); ack.Stream != "FL_NEW" {
		t.Errorf("stored in %s, want FL_NEW", ack.Stream)
	}
	// The rule is back under its name: the stream goes on where it was.
	must(t, js.DeleteStream(t.Context(), "FL_NEW"))
	sub, err := nc.SubscribeSync("fl.seq.chat.>")
	must(t, err)
	changed, err := s.Update(t.Context(), before.Topics[0])
	must(t, err)
	ack := put(t, js, "fl.topic.chat.a")
	if !changed || ack.Stream != "FL_OLD" || ack.Sequence != kept.Sequence+1 {
		t.Errorf("changed %v, stored at %s %d; want FL_OLD %d", changed, ack.Stream, ack.Sequence, kept.Sequence+1)
	}
	if msg, err := sub.NextMsg(5 * time.Second); err != nil {
		t.Error("not republished:", err)
	} else if _, prev, ok := Stored(msg.Header); !ok || prev != int64(kept.Sequence) {
		t.Errorf("previous %d, want %d", prev, kept.Sequence)
	}
}

func TestRetireWithoutStreams(t *testing.T) {
	nc, js := connect(t, natsdev.Test(t))
	set := parse(t, `{name: chat, match: "chat.>"}`)
	if names, err := (Store{JetStream: js, Namespace: "fl"}).Retire(t.Context(), set); err != nil || len(names) != 0 {
		t.Errorf("retired %v, %v", names, err)
	}
	nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := (Store{JetStream: js, Namespace: "fl"}).Retire(ctx, set); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("without a connection: %v", err)
	}
}

// A stream that begins to keep more of each topic notes that it kept less: a
// topic that is not full by the new bound may have lost messages to the old one.
func TestUpdateNotesThatAStreamKeptLess(t *testing.T) {
	_, js := connect(t, natsdev.Test(t))
	s := Store{JetStream: js, Namespace: "fl"}
	for _, c := range []struct {
		size, puts int
		at         int64
		kept       int
	}{
		{5, 4, 0, 0}, {5, 1, 0, 0}, {50, 2, 5, 6}, {50, 1, 5, 6}, {3, 2, 5, 6}, {10, 1, 10, 4}, {100, 0, 11, 4},
	} {
		_, err := s.Update(t.Context(), rule(t, fmt.Sprintf(`{name: chat, match: "chat.>", replay: {size: %d}}`, c.size)))
		must(t, err)
		if at, kept := Grown(info(t, js, "FL_CHAT").Config.Metadata); at != c.at || kept != c.kept {
			t.Errorf("size %d: grown at %d from %d, want %d from %d", c.size, at, kept, c.at, c.kept)
		}
		for range c.puts {
			put(t, js, "fl.topic.chat.a")
		}
	}
	for _, bad := range []string{"", "x", "5", "5 x", "-5 6", "5 0"} {
		if at, kept := Grown(map[string]string{metaGrown: bad}); at != 0 || kept != 0 {
			t.Errorf("%q: grown at %d from %d", bad, at, kept)
		}
	}
}
