package replay

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// What has expired leaves the stream in the end, down to the newest expired
// message of a topic; what has not stays, whatever is published meanwhile. The
// position of who has seen everything is as good as before.
func TestJanitorTakesOnlyWhatHasExpired(t *testing.T) {
	const ttl, many, few = 1500 * time.Millisecond, 40, 5
	server := natsdev.Test(t)
	s := openStream(t, server, Retention{Size: 1000, TTL: ttl, Dedupe: time.Minute}, time.Now)
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]wire.Position{}
	put := func(topic string) {
		t.Helper()
		if _, err := s.Append(t.Context(), Entry{Topic: topic, Payload: []byte("1")}); err != nil {
			t.Fatal(err)
		}
		head, _, err := s.Head(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		all[topic] = append(all[topic], head)
	}
	held := func(topic string) uint64 {
		t.Helper()
		stream, err := js.Stream(t.Context(), s.name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("fl.topic."+topic))
		if err != nil {
			t.Fatal(err)
		}
		return info.State.Subjects["fl.topic."+topic]
	}
	for range many {
		put("t.idle")
		put("t.busy")
	}
	for range few {
		put("t.few")
	}
	if got := s.purgeExpired(t.Context()); got != 0 {
		t.Errorf("%d topics were purged before anything had expired", got)
	}
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for held("t.idle") > 1 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("of an idle topic whose messages have all expired the stream still holds %d", held("t.idle"))
		}
		put("t.busy")
		s.purgeExpired(t.Context())
	}
	if got := held("t.few"); got != few {
		t.Errorf("of a topic with %d messages %d are left: they are not worth a purge", few, got)
	}
	if got := held("t.busy"); got >= many {
		t.Errorf("the busy topic still has %d messages", got)
	}
	for topic, positions := range all {
		for i, p := range positions {
			now := time.Now()
			page, err := s.Since(t.Context(), Query{Topic: topic, After: p, Limit: 1000, Bytes: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			rest := positions[i+1:]
			switch {
			case len(rest) == 0 || now.UnixMilli()-rest[0].Ts < (ttl-500*time.Millisecond).Milliseconds():
				if page.Truncated || len(page.Messages) != len(rest) {
					t.Errorf("%s behind message %d of %d: truncated %v, %d messages; want %d", topic, i+1, len(positions), page.Truncated, len(page.Messages), len(rest))
				}
			case now.UnixMilli()-rest[0].Ts > ttl.Milliseconds() && !page.Truncated:
				t.Errorf("%s behind message %d of %d: not truncated, although the next has expired", topic, i+1, len(positions))
			}
		}
	}
}
