package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const replayedRules = `
topics:
  - {name: chat, match: "chat.>", subscribe: user, publish: user, from: true, replay: {size: %d, ttl: 1h, dedupe: 2m}}
  - {match: ">", subscribe: user, publish: user}
`

// replayed starts gateways and one replay replica with topics under chat that
// retain size messages.
func replayed(t *testing.T, server *natsdev.Server, size, gateways int) *stack {
	t.Helper()
	s := &stack{t: t, nats: server.ClientURL()}
	file := rulesFile(t, fmt.Sprintf(replayedRules, size))
	startReplay(t, s.nats, file)
	for range gateways {
		s.add("FAIRLEAD_TOPICS_FILE=" + file)
	}
	return s
}

// startReplay starts a replica of the replay service and waits for it.
func startReplay(t *testing.T, natsURL, rules string) *process {
	t.Helper()
	p := start(t, "replay", []string{"FAIRLEAD_NATS_URL=" + natsURL, "FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_LOG_FORMAT=json", "FAIRLEAD_TOPICS_FILE=" + rules}, "run", "replay")
	nc := connect(t, natsURL)
	eventually(t, "the replay service answers", func() (any, bool) {
		reply, err := nc.Request("fl.svc.replay.head", []byte(`{"topic":"chat.a"}`), patience)
		if err != nil {
			return err, false
		}
		code := reply.Header.Get("Nats-Service-Error-Code")
		return code, code == ""
	})
	return p
}

// resume subscribes behind a position and returns the subscription.
func resume(t *testing.T, c *client.Client, topic string, after wire.Position) *client.Subscription {
	t.Helper()
	sub, err := c.Subscribe(within(t), topic, client.SubscribeOptions{After: &after.Seq, Ts: after.Ts, Control: true})
	must(t, err)
	return sub
}

// numbers reads n messages of a subscription whose data are numbers, and checks
// that each continues the one before.
func numbers(t *testing.T, sub *client.Subscription, at *wire.Position, n int) (got []int) {
	t.Helper()
	for len(got) < n {
		m := next(t, sub)
		if m.Control == "truncated" {
			t.Fatalf("truncated at %v: %s", *at, m.Raw)
		}
		if m.Prev > at.Seq || m.Seq <= at.Seq {
			t.Fatalf("seq %d (prev %d) does not continue %d", m.Seq, m.Prev, at.Seq)
		}
		*at = wire.Position{Seq: m.Seq, Ts: m.Ts}
		if m.Control != "" {
			continue
		}
		number, err := strconv.Atoi(string(m.Data))
		must(t, err)
		got = append(got, number)
	}
	return got
}

func count(from, to int) (all []int) {
	for i := from; i < to; i++ {
		all = append(all, i)
	}
	return all
}

// A plain worker's messages are numbered and kept, a gateway dies, and the
// client gets what it missed on another one, each message once and in order.
func TestAKilledGatewayCostsNoMessage(t *testing.T) {
	t.Parallel()
	s := replayed(t, natsdev.Test(t), 1000, 2)
	topic := unique("chat.room")
	worker := s.worker()
	tell := func(from, to int) {
		for i := from; i < to; i++ {
			must(t, worker.Publish("fl.topic."+topic, []byte(strconv.Itoa(i))))
		}
		must(t, worker.Flush())
	}
	ann := s.as(0, "ann")
	sub, err := ann.Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	at := sub.Position()
	tell(0, 50)
	position := wire.Position{Seq: at.Seq, Ts: at.Ts}
	if got, want := numbers(t, sub, &position, 50), count(0, 50); !slices.Equal(got, want) {
		t.Fatalf("live: got %v", got)
	}
	s.gateways[0].kill()
	tell(50, 400)
	again := resume(t, s.as(1, "ann"), topic, position)
	tell(400, 500)
	if got, want := numbers(t, again, &position, 450), count(50, 500); !slices.Equal(got, want) {
		t.Fatalf("resumed: got %v", got)
	}
}

// Whatever is published while a client resumes comes once and in order.
func TestResumeWhileOthersPublish(t *testing.T) {
	t.Parallel()
	s := anyReplayed(t, 10000, 2)
	topic := unique("chat.room")
	rounds := 1000
	if raceEnabled {
		rounds = 200
	}
	const perRound = 4 // as many as a round reads, on average
	turns, done := make(chan struct{}, rounds), make(chan error, 1)
	worker := s.worker()
	go func() { // publishes while the round that gave the turn resumes
		js, err := jetstream.New(worker)
		i := 0
		for range turns {
			for range perRound {
				if err == nil {
					_, err = js.Publish(t.Context(), "fl.topic."+topic, []byte(strconv.Itoa(i)))
				}
				i++
			}
		}
		done <- err
	}()
	defer func() {
		close(turns)
		must(t, <-done)
	}()
	var position wire.Position
	next := 0
	for round := range rounds {
		turns <- struct{}{}
		c := s.as(round, "ann")
		sub := resume(t, c, topic, position)
		n := 1 + round%7
		if got, want := numbers(t, sub, &position, n), count(next, next+n); !slices.Equal(got, want) {
			t.Fatalf("round %d: got %v, want %v", round, got, want)
		}
		next += n
		c.Close(1000)
	}
}

// A position is truncated exactly when a message behind it is gone.
func TestTruncationIsExact(t *testing.T) {
	t.Parallel()
	s := replayed(t, natsdev.Test(t), 5, 1)
	topic := unique("chat.room")
	ann := s.as(0, "ann")
	var positions []wire.Position
	sub, err := ann.Subscribe(within(t), topic, client.SubscribeOptions{})
	must(t, err)
	empty := sub.Position()
	for i := range 12 {
		publish(t, ann, topic, strconv.Itoa(i))
		m := next(t, sub)
		positions = append(positions, wire.Position{Seq: m.Seq, Ts: m.Ts})
	}
	gap := func(p wire.Position) (truncated bool, missing int64) {
		t.Helper()
		frame := map[string]any{"op": "gap", "topic": topic, "after": p.Seq}
		if p.Ts != 0 {
			frame["ts"] = p.Ts
		}
		raw, err := ann.Request(within(t), "gap", frame)
		must(t, err)
		var ok struct {
			Truncated   bool
			MissingFrom int64
		}
		must(t, json.Unmarshal(raw, &ok))
		return ok.Truncated, ok.MissingFrom
	}
	for i, p := range positions {
		for _, ts := range []int64{p.Ts, 0} {
			truncated, missing := gap(wire.Position{Seq: p.Seq, Ts: ts})
			if want := i < 6; truncated != want || want && missing != p.Seq+1 {
				t.Errorf("behind message %d: truncated %v from %d, want %v", i, truncated, missing, want)
			}
		}
		if truncated, _ := gap(wire.Position{Seq: p.Seq, Ts: p.Ts - 1}); !truncated {
			t.Errorf("behind message %d of another log: not truncated", i)
		}
	}
	if truncated, _ := gap(wire.Position{}); truncated {
		t.Error("the beginning is truncated")
	}
	if truncated, _ := gap(wire.Position{Seq: empty.Seq, Ts: empty.Ts}); !truncated {
		t.Error("a position on the empty topic, 12 messages ago, is not truncated")
	}
}

// A key is stored once, and a subscriber sees it once.
func TestKeyedPublishIsStoredOnce(t *testing.T) {
	t.Parallel()
	s := anyReplayed(t, 100, 2)
	topic := unique("chat.room")
	ann, bob := s.as(0, "ann"), s.as(1, "bob")
	sub := subscribe(t, bob, topic)
	first, err := ann.Publish(within(t), topic, "", 1, client.PublishOptions{Key: "k"})
	must(t, err)
	second, err := s.as(1, "ann").Publish(within(t), topic, "", 1, client.PublishOptions{Key: "k"})
	must(t, err)
	if first.Duplicate || !second.Duplicate || first.Seq != second.Seq || first.Seq == 0 {
		t.Errorf("got %+v, then %+v; want the second to be the first's duplicate", first, second)
	}
	other, err := bob.Publish(within(t), topic, "", 2, client.PublishOptions{Key: "k"})
	must(t, err)
	if other.Duplicate {
		t.Error("another user's key is a duplicate")
	}
	expect(t, sub, "ann", "1")
	expect(t, sub, "bob", "2")
}

// A message that the stream stored and nobody was sent is fetched: here a hole
// is made by taking the stream's republishing away for a moment.
func TestAGatewayMendsAHole(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	s := replayed(t, server, 100, 1)
	topic := unique("chat.room")
	sub, err := s.as(0, "ann").Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	worker := s.worker()
	js, err := jetstream.New(worker)
	must(t, err)
	put := func(n int) {
		_, err := js.Publish(within(t), "fl.topic."+topic, []byte(strconv.Itoa(n)))
		must(t, err)
	}
	put(0)
	stream, err := js.Stream(within(t), "FL_CHAT")
	must(t, err)
	cfg := stream.CachedInfo().Config
	silent := cfg
	silent.RePublish = nil
	_, err = js.UpdateStream(within(t), silent)
	must(t, err)
	put(1)
	put(2)
	_, err = js.UpdateStream(within(t), cfg)
	must(t, err)
	put(3)
	var position wire.Position
	if got, want := numbers(t, sub, &position, 4), count(0, 4); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Without a stream there is an error that says that nothing was stored; a batch
// is stored as a whole or not at all.
func TestAtomicBatch(t *testing.T) {
	t.Parallel()
	s := anyReplayed(t, 100, 1)
	plain := unique("plain")
	topic := unique("chat.room")
	ann := s.as(0, "ann")
	sub := subscribe(t, ann, topic)
	message := func(topic string, n int) map[string]any {
		return map[string]any{"topic": topic, "event": "message", "data": n}
	}
	_, err := ann.Request(within(t), "batch", map[string]any{"atomic": true, "messages": []any{message(topic, 1), message(plain, 2)}})
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.FailedPrecondition {
		t.Errorf("a batch over two rules: %v, want FAILED_PRECONDITION", err)
	}
	raw, err := ann.Request(within(t), "batch", map[string]any{"atomic": true, "messages": []any{message(topic, 1), message(topic, 2), message(topic, 3)}})
	must(t, err)
	var ok struct{ Results []client.Result }
	must(t, json.Unmarshal(raw, &ok))
	for i := range 3 {
		m := next(t, sub)
		if m.Seq != ok.Results[i].Seq || string(m.Data) != strconv.Itoa(i+1) {
			t.Errorf("message %d: got seq %d data %s, want seq %d", i, m.Seq, m.Data, ok.Results[i].Seq)
		}
	}
}

// A restart of NATS costs no message: what was stored before the gateway was
// back is read when it is.
func TestANATSRestartCostsNoMessage(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	s := replayed(t, server, 1000, 1)
	topic := unique("chat.room")
	sub, err := s.as(0, "ann").Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	var position wire.Position
	n := 0
	for range 3 {
		must(t, server.Restart())
		js, err := jetstream.New(connect(t, s.nats))
		must(t, err)
		for range 20 {
			eventually(t, "the stream takes a message", func() (any, bool) {
				_, err := js.Publish(within(t), "fl.topic."+topic, []byte(strconv.Itoa(n)), jetstream.WithMsgID(topic+"|"+strconv.Itoa(n)))
				return err, err == nil
			})
			n++
		}
	}
	if got, want := numbers(t, sub, &position, n), count(0, n); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What a publisher does not want back moves its position, so that nothing looks
// like a hole; and it does not come back to its session after a reconnect.
func TestNoEchoLeavesNoHole(t *testing.T) {
	t.Parallel()
	s := anyReplayed(t, 1000, 1)
	topic := unique("chat.room")
	ann, bob := s.as(0, "ann"), s.as(0, "bob")
	sub, err := ann.Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	start := sub.Position()
	mine := func(n int) {
		_, err := ann.Publish(within(t), topic, "", n, client.PublishOptions{NoEcho: true})
		must(t, err)
	}
	publish(t, bob, topic, "0")
	mine(100)
	mine(101)
	publish(t, bob, topic, "1")
	mine(102)
	publish(t, bob, topic, "2")
	position := wire.Position{Seq: start.Seq, Ts: start.Ts}
	if got, want := numbers(t, sub, &position, 3), count(0, 3); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	again := dial(t, s.url(0), client.Options{Token: token("ann", nil), Session: ann.Welcome().Session})
	position = wire.Position{Seq: start.Seq, Ts: start.Ts}
	if got, want := numbers(t, resume(t, again, topic, position), &position, 3), count(0, 3); !slices.Equal(got, want) {
		t.Errorf("after a reconnect: got %v, want %v", got, want)
	}
}

// Publishing over HTTP is answered with where the message is stored, once per key.
func TestHTTPPublishIsStored(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	s := &stack{t: t, nats: server.ClientURL()}
	file := rulesFile(t, fmt.Sprintf(replayedRules, 10))
	startReplay(t, s.nats, file)
	g := s.add("FAIRLEAD_TOPICS_FILE="+file, "FAIRLEAD_HTTP_API=true")
	topic := unique("chat.room")
	post := func() (answer struct {
		Seq       int64
		Duplicate bool
	}) {
		t.Helper()
		req, err := http.NewRequestWithContext(within(t), http.MethodPost, g.http("/v1/topics/"+topic), strings.NewReader("1"))
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+token("shop", map[string]any{"publish": []string{"chat.>"}}))
		req.Header.Set("Idempotency-Key", "order-1")
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		body := readAll(t, res)
		if res.StatusCode != http.StatusOK {
			t.Fatalf("status %d: %s", res.StatusCode, body)
		}
		must(t, json.Unmarshal([]byte(body), &answer))
		return answer
	}
	first, second := post(), post()
	if first.Seq == 0 || first.Duplicate || second.Seq != first.Seq || !second.Duplicate {
		t.Errorf("got %+v, then %+v", first, second)
	}
}

// The tools read the past on the bus.
func TestReplayOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := replayed(t, natsdev.Test(t), 5, 1)
	topic := unique("chat.room")
	ann := s.as(0, "ann")
	for i := range 8 {
		publish(t, ann, topic, strconv.Itoa(i))
	}
	tool := func(args ...string) (string, string, int) {
		return run(t, []string{"FAIRLEAD_NATS_URL=" + s.nats}, "", append([]string{"replay"}, args...)...)
	}
	out, errs, code := tool("since", topic)
	if lines := strings.Count(out, "\n"); code != 0 || lines != 5 || !strings.Contains(out, `"data":3,`) {
		t.Errorf("since: exit code %d, %s%s", code, out, errs)
	}
	out, errs, code = tool("since", topic, "--after", "1")
	if code != 1 || strings.Count(out, "\n") != 5 || !strings.Contains(errs, "messages from 2 on are gone") {
		t.Errorf("since a position that is truncated: exit code %d, %s%s", code, out, errs)
	}
	out, errs, code = tool("head", topic)
	if code != 0 || !strings.HasPrefix(out, `{"seq":8,`) {
		t.Errorf("head: exit code %d, %s%s", code, out, errs)
	}
	if out, errs, code := tool("clear", topic); code != 0 || out != "" {
		t.Errorf("clear: exit code %d, %s%s", code, out, errs)
	}
	out, errs, code = tool("gap", topic, "--after", "8")
	if code != 0 || !strings.Contains(out, `"truncated":true,"missingFrom":9`) {
		t.Errorf("gap behind a clear: exit code %d, %s%s", code, out, errs)
	}
}
