package integration

import (
	"slices"
	"strconv"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Who has read more of a topic than its gateway has heard of gets nothing twice
// when the gateway makes up for it, and is not told that what it has is gone.
func TestWhoIsAheadOfItsGatewayGetsNothingTwice(t *testing.T) {
	t.Parallel()
	w := startWild(t) // log.> retains 10
	topic := unique("log.room")
	behind := w.watch("ann", topic)
	for i := range 3 {
		w.put(topic, i)
		expect(t, behind, "", strconv.Itoa(i))
	}
	w.silently("FL_LOG", func() {
		for i := 3; i < 23; i++ {
			w.put(topic, i)
		}
	})
	ahead, err := w.as(0, "bob").Subscribe(within(t), topic, client.SubscribeOptions{Last: 5, Control: true})
	must(t, err)
	var at wire.Position
	for i := 18; i < 23; i++ {
		m := next(t, ahead)
		if m.Control != "" || string(m.Data) != strconv.Itoa(i) {
			t.Fatalf("got %s, want %d", said(m), i)
		}
		at = wire.Position{Seq: m.Seq, Ts: m.Ts}
	}
	w.put(topic, 23) // which shows the gateway what it missed
	if got := numbers(t, ahead, &at, 1); !slices.Equal(got, []int{23}) {
		t.Errorf("ahead: got %v, want 23", got)
	}
	if m := next(t, behind); m.Control != "truncated" {
		t.Fatalf("behind: got %s, want truncated", said(m))
	}
	for last := ""; last != "23"; {
		if m := next(t, behind); m.Control == "" {
			last = string(m.Data)
		}
	}
}

// A position past the end of the log, without a time that would tell, is of a
// log that is gone: what comes now arrives.
func TestAPositionPastTheEndIsNotDeaf(t *testing.T) {
	t.Parallel()
	w := startWild(t)
	topic := unique("log.room")
	for i := range 3 {
		w.put(topic, i)
	}
	after := int64(1000)
	sub, err := w.as(0, "ann").Subscribe(within(t), topic, client.SubscribeOptions{After: &after, Control: true})
	must(t, err)
	for i := 3; i < 6; i++ {
		w.put(topic, i)
		m := next(t, sub)
		for m.Control != "" {
			m = next(t, sub)
		}
		if string(m.Data) != strconv.Itoa(i) {
			t.Fatalf("got %s, want %d", said(m), i)
		}
	}
}
