package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// movers are users on several gateways who move their cursors at a rate.
type movers struct {
	t       *testing.T
	topic   string
	clients []*client.Client
	refused atomic.Int64
}

func newMovers(t *testing.T, s *stack, topic string, n int, gateway func(i int) int) *movers {
	t.Helper()
	m := &movers{t: t, topic: topic, clients: make([]*client.Client, n)}
	many(t, n, func(i int) error {
		c, err := tryDial(t, s.url(gateway(i)), client.Options{Token: token(fmt.Sprintf("m%03d", i), nil)})
		if err == nil {
			c.OnError(func(*wire.Error) { m.refused.Add(1) })
			_, err = c.Subscribe(within(t), topic, client.SubscribeOptions{})
			m.clients[i] = c
		}
		return err
	})
	return m
}

// run moves every cursor each time until enough, then once more with ids, so
// that the last moves are taken for certain; it returns the last round.
func (m *movers) run(every time.Duration, data func(round int) any, enough func(round int) bool) (last int) {
	m.t.Helper()
	const hands = 4
	var rounds [hands]int
	var work sync.WaitGroup
	var stop atomic.Bool
	for h := range hands {
		work.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for round := 1; !stop.Load(); round++ {
				for i := h; i < len(m.clients); i += hands {
					if err := m.clients[i].MoveCursor(m.topic, data(round)); err != nil {
						m.t.Errorf("mover %d: %v", i, err)
						return
					}
				}
				rounds[h] = round
				if h == 0 && enough(round) {
					stop.Store(true)
				}
				<-tick.C
			}
		})
	}
	work.Wait()
	for _, round := range rounds {
		last = max(last, round+1)
	}
	final, err := json.Marshal(data(last))
	must(m.t, err)
	for _, c := range m.clients {
		asked(m.t, c, "cursor", fmt.Sprintf(`{"topic":%q,"data":%s}`, m.topic, final))
	}
	if n := m.refused.Load(); n > 0 {
		m.t.Errorf("%d moves were refused", n)
	}
	return last
}

// ended reports whether every mover's cursor is at its last value.
func ended(n int, last string) func(map[string]json.RawMessage) bool {
	return func(now map[string]json.RawMessage) bool {
		for i := range n {
			if string(now[fmt.Sprintf("m%03d", i)]) != last {
				return false
			}
		}
		return len(now) == n
	}
}

// A hundred movers at 60 Hz on three gateways cost each of those who watch no
// more than a frame for each window, and everybody ends with every last value.
func TestAHundredMovers(t *testing.T) {
	const n, hz, window = 100, 60, 16 * time.Millisecond
	s := cursorStack(t, 3)
	// What has no window is the control: it shows that frames are counted.
	for _, test := range []struct {
		topic string
		n     int
		over  bool
	}{{"doc.crowd", n, false}, {"fast.crowd", 20, true}} {
		m := newMovers(t, s, test.topic, test.n, func(i int) int { return i })
		var eyes []*pointer
		for i := range 9 {
			eyes = append(eyes, pointing(t, s.as(i, fmt.Sprint("eye", i)), test.topic))
			eyes[i].sees()
		}
		began := time.Now()
		last := m.run(time.Second/hz, func(round int) any { return round }, func(int) bool { return time.Since(began) > 3*time.Second })
		for i, p := range eyes {
			if err := p.view.Wait(within(t), ended(test.n, fmt.Sprint(last))); err != nil {
				t.Fatalf("watcher %d: %v", i, err)
			}
			took, frames := time.Since(began), p.view.Frames()-1
			// One at each end of a window, and the first.
			most := int(took/window) + 2
			t.Logf("%s: watcher %d got %d frames in %s: %.1f a second", test.topic, i, frames, took, float64(frames)/took.Seconds())
			if over := frames > most; over != test.over {
				t.Errorf("%s: watcher %d got %d frames in %s, where %d are a window's each", test.topic, i, frames, took, most)
			}
			if err := p.view.Err(); err != nil {
				t.Error(err)
			}
			for _, fault := range p.faults() {
				t.Errorf("watcher %d: %s", i, fault)
			}
		}
		for _, c := range m.clients {
			c.Close(wire.CloseNormal)
		}
	}
}

// Who does not read keeps its connection whatever the rule does with messages:
// it is owed the newest of each cursor, and that is what it gets when it reads.
func TestAStalledReaderIsOwedTheLatestCursors(t *testing.T) {
	for _, topic := range []string{"lazy.1", "doc.1"} {
		t.Run(topic, func(t *testing.T) {
			t.Parallel()
			const n, much = 60, 14 << 20
			s := cursorStack(t, 2, "FAIRLEAD_LIMIT_OUTBOUND_BYTES=524288")
			m := newMovers(t, s, topic, n, func(int) int { return 1 })
			eye := pointing(t, s.as(0, "eye"), topic)
			eye.sees()
			ws := stallCursors(t, s.url(0), topic)
			data := func(round int) any { return fmt.Sprintf("%d %s", round, strings.Repeat("x", 900)) }
			heard := func() int { return eye.view.Frames() * n * 900 }
			// The witness sees much more than sockets and queues can hold.
			last := m.run(time.Second/60, data, func(round int) bool { return heard() > much })
			end, err := json.Marshal(data(last))
			must(t, err)
			must(t, eye.view.Wait(within(t), ended(n, string(end))))

			view, frames := client.NewCursors(), 0
			rounds := map[string]int{}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for !ended(n, string(end))(view.Now()) {
				_, b, err := ws.Read(ctx)
				if err != nil {
					t.Fatalf("after %d frames the stalled reader's connection: %v", frames, err)
				}
				batch, err := wire.DecodeServer(b)
				must(t, err)
				for i := range batch {
					if batch[i].Op != "cursors" {
						continue
					}
					frames++
					view.Apply(&batch[i])
					for user, raw := range batch[i].Moved {
						var round int
						var text string
						must(t, json.Unmarshal(raw, &text))
						if fmt.Sscan(text, &round); round < rounds[user] {
							t.Fatalf("%s went back from %d to %d", user, rounds[user], round)
						}
						rounds[user] = round
					}
				}
			}
			t.Logf("the witness got %d frames, the stalled reader %d", eye.view.Frames(), frames)
			if frames > eye.view.Frames()*2/3 {
				t.Errorf("the stalled reader got %d frames, the witness %d: it did not stall", frames, eye.view.Frames())
			}
			if eye.view.Err() != nil || len(eye.faults()) > 0 {
				t.Errorf("the witness: %v, %v", eye.view.Err(), eye.faults())
			}
			asked(t, m.clients[0], "cursor", fmt.Sprintf(`{"topic":%q,"data":null}`, topic))
			for view.Now()["m000"] != nil {
				_, b, err := ws.Read(ctx)
				must(t, err)
				batch, err := wire.DecodeServer(b)
				must(t, err)
				for i := range batch {
					view.Apply(&batch[i])
				}
			}
		})
	}
}

// stallCursors connects with a small buffer, subscribes to cursors, and reads
// no more.
func stallCursors(t *testing.T, url, topic string) *websocket.Conn {
	t.Helper()
	ws := stall(t, url, "doc.none")
	must(t, ws.Write(within(t), websocket.MessageText, fmt.Appendf(nil, `{"op":"subscribe","id":3,"topic":%q,"cursors":true}`, topic)))
	return ws
}
