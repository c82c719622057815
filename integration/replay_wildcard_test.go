package integration

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

const wildcardRules = `
topics:
  - {name: live, match: "chat.live.>", subscribe: user, publish: user, wildcards: true}
  - {name: chat, match: "chat.>", subscribe: user, publish: user, wildcards: true, replay: {size: 20000, ttl: 1h}}
  - {name: log, match: "log.>", subscribe: user, publish: user, wildcards: true, replay: {size: 10, ttl: 1h}}
  - {match: ">", subscribe: user, publish: user, wildcards: true}
`

// wild is a gateway with a replay replica, and a worker beside it.
type wild struct {
	*stack
	server *natsdev.Server
	js     jetstream.JetStream
}

func startWild(t *testing.T) *wild {
	t.Helper()
	server := natsdev.Test(t)
	s := &stack{t: t, nats: server.ClientURL()}
	file := rulesFile(t, wildcardRules)
	startReplay(t, s.nats, file)
	s.add("FAIRLEAD_TOPICS_FILE=" + file)
	js, err := jetstream.New(s.worker())
	must(t, err)
	return &wild{stack: s, server: server, js: js}
}

// watch subscribes a pattern and tells what is said of it.
func (w *wild) watch(user, pattern string) *client.Subscription {
	w.t.Helper()
	sub, err := w.as(0, user).Subscribe(within(w.t), pattern, client.SubscribeOptions{Control: true})
	must(w.t, err)
	return sub
}

func (w *wild) put(topic string, n int) {
	w.t.Helper()
	_, err := w.js.Publish(within(w.t), "fl.topic."+topic, []byte(strconv.Itoa(n)))
	must(w.t, err)
}

// silently runs fn while a stream stores and republishes nothing.
func (w *wild) silently(stream string, fn func()) {
	w.t.Helper()
	s, err := w.js.Stream(within(w.t), stream)
	must(w.t, err)
	cfg := s.CachedInfo().Config
	silent := cfg
	silent.RePublish = nil
	_, err = w.js.UpdateStream(within(w.t), silent)
	must(w.t, err)
	fn()
	_, err = w.js.UpdateStream(within(w.t), cfg)
	must(w.t, err)
}

// said is one message of a wildcard as a line.
func said(m client.Message) string {
	if m.Control != "" {
		return m.Control + " " + m.Topic
	}
	line := m.Topic + " " + string(m.Data)
	if m.Seq > 0 {
		line += " numbered"
	}
	return line
}

// A wildcard over replayed and other topics gets each message once, from where
// the rule of its topic puts it.
func TestAWildcardGetsEachMessageOnce(t *testing.T) {
	t.Parallel()
	w := startWild(t)
	all, chat := w.watch("ann", ">"), w.watch("bob", "chat.>")
	w.put("chat.a", 1)
	must(t, w.worker().Publish("fl.topic.chat.live.a", []byte("2")))
	must(t, w.worker().Publish("fl.topic.plain", []byte("3")))
	w.put("log.a", 4)
	w.put("chat.b", 5)
	must(t, w.worker().Publish("fl.topic.end", []byte("6")))
	must(t, w.worker().Publish("fl.topic.chat.live.end", []byte("7")))
	for _, c := range []struct {
		sub  *client.Subscription
		want []string
	}{
		{all, []string{"chat.a 1 numbered", "chat.b 5 numbered", "chat.live.a 2", "chat.live.end 7", "end 6", "log.a 4 numbered", "plain 3"}},
		{chat, []string{"chat.a 1 numbered", "chat.b 5 numbered", "chat.live.a 2", "chat.live.end 7"}},
	} {
		var got []string
		for range c.want {
			got = append(got, said(next(t, c.sub)))
		}
		slices.Sort(got) // streams and plain topics have no order between them
		if !slices.Equal(got, c.want) {
			t.Errorf("got %v, want %v", got, c.want)
		}
	}
}

// What a stream stored and nobody was sent is fetched for a wildcard, too,
// before anything of the same topic that comes behind it.
func TestAWildcardIsMended(t *testing.T) {
	t.Parallel()
	w := startWild(t)
	sub := w.watch("ann", "chat.*")
	w.put("chat.a", 0)
	w.silently("FL_CHAT", func() {
		w.put("chat.a", 1)
		w.put("chat.b", 0)
		w.put("chat.live.x", 99)
	})
	w.put("chat.a", 2)
	w.put("chat.b", 1)
	byTopic := map[string][]int{}
	for range 5 {
		m := next(t, sub)
		n, err := strconv.Atoi(string(m.Data))
		if m.Control != "" || err != nil {
			t.Fatalf("got %s", said(m))
		}
		byTopic[m.Topic] = append(byTopic[m.Topic], n)
	}
	if got := byTopic["chat.a"]; !slices.Equal(got, count(0, 3)) {
		t.Errorf("chat.a: got %v", got)
	}
	if got := byTopic["chat.b"]; !slices.Equal(got, count(0, 2)) {
		t.Errorf("chat.b: got %v", got)
	}
}

// What is gone before it could be fetched is said to be.
func TestAWildcardSaysWhatIsGone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, stream, topic string
		missed              int
	}{
		{"evicted", "FL_LOG", "log.a", 30},
		{"too much", "FL_CHAT", "chat.a", 10_100},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := startWild(t)
			pattern := strings.TrimSuffix(c.topic, "a") + ">"
			sub := w.watch("ann", pattern)
			w.put(c.topic, 0)
			expect(t, sub, "", "0")
			// A gateway that looked in the middle would find less to be missing.
			w.gateways[0].pause()
			w.silently(c.stream, func() {
				for i := range c.missed {
					_, err := w.js.PublishMsgAsync(&nats.Msg{Subject: "fl.topic." + c.topic, Data: []byte("1")})
					must(t, err)
					if i%500 == 499 {
						<-w.js.PublishAsyncComplete()
					}
				}
				<-w.js.PublishAsyncComplete()
			})
			w.gateways[0].resume()
			w.put(c.topic, 2)
			if got, want := said(next(t, sub)), "truncated "+pattern; got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
			// Whoever looks while the last one is on its way may find it among what
			// is gone; what comes behind the word of it is not.
			w.put(c.topic, 3)
			for m := next(t, sub); string(m.Data) != "3"; m = next(t, sub) {
			}
		})
	}
}

// A restart of NATS costs a wildcard nothing.
func TestAWildcardOutlivesARestart(t *testing.T) {
	t.Parallel()
	w := startWild(t)
	sub := w.watch("ann", "chat.>")
	want := map[string][]int{}
	got := map[string][]int{}
	n := 0
	for range 2 {
		must(t, w.server.Restart())
		js, err := jetstream.New(connect(t, w.nats))
		must(t, err)
		for range 20 {
			topic := "chat." + string(rune('a'+n%3))
			eventually(t, "the stream takes a message", func() (any, bool) {
				_, err := js.Publish(within(t), "fl.topic."+topic, []byte(strconv.Itoa(n)), jetstream.WithMsgID(topic+"|"+strconv.Itoa(n)))
				return err, err == nil
			})
			want[topic] = append(want[topic], n)
			n++
		}
	}
	for range n {
		m := next(t, sub)
		number, err := strconv.Atoi(string(m.Data))
		if err != nil {
			t.Fatalf("got %s", said(m))
		}
		got[m.Topic] = append(got[m.Topic], number)
	}
	for topic := range want {
		if !slices.Equal(got[topic], want[topic]) {
			t.Errorf("%s: got %v, want %v", topic, got[topic], want[topic])
		}
	}
}
