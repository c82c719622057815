//go:build browser

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

// swinging is two gateways behind one address, which leads to one of them.
type swinging struct {
	*stack
	*link
	front atomic.Int32 // the gateway it leads to
	rules string
	log   *process
}

func swing(t *testing.T, size int) *swinging {
	t.Helper()
	s := &swinging{stack: &stack{t: t, nats: natsdev.Test(t).ClientURL()}, rules: rulesFile(t, fmt.Sprintf(replayedRules, size))}
	s.log = startReplay(t, s.nats, s.rules)
	for range 2 {
		s.add("FAIRLEAD_TOPICS_FILE=" + s.rules)
	}
	s.link = startLink(t, func() string { return s.gateways[s.front.Load()].addr }, nil)
	return s
}

func (s *swinging) ws() string { return "ws://" + s.link.addr() + "/ws" }

// fall kills the gateway in front; the other one takes its place.
func (s *swinging) fall() {
	s.stack.t.Helper()
	old := s.front.Load()
	s.front.Store(1 - old)
	s.gateways[old].kill()
}

// move makes the address lead to the other gateway, with nobody connected until
// between is done.
func (s *swinging) move(between func()) {
	s.cut()
	s.front.Store(1 - s.front.Load())
	between()
	s.restore()
}

// plain returns a function that publishes as a worker does.
func (s *swinging) plain() func(topic, data string) {
	worker := s.worker()
	return func(topic, data string) {
		s.stack.t.Helper()
		must(s.stack.t, worker.Publish("fl.topic."+topic, []byte(data)))
		must(s.stack.t, worker.Flush())
	}
}

func texts(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

// A gateway is killed while others publish, with keys and without: the client
// comes back on the other one by itself and misses nothing.
func TestBrowserClientMissesNothingWhenItsGatewayIsKilled(t *testing.T) {
	s := swing(t, 100_000)
	topic := unique("chat.room")
	page := browse(t, s.ws(), "ann", nil)
	reached := numberOf(t, page.subscribe(topic, "").Position)
	worker, publisher := s.worker(), s.as(1, "bob")
	const each = 1500
	half := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		for i := range each {
			if err := worker.Publish("fl.topic."+topic, []byte(fmt.Sprintf(`"plain %d"`, i))); err != nil {
				t.Error(err)
			}
			if i%50 == 0 {
				_ = worker.Flush()
			}
		}
	})
	both.Go(func() {
		for i := range each {
			if i == each/2 {
				close(half)
			}
			if _, err := publisher.Publish(context.Background(), topic, "", fmt.Sprintf("keyed %d", i), client.PublishOptions{Key: strconv.Itoa(i)}); err != nil {
				t.Error(err)
			}
		}
	})
	<-half
	s.fall()
	both.Wait()
	must(t, worker.Flush())
	next := map[string]int{}
	for _, data := range page.messages(2*each, &reached) {
		kind, number, _ := strings.Cut(data, " ")
		if got, want := number, strconv.Itoa(next[kind]); got != want {
			t.Fatalf("%s %s came, want %s", kind, got, want)
		}
		next[kind]++
	}
	if again := page.await("subscribed"); !again.Recovered || again.MissingFrom != 0 {
		t.Errorf("after the kill: %+v, want recovered", again)
	}
	page.quiet(topic, s.plain(), &reached)
}

// All positions go in one batch, and what is gone is said per topic.
func TestBrowserClientSaysWhatIsGone(t *testing.T) {
	s := swing(t, 5)
	gone, kept := unique("chat.gone"), unique("chat.kept")
	say := s.plain()
	page := browse(t, s.ws(), "ann", nil)
	page.subscribe(gone, "")
	page.subscribe(kept, "")
	for _, topic := range []string{gone, kept} {
		say(topic, "0")
	}
	last := map[string]happening{}
	for range 2 {
		m := page.await("message")
		last[m.Topic] = m
	}
	s.move(func() {
		for i := range 12 {
			say(gone, strconv.Itoa(i+1))
		}
		for i := range 5 {
			say(kept, strconv.Itoa(i+1))
		}
	})
	for range 2 {
		again := page.await("subscribed")
		switch again.Topic {
		case gone:
			if again.Recovered || again.MissingFrom != last[gone].Seq+1 || again.Reason != "" {
				t.Errorf("more than are kept were missed: %+v, want missing from %d", again, last[gone].Seq+1)
			}
		case kept:
			if !again.Recovered || again.MissingFrom != 0 {
				t.Errorf("as many as are kept were missed: %+v, want recovered", again)
			}
		}
	}
	if e := page.await("truncated"); e.Topic != gone || e.MissingFrom != last[gone].Seq+1 {
		t.Errorf("truncated: %+v, want %s from %d", e, gone, last[gone].Seq+1)
	}
	got := map[string][]string{}
	for range 10 {
		m := page.await("message")
		got[m.Topic] = append(got[m.Topic], fmt.Sprint(m.Data))
	}
	if want := texts(8, 13); !slices.Equal(got[gone], want) {
		t.Errorf("%s: got %v, want %v", gone, got[gone], want)
	}
	if want := texts(1, 6); !slices.Equal(got[kept], want) {
		t.Errorf("%s: got %v, want %v", kept, got[kept], want)
	}
}

// A publish is stored, its answer is lost, and the gateway dies: with a key the
// client sends it again and it counts once; without one it says that nobody
// knows.
func TestBrowserClientPublishesOnceOverAKill(t *testing.T) {
	s := swing(t, 1000)
	topic := unique("chat.room")
	bob := s.as(1, "bob")
	sub := subscribe(t, bob, topic)
	page := browse(t, s.ws(), "ann", nil)
	page.subscribe(topic, "")
	page.do("publish", map[string]any{"topic": topic, "id": "first", "key": "first"})
	page.await("published")
	expect(t, sub, "ann", `"first"`)

	s.fromBackend.Store(true) // answers are lost
	page.do("publish", map[string]any{"topic": topic, "id": "keyed", "key": "k"})
	page.do("publish", map[string]any{"topic": topic, "id": "unkeyed"})
	expect(t, sub, "ann", `"keyed"`)
	expect(t, sub, "ann", `"unkeyed"`)
	s.cut()
	s.fall()
	s.fromBackend.Store(false)
	page.do("publish", map[string]any{"topic": topic, "id": "waiting", "key": "w"})
	s.restore()
	if e := page.await("failed"); e.ID != "unkeyed" || e.Code != "UNAVAILABLE" || e.Outcome != "unknown" {
		t.Errorf("without a key: %+v, want UNAVAILABLE of unknown outcome", e)
	}
	for range 2 {
		e := page.await("published")
		if got, want := e.Duplicate, e.ID == "keyed"; got != want || e.Seq == 0 {
			t.Errorf("%v: duplicate %v at %d, want %v", e.ID, got, e.Seq, want)
		}
	}
	expect(t, sub, "ann", `"waiting"`)
	publish(t, bob, topic, `"over"`)
	expect(t, sub, "bob", `"over"`) // nothing else came in between
	if again := page.await("subscribed"); !again.Recovered {
		t.Errorf("after the kill: %+v, want recovered", again)
	}
	for _, want := range []string{"first", "keyed", "unkeyed", "waiting", "over"} {
		if got := page.await("message").Data; got != want {
			t.Errorf("the page got %v, want %s", got, want)
		}
	}
}

// Publishes with keys are under way all the time while gateways die: each of
// them is stored, and once.
func TestBrowserClientLosesNoKeyedPublish(t *testing.T) {
	s := swing(t, 100_000)
	topic := unique("chat.room")
	sub, err := s.as(1, "bob").Subscribe(within(t), topic, client.SubscribeOptions{})
	must(t, err)
	page := browse(t, s.ws(), "ann", nil)
	page.subscribe(topic, "")
	const n = 900
	for i := range n {
		page.do("publish", map[string]any{"topic": topic, "id": i, "key": strconv.Itoa(i)})
		if i == n/3 {
			page.await("published")
			s.fall()
		}
	}
	for i := range n {
		if got, want := string(next(t, sub).Data), strconv.Itoa(i); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	for range n - 1 {
		page.await("published")
	}
	publish(t, s.as(1, "bob"), topic, `"over"`)
	expect(t, sub, "bob", `"over"`)
}

// A page is rendered on a server, which reads the log and hands over where it
// was: what is published until the browser has connected comes once.
func TestBrowserClientBeginsWhereThePageWasRendered(t *testing.T) {
	s := swing(t, 1000)
	topic := unique("chat.room")
	say, nc, bob, said := s.plain(), s.worker(), s.as(1, "bob"), 0
	for round := range 5 {
		for range round { // the first page shows nothing
			publish(t, bob, topic, strconv.Itoa(said)) // stored when it returns
			said++
		}
		reply, err := nc.Request("fl.svc.replay.head", []byte(`{"topic":"`+topic+`"}`), patience)
		must(t, err)
		var head struct{ At struct{ Seq, Ts int64 } }
		must(t, json.Unmarshal(reply.Data, &head))
		reached := head.At.Seq
		rendered := said
		for range 7 {
			say(topic, strconv.Itoa(said))
			said++
		}
		page := browse(t, s.ws(), "ann", nil)
		position := fmt.Sprintf("%d:%d", head.At.Seq, head.At.Ts)
		page.do("subscribe", map[string]any{"topic": topic, "since": position})
		for range 7 { // while it connects
			say(topic, strconv.Itoa(said))
			said++
		}
		if began := page.await("subscribed"); !began.Recovered || began.Position != position {
			t.Fatalf("from %s: %+v, want recovered", position, began)
		}
		if got, want := page.messages(said-rendered, &reached), texts(rendered, said); !slices.Equal(got, want) {
			t.Fatalf("from %s: got %v, want %v", position, got, want)
		}
		page.leave()
	}
}

// A page that is loaded again goes on where it was.
func TestBrowserClientGoesOnAfterAPageLoad(t *testing.T) {
	s := swing(t, 1000)
	topic, quiet := unique("chat.room"), unique("chat.quiet")
	say := s.plain()
	page := browse(t, s.ws(), "ann", nil)
	empty := page.subscribe(quiet, "").Position
	reached := numberOf(t, page.subscribe(topic, "").Position)
	said := 0
	for range 3 {
		for range 10 {
			say(topic, strconv.Itoa(said))
			said++
		}
		if got, want := page.messages(10, &reached), texts(said-10, said); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		stored := page.leave()
		for range 10 {
			say(topic, strconv.Itoa(said))
			said++
		}
		s.front.Store(1 - s.front.Load())
		page = browse(t, s.ws(), "ann", stored)
		if again := page.subscribe(quiet, ""); !again.Recovered || again.Position != empty {
			t.Fatalf("a topic without messages, after a page load: %+v, want recovered at %s", again, empty)
		}
		if again := page.subscribe(topic, ""); !again.Recovered {
			t.Fatalf("after a page load: %+v, want recovered", again)
		}
		if got, want := page.messages(10, &reached), texts(said-10, said); !slices.Equal(got, want) {
			t.Fatalf("after a page load: got %v, want %v", got, want)
		}
	}
}

// A topic without messages has a position too: the first message is not missed.
func TestBrowserClientResumesAnEmptyTopic(t *testing.T) {
	s := swing(t, 5)
	topic := unique("chat.room")
	say := s.plain()
	page := browse(t, s.ws(), "ann", nil)
	began := page.subscribe(topic, "")
	reached := numberOf(t, began.Position)
	if !strings.Contains(began.Position, ":-") {
		t.Errorf("the position of a topic without messages is %s, want one with a negative time", began.Position)
	}
	s.move(func() {}) // still empty
	if again := page.await("subscribed"); !again.Recovered {
		t.Errorf("still empty: %+v, want recovered", again)
	}
	s.move(func() {
		for i := range 3 {
			say(topic, strconv.Itoa(i))
		}
	})
	if again := page.await("subscribed"); !again.Recovered {
		t.Errorf("after the first messages: %+v, want recovered", again)
	}
	if got, want := page.messages(3, &reached), texts(0, 3); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	page.quiet(topic, say, &reached)

	// More than are kept came since: that is no longer the whole past.
	for i := range 6 {
		say(topic, strconv.Itoa(i))
	}
	page.messages(6, &reached)
	late := browse(t, s.ws(), "bob", nil)
	if e := late.subscribe(topic, began.Position); e.Recovered || e.MissingFrom != 1 {
		t.Errorf("from the empty topic, ten messages later: %+v, want missing from 1", e)
	}
}

// Nobody can read the past when the client comes back: it says so, hears what
// is said now, and gets the rest when the log is there again.
func TestBrowserClientAsksAgainForAPastThatIsAway(t *testing.T) {
	s := swing(t, 1000)
	topic := unique("chat.room")
	say := s.plain()
	page := browse(t, s.ws(), "ann", nil)
	reached := numberOf(t, page.subscribe(topic, "").Position)
	say(topic, "0")
	page.messages(1, &reached)
	s.move(func() {
		say(topic, "1")
		say(topic, "2")
		s.log.kill()
	})
	if again := page.await("subscribed"); again.Recovered || again.Reason != "UNAVAILABLE" || numberOf(t, again.Position) != reached {
		t.Fatalf("without the log: %+v, want UNAVAILABLE at %d", again, reached)
	}
	say(topic, "3")
	if m := page.await("message"); fmt.Sprint(m.Data) != "3" {
		t.Fatalf("a live message: got %v, want 3", m.Data)
	}
	s.log = startReplay(t, s.nats, s.rules)
	for {
		again := page.await("subscribed")
		if again.Recovered {
			break
		}
		if again.Reason == "" {
			t.Fatalf("with the log again: %+v, want recovered", again)
		}
	}
	say(topic, "4")
	for _, want := range []string{"1", "2", "4"} {
		if got := fmt.Sprint(page.await("message").Data); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	for _, e := range page.kept {
		if e.What == "truncated" {
			t.Errorf("truncated: %+v, though nothing is gone", e)
		}
	}
}
