package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// sessionReplicas starts replicas of the presence service and waits until each
// of them answers.
func sessionReplicas(t *testing.T, natsURL string, n int) []*process {
	t.Helper()
	var replicas []*process
	for range n {
		replicas = append(replicas, startPresence(t, natsURL))
	}
	awaitReplicas(t, connect(t, natsURL), n)
	return replicas
}

// awaitReplicas waits until n replicas say that they are there, and no more.
func awaitReplicas(t *testing.T, nc *nats.Conn, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d replicas answer", n), func() (any, bool) {
		inbox := nats.NewInbox()
		sub, err := nc.SubscribeSync(inbox)
		must(t, err)
		defer func() { must(t, sub.Unsubscribe()) }()
		must(t, nc.PublishRequest("$SRV.PING.fairlead-presence", inbox, nil))
		answers := 0
		for {
			if m, err := sub.NextMsg(200 * time.Millisecond); err != nil || len(m.Data) == 0 {
				return answers, answers == n
			}
			answers++
		}
	})
}

// askSession asks an endpoint of sessions as any NATS client can, and returns the
// body and the error code of the answer.
func askSession(t *testing.T, nc *nats.Conn, endpoint, body string) (reply, code string) {
	t.Helper()
	return svc(t, nc, "session."+endpoint, body)
}

func expectSession(t *testing.T, nc *nats.Conn, endpoint, body, want string) {
	t.Helper()
	reply, code := askSession(t, nc, endpoint, body)
	if got := code + reply; got != want {
		t.Errorf("%s %s: got %s, want %s", endpoint, body, got, want)
	}
}

const sessionToken = "integration-0123456789"

func TestASessionIsReadThroughAnotherReplica(t *testing.T) {
	t.Parallel()
	url := natsdev.Test(t).ClientURL()
	first := sessionReplicas(t, url, 1)[0]
	nc := connect(t, url)
	expectSession(t, nc, "set", `{"token":"`+sessionToken+`","data":{"user":"ann"}}`, `{}`)
	second := startPresence(t, url)
	awaitReplicas(t, nc, 2)
	first.kill()
	awaitReplicas(t, nc, 1)
	expectSession(t, nc, "get", `{"token":"`+sessionToken+`"}`, `{"data":{"user":"ann"}}`)
	expectSession(t, nc, "delete", `{"token":"`+sessionToken+`"}`, `{"ok":true}`)
	expectSession(t, nc, "delete", `{"token":"`+sessionToken+`"}`, `{"ok":false}`)
	expectSession(t, nc, "get", `{"token":"`+sessionToken+`"}`, `NOT_FOUND`)

	// Whoever may read the bucket or the logs learns no token.
	expectSession(t, nc, "set", `{"token":"`+sessionToken+`","data":1}`, `{}`)
	js, err := jetstream.New(nc)
	must(t, err)
	bucket, err := js.KeyValue(within(t), "fl_sessions")
	must(t, err)
	keys, err := bucket.Keys(within(t))
	must(t, err)
	if len(keys) != 1 || strings.Contains(keys[0], sessionToken) {
		t.Errorf("got keys %q, want one without the token", keys)
	}
	for _, key := range keys {
		entry, err := bucket.Get(within(t), key)
		must(t, err)
		if strings.Contains(string(entry.Value()), sessionToken) {
			t.Errorf("the token is in %s", entry.Value())
		}
	}
	for _, p := range []*process{first, second} {
		if strings.Contains(p.stdout.String()+p.stderr.String(), sessionToken) {
			t.Error("a replica has written the token")
		}
	}
}

// A session that is asked for every half of its TTL lives on; then it ends by
// the TTL, neither earlier nor later.
func TestASessionLivesAsLongAsItIsUsed(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	nc := anySessions(t, 2)
	expectSession(t, nc, "set", `{"token":"`+sessionToken+`-unused","data":1,"ttl":"2s"}`, `{}`)
	tick := time.NewTicker(ttl / 2)
	defer tick.Stop()
	var sent, answered time.Time // of its last use
	for used := 0; used <= 10; {
		before := sent
		sent = time.Now()
		if used == 0 {
			expectSession(t, nc, "set", `{"token":"`+sessionToken+`","data":1,"ttl":"2s"}`, `{}`)
		} else {
			expectSession(t, nc, "get", `{"token":"`+sessionToken+`"}`, `{"data":1}`)
		}
		answered = time.Now()
		if used++; used > 1 && answered.Sub(before) > ttl*9/10 {
			t.Fatalf("the machine is too slow: %s between two uses", answered.Sub(before))
		}
		if used <= 10 {
			receive(t, tick.C)
		}
	}
	expectSession(t, nc, "get", `{"token":"`+sessionToken+`-unused"}`, `NOT_FOUND`)
	eventually(t, "the session ends", func() (any, bool) {
		asked := time.Now()
		reply, code := askSession(t, nc, "get", `{"token":"`+sessionToken+`","keep":true}`)
		now := time.Now()
		switch {
		case code == "" && asked.Sub(answered) > ttl:
			t.Errorf("there %s after its last use", asked.Sub(answered))
		case code == "NOT_FOUND" && now.Sub(sent) < ttl*9/10:
			t.Errorf("gone %s after its last use", now.Sub(sent))
		}
		return code + reply, code == "NOT_FOUND" || t.Failed()
	})
}

// The subjects are the interface: a plain NATS request, its answer as JSON or as
// an error in two headers.
func TestSessionsArePlainNATSRequests(t *testing.T) {
	t.Parallel()
	url := natsdev.Test(t).ClientURL()
	sessionReplicas(t, url, 1)
	nc := connect(t, url)
	token := `"token":"` + sessionToken + `"`
	const data = "{ \"b\":1.0,\n\t\"a\" : [\"<\\u003c>\" ,{}], \"a\":null}"
	expectSession(t, nc, "set", `{`+token+`,"data":`+data+`,"ttl":"1h"}`, `{}`)
	expectSession(t, nc, "get", `{`+token+`}`, `{"data":`+data+`}`) // byte for byte
	expectSession(t, nc, "set", `{`+token+`,"data":null}`, `{}`)
	expectSession(t, nc, "get", `{`+token+`,"keep":true}`, `{"data":null}`)
	expectSession(t, nc, "touch", `{`+token+`,"ttl":"30m"}`, `{"ok":true}`)
	expectSession(t, nc, "set", `{`+token+`,"data":2,"existing":true}`, `{}`)
	large := `"` + strings.Repeat("x", 64<<10-2) + `"`
	expectSession(t, nc, "set", `{`+token+`,"data":`+large+`}`, `{}`)
	expectSession(t, nc, "get", `{`+token+`}`, `{"data":`+large+`}`)
	expectSession(t, nc, "clear", ``, `{"count":1}`)
	expectSession(t, nc, "touch", `{`+token+`}`, `{"ok":false}`)
	expectSession(t, nc, "set", `{`+token+`,"data":2,"existing":true}`, `NOT_FOUND`)

	for _, test := range []struct{ endpoint, body, field string }{
		{"set", `{"token":"short-secret","data":1}`, "token"},
		{"get", `{"token":"short-secret"}`, "token"},
		{"touch", `{}`, "token"},
		{"delete", `{"token":17}`, "token"},
		{"set", `{` + token + `}`, "data"},
		{"set", `{` + token + `,"data":"x` + large[1:] + `}`, "data"},
		{"set", `{` + token + `,"data":1,"ttl":"1ms"}`, "ttl"},
		{"set", `{` + token + `,"data":1,"ttl":"721h"}`, "ttl"},
		{"touch", `{` + token + `,"ttl":"soon"}`, "ttl"},
		{"get", `{` + token, "request"},
	} {
		m, err := nc.Request("fl.svc.presence.session."+test.endpoint, []byte(test.body), patience)
		must(t, err)
		var body struct{ Details struct{ Field string } }
		must(t, json.Unmarshal(m.Data, &body))
		text := m.Header.Get("Nats-Service-Error")
		if code := m.Header.Get("Nats-Service-Error-Code"); code != "INVALID_ARGUMENT" || body.Details.Field != test.field || !strings.HasPrefix(text, test.field+": ") {
			t.Errorf("%s %.60s: got %s %q %s, want INVALID_ARGUMENT for %s", test.endpoint, test.body, code, text, m.Data, test.field)
		}
		if strings.Contains(text+string(m.Data), "secret") || strings.Contains(text+string(m.Data), sessionToken) {
			t.Errorf("%s %.60s: the answer repeats the token: %q %s", test.endpoint, test.body, text, m.Data)
		}
	}
}

// An entry that a plain key-value client wrote is no session, and in nobody's
// way.
func TestACorruptSessionIsNotFound(t *testing.T) {
	t.Parallel()
	url := natsdev.Test(t).ClientURL()
	sessionReplicas(t, url, 1)
	nc := connect(t, url)
	body := `{"token":"` + sessionToken + `"}`
	js, err := jetstream.New(nc)
	must(t, err)
	bucket, err := js.KeyValue(within(t), "fl_sessions")
	must(t, err)
	expectSession(t, nc, "set", `{"token":"`+sessionToken+`","data":1}`, `{}`)
	keys, err := bucket.Keys(within(t))
	must(t, err)
	for _, value := range []string{"garbage", "", `{"expires":9999999999999,"ttl":1000}`} {
		_, err = bucket.Put(within(t), keys[0], []byte(value))
		must(t, err)
		expectSession(t, nc, "get", body, `NOT_FOUND`)
		expectSession(t, nc, "touch", body, `{"ok":false}`)
	}
	expectSession(t, nc, "set", `{"token":"`+sessionToken+`","data":2}`, `{}`)
	expectSession(t, nc, "get", body, `{"data":2}`)
	must(t, bucket.Delete(within(t), keys[0]))
	expectSession(t, nc, "get", body, `NOT_FOUND`)
}

// One of two replicas is killed while sessions are set and read: what was
// acknowledged is there, and stays there.
func TestAReplicaIsKilledWhileSessionsAreSet(t *testing.T) {
	t.Parallel()
	const sessions, writers, rounds = 200, 10, 4
	url := natsdev.Test(t).ClientURL()
	replicas := sessionReplicas(t, url, 2)
	var done atomic.Int64
	var all sync.WaitGroup
	for w := range writers {
		nc := connect(t, url)
		all.Go(func() {
			for round := 1; round <= rounds; round++ {
				for i := w; i < sessions; i += writers {
					if err := setAndGet(nc, i, round); err != nil {
						t.Errorf("session %d, round %d: %v", i, round, err)
						return
					}
					done.Add(1)
				}
			}
		})
	}
	eventually(t, "a third of the work is done", func() (any, bool) {
		return done.Load(), done.Load() > sessions*rounds/3 || t.Failed()
	})
	replicas[0].kill()
	all.Wait()
	nc := connect(t, url)
	for i := range sessions {
		expectSession(t, nc, "get", fmt.Sprintf(`{"token":"%s-%d"}`, sessionToken, i), fmt.Sprintf(`{"data":%d}`, rounds))
	}
	expectSession(t, nc, "clear", ``, fmt.Sprintf(`{"count":%d}`, sessions))
}

// setAndGet sets a session until that is acknowledged, and reads it then. It is
// the only writer of that session.
func setAndGet(nc *nats.Conn, i, round int) error {
	ask := func(endpoint, body string) (string, error) {
		deadline := time.Now().Add(patience)
		for {
			m, err := nc.Request("fl.svc.presence.session."+endpoint, []byte(body), 500*time.Millisecond)
			if err == nil {
				if code := m.Header.Get("Nats-Service-Error-Code"); code != "" {
					return "", fmt.Errorf("%s: %s", endpoint, code)
				}
				return string(m.Data), nil
			}
			if time.Now().After(deadline) { // a request to a replica that is killed gets no answer
				return "", fmt.Errorf("%s: %w", endpoint, err)
			}
		}
	}
	if _, err := ask("set", fmt.Sprintf(`{"token":"%s-%d","data":%d}`, sessionToken, i, round)); err != nil {
		return err
	}
	got, err := ask("get", fmt.Sprintf(`{"token":"%s-%d"}`, sessionToken, i))
	if want := fmt.Sprintf(`{"data":%d}`, round); err == nil && got != want {
		return fmt.Errorf("acknowledged %s, and then got %s", want, got)
	}
	return err
}
