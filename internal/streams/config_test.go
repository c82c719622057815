package streams

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestConfigOfTheDefaults(t *testing.T) {
	got, err := Config(rule(t, `{name: chat, match: "chat.>", replay: {}}`), "fl", 3)
	must(t, err)
	if !strings.Contains(got.Description, "rule chat") {
		t.Errorf("description %q does not name the rule", got.Description)
	}
	want := jetstream.StreamConfig{
		Name: "FL_CHAT", Description: got.Description, Subjects: []string{"fl.topic.chat.>"},
		Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, Replicas: 3,
		MaxMsgs: -1, MaxMsgsPerSubject: 1001, MaxAge: 24*time.Hour + 7*24*time.Hour, MaxBytes: 1 << 30, MaxMsgSize: 64<<10 + 8<<10,
		Duplicates: 2 * time.Minute, MaxConsumers: -1,
		AllowDirect: true, DenyDelete: true, AllowAtomicPublish: true,
		RePublish: &jetstream.RePublish{Source: "fl.topic.chat.>", Destination: "fl.seq.chat.>"},
		Metadata:  map[string]string{"fairlead.rule": "chat"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Each setting of a rule's replay, at its edges, does what the table of the
// rules says.
func TestConfigOfEachSetting(t *testing.T) {
	type cfg = jetstream.StreamConfig
	for _, c := range []struct {
		replay string
		get    func(cfg) any
		want   any
	}{
		{`{size: 1}`, func(c cfg) any { return c.MaxMsgsPerSubject }, int64(2)},
		{`{size: 10000000}`, func(c cfg) any { return c.MaxMsgsPerSubject }, int64(10000001)},
		{`{ttl: 1ms}`, func(c cfg) any { return c.MaxAge }, Memory + time.Millisecond},
		{`{ttl: 87600h}`, func(c cfg) any { return c.MaxAge }, Memory + 87600*time.Hour},
		{`{dedupe: 100ms}`, func(c cfg) any { return c.Duplicates }, 100 * time.Millisecond},
		{`{dedupe: 90s}`, func(c cfg) any { return c.Duplicates }, 90 * time.Second},
		{`{dedupe: 168h}`, func(c cfg) any { return c.Duplicates }, 2 * time.Minute}, // ids cost broker memory
		{`{maxMessageBytes: 1}`, func(c cfg) any { return c.MaxMsgSize }, int32(1 + 8<<10)},
		{`{maxMessageBytes: 64MiB}`, func(c cfg) any { return c.MaxMsgSize }, int32(64<<20 + 8<<10)},
		{`{maxBytes: 64KiB}`, func(c cfg) any { return c.MaxBytes }, int64(64 << 10)},
		{`{maxBytes: 1024TiB}`, func(c cfg) any { return c.MaxBytes }, int64(1 << 50)},
		{`{replicas: 1}`, func(c cfg) any { return c.Replicas }, 1},
		{`{replicas: 5}`, func(c cfg) any { return c.Replicas }, 5},
		{`{}`, func(c cfg) any { return c.Replicas }, 3},
		{`{archive: true, size: 7, ttl: 1ms}`, func(c cfg) any { return c.MaxMsgsPerSubject }, int64(71)},
	} {
		got, err := Config(rule(t, `{name: chat, match: "chat.>", replay: `+c.replay+`}`), "fl", 3)
		must(t, err)
		if value := c.get(got); value != c.want {
			t.Errorf("%s: got %v, want %v", c.replay, value, c.want)
		}
	}
}

// A rule that is made in Go, not read from a file, may leave bounds at 0.
func TestConfigWithoutBounds(t *testing.T) {
	r := *rule(t, `{name: chat, match: "chat.>", replay: {}}`)
	replay := *r.Replay
	replay.TTL, replay.MaxBytes, replay.MaxMessageBytes, replay.Dedupe = 0, 0, 0, 0
	r.Replay = &replay
	got, err := Config(&r, "fl", 0)
	must(t, err)
	if got.MaxAge != 0 || got.MaxBytes != -1 || got.MaxMsgSize != -1 || got.Replicas != 1 || got.Duplicates != 100*time.Millisecond {
		t.Errorf("got age %v, bytes %d, message %d, replicas %d, window %v; want no bounds, 1 replica, the shortest window",
			got.MaxAge, got.MaxBytes, got.MaxMsgSize, got.Replicas, got.Duplicates)
	}
}

func TestConfigSubjects(t *testing.T) {
	for _, c := range []struct{ match, namespace, stream, source, destination string }{
		{"lobby", "fl", "FL_R", "fl.topic.lobby", "fl.seq.lobby"},
		{"chat.>", "fl", "FL_R", "fl.topic.chat.>", "fl.seq.chat.>"},
		{">", "fl", "FL_R", "fl.topic.>", "fl.seq.>"},
		{"chat.*", "prod", "PROD_R", "prod.topic.chat.*", "prod.seq.chat.{{wildcard(1)}}"},
		{"*.a.*.>", "fl", "FL_R", "fl.topic.*.a.*.>", "fl.seq.{{wildcard(1)}}.a.{{wildcard(2)}}.>"},
		{"user.{user}.x", "fl", "FL_R", "fl.topic.user.*.x", "fl.seq.user.{{wildcard(1)}}.x"},
	} {
		r := rule(t, `{name: r, match: "`+c.match+`", replay: {}}`)
		if r.Replay == nil {
			t.Fatalf("%s: no replay", c.match)
		}
		got, err := Config(r, wire.Namespace(c.namespace), 1)
		must(t, err)
		if got.Name != c.stream || got.Subjects[0] != c.source || got.RePublish.Source != c.source || got.RePublish.Destination != c.destination {
			t.Errorf("%s: got %s, %s, %+v; want %s, %s to %s", c.match, got.Name, got.Subjects[0], got.RePublish, c.stream, c.source, c.destination)
		}
	}
}

// The server takes each of those mappings and what comes out on fl.seq is the
// topic that was published to.
func TestMappedSubjectsOnTheServer(t *testing.T) {
	nc, js := connect(t, natsdev.Test(t))
	sub, err := nc.SubscribeSync("fl.seq.>")
	must(t, err)
	for _, c := range []struct{ name, match, topic string }{
		{"a", "a.*", "a.1"}, {"b", "b.*.x.*", "b.2.x.3"}, {"c", "c.*.y.*.>", "c.4.y.5.6.7"}, {"d", "d.>", "d.8.9"}, {"e", "e", "e"},
	} {
		match, topic := c.match, c.topic
		r := rule(t, `{name: `+c.name+`, match: "`+match+`", replay: {}}`)
		must(t, Store{JetStream: js, Namespace: "fl"}.Ensure(t.Context(), r))
		_, err := js.Publish(t.Context(), "fl.topic."+topic, []byte("1"))
		must(t, err)
		msg, err := sub.NextMsg(5 * time.Second)
		must(t, err)
		if got, want := msg.Subject, "fl.seq."+topic; got != want {
			t.Errorf("%s: republished to %s, want %s", match, got, want)
		}
		if _, prev, ok := Stored(msg.Header); !ok || prev != 0 {
			t.Errorf("%s: headers %v say previous %d, stored %v; want 0 and true", match, msg.Header, prev, ok)
		}
	}
}

// The window is never longer than the stream keeps messages, nor 0, which the
// server would take for its default.
func TestWindow(t *testing.T) {
	r := *rule(t, `{name: chat, match: "chat.>", replay: {dedupe: 1h}}`).Replay
	for _, c := range []struct{ dedupe, ttl, want time.Duration }{
		{0, time.Hour, 100 * time.Millisecond},
		{time.Second, time.Hour, time.Second},
		{2 * time.Minute, 0, 2 * time.Minute},
		{time.Hour, time.Millisecond, 2 * time.Minute},
	} {
		r.Dedupe, r.TTL = c.dedupe, c.ttl
		if got := Window(&r); got != c.want {
			t.Errorf("dedupe %v: window %v, want %v", c.dedupe, got, c.want)
		}
	}
}
