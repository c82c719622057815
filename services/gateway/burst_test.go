package gateway

import (
	"fmt"
	"testing"
	"time"
)

func TestABurstBeginsOnce(t *testing.T) {
	b := newBursts()
	now := localsAt
	if !b.begins("messages", "ann", now) {
		t.Error("the first refusal begins no burst")
	}
	for range 100 { // longer than the quiet time, without a pause
		now = now.Add(burstQuiet - time.Millisecond)
		if b.begins("messages", "ann", now) {
			t.Fatal("a refusal within a burst begins another")
		}
	}
	if !b.begins("messages", "bob", now) || !b.begins("calls", "ann", now) {
		t.Error("another key, or limit, has no burst of its own")
	}
	if now = now.Add(burstQuiet); !b.begins("messages", "ann", now) {
		t.Error("no burst begins after a pause")
	}
}

func TestBurstsHaveABound(t *testing.T) {
	b := newBursts()
	b.most = 100
	told := 0
	for i := range 1000 {
		if b.begins("messages", fmt.Sprint(i), localsAt) {
			told++
		}
	}
	if told != b.most || b.size() != int64(b.most) || b.missed() != 900 {
		t.Errorf("%d told, %d remembered, %d missed, want 100, 100, 900", told, b.size(), b.missed())
	}
	later := localsAt.Add(burstQuiet)
	if !b.begins("messages", "one more", later) || b.size() != 1 {
		t.Errorf("with %d remembered, a burst is untold though the others are over", b.size())
	}
}
