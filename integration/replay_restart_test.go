package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The whole stack, NATS and all, is killed under load and started again on its
// data, three times. Clients come back with their positions and repeat what was
// not acknowledged under its key: every acknowledged message is there, once.
func TestAKilledStackLosesNothingThatItAcknowledged(t *testing.T) {
	t.Parallel()
	const speakers, listeners, kills, perKill = 3, 3, 3, 60
	dir := filepath.Join(t.TempDir(), "data")
	httpAddr, natsAddr := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	file := rulesFile(t, fmt.Sprintf(replayedRules, 100_000))
	launch := func() *gateway {
		g, _ := startDevOn(t, dir, httpAddr, natsAddr, "FAIRLEAD_TOPICS_FILE="+file)
		return g
	}
	g := launch()
	w := &wanderers{t: t, url: g.ws(), topic: unique("chat.room")}
	w.ctx, w.halt = context.WithCancel(context.Background())
	t.Cleanup(func() { w.halt(); w.all.Wait() })
	for i := range listeners {
		w.all.Go(func() { w.listen(i) })
	}
	acked := make([]atomic.Int64, speakers)
	for i := range acked {
		w.speaking.Go(func() { w.speak(i, &acked[i]) })
	}
	more := func() {
		t.Helper()
		for i := range acked {
			want := acked[i].Load() + perKill
			eventually(t, fmt.Sprintf("speaker %d is acknowledged %d times", i, want), func() (any, bool) { return acked[i].Load(), acked[i].Load() >= want })
		}
	}
	for range kills {
		more()
		g.kill()
		g = launch()
	}
	more()
	w.quiet.Store(true)
	w.speaking.Wait()
	for i := range listeners {
		for j := range acked {
			eventually(t, fmt.Sprintf("listener %d has everything of speaker %d", i, j), func() (any, bool) {
				got := w.heard(i, j)
				return fmt.Sprintf("%d of %d", got, acked[j].Load()), got == acked[j].Load()
			})
		}
	}
	t.Logf("%d publishes were repeated, %d resumes came too early", w.repeats.Load(), w.blind.Load())
}

// wanderers are clients that come back whenever they lose their connection.
type wanderers struct {
	t     *testing.T
	url   string
	topic string
	ctx   context.Context
	halt  context.CancelFunc
	quiet atomic.Bool

	all, speaking sync.WaitGroup
	repeats       atomic.Int64 // publishes that were tried again
	blind         atomic.Int64 // resumes that nobody could answer

	mu    sync.Mutex
	count map[[2]int]int64 // by listener and speaker: its numbers that came, all from 0 up
}

func (w *wanderers) heard(listener, speaker int) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count[[2]int{listener, speaker}]
}

// connect connects as often as it takes; nil when the test is over.
func (w *wanderers) connect(user string) *client.Client {
	for w.ctx.Err() == nil {
		c, err := client.Dial(w.ctx, w.url, client.Options{Token: token(user, nil), Batch: true, RequestTimeout: patience})
		if err == nil {
			return c
		}
		select {
		case <-time.After(20 * time.Millisecond): // a client's backoff
		case <-w.ctx.Done():
		}
	}
	return nil
}

type utterance struct {
	Who int
	N   int64
}

// speak publishes numbers, one behind the other.
func (w *wanderers) speak(who int, acked *atomic.Int64) {
	user := fmt.Sprintf("speaker%d", who)
	c := w.connect(user)
	for c != nil && !w.quiet.Load() {
		n := acked.Load()
		_, err := c.Publish(w.ctx, w.topic, "", utterance{who, n}, client.PublishOptions{Key: fmt.Sprint(n)})
		if err == nil {
			acked.Add(1)
			continue
		}
		w.repeats.Add(1)
		c.Abort()
		c.Wait()
		c = w.connect(user)
	}
	if c != nil {
		c.Abort()
		c.Wait()
	}
}

// listen hears the topic from its beginning, over as many connections as it takes.
func (w *wanderers) listen(who int) {
	var at wire.Position
	for {
		c := w.connect(fmt.Sprintf("listener%d", who))
		if c == nil {
			return
		}
		sub, err := c.Subscribe(w.ctx, w.topic, client.SubscribeOptions{After: &at.Seq, Ts: at.Ts, Control: true})
		if err == nil && sub.Position().Reason != "" {
			w.blind.Add(1) // nobody reads the past yet: come again
			err = errors.New(sub.Position().Reason)
		}
		for err == nil {
			var m client.Message
			if m, err = sub.Next(w.ctx); err == nil {
				w.take(who, m, &at)
			}
		}
		c.Abort()
		c.Wait()
		select {
		case <-time.After(5 * time.Millisecond):
		case <-w.ctx.Done():
		}
	}
}

func (w *wanderers) take(who int, m client.Message, at *wire.Position) {
	if m.Control == "truncated" || m.Prev > at.Seq || m.Seq <= at.Seq {
		w.t.Errorf("listener %d: %s seq %d (prev %d) does not continue %d", who, m.Raw, m.Seq, m.Prev, at.Seq)
		return
	}
	*at = wire.Position{Seq: m.Seq, Ts: m.Ts}
	var u utterance
	if err := json.Unmarshal(m.Data, &u); err != nil {
		w.t.Errorf("listener %d: %s: %v", who, m.Data, err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count == nil {
		w.count = map[[2]int]int64{}
	}
	key := [2]int{who, u.Who}
	if want := w.count[key]; u.N != want {
		w.t.Errorf("listener %d: number %d of speaker %d in place of %d", who, u.N, u.Who, want)
	}
	w.count[key] = u.N + 1
}
