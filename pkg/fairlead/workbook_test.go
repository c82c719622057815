package fairlead

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// held makes an attempt as the book needs it.
func held(id byte, fence int64, deadline time.Time) *Attempt {
	return &Attempt{id: wire.TaskID{15: id}, fence: fence, deadline: deadline, size: 1, ctx: context.Background()}
}

func TestWorkbookKeepsTheOrderAndTheBounds(t *testing.T) {
	now := time.Now()
	later := now.Add(time.Minute)
	b := newWorkbook(2)
	for i := range byte(5) {
		deadline := later
		if i == 2 {
			deadline = now
		}
		if _, ok := b.admit(held(i, 1, deadline)); !ok {
			t.Fatalf("attempt %d was not admitted", i)
		}
	}
	var began []byte
	var late int
	start := func() {
		for {
			a, before := b.start(now)
			late += len(before)
			if a == nil {
				return
			}
			began = append(began, a.id[15])
		}
	}
	start()
	if fmt.Sprint(began, late, b.bytes) != "[0 1] 0 3" {
		t.Errorf("%v began, %d late, %d bytes wait, want the first two", began, late, b.bytes)
	}
	b.ran()
	start()
	if fmt.Sprint(began, late) != "[0 1 3] 1" {
		t.Errorf("%v began, %d late, want the fourth: the third is out of time", began, late)
	}
	b.untold = b.most + mostUntold // nobody acknowledges anything
	b.running = 0
	if start(); len(began) != 3 {
		t.Errorf("%v began, want none while so many results wait", began)
	}
	b.told(held(0, 1, later))
	if start(); fmt.Sprint(began) != "[0 1 3 4]" {
		t.Errorf("%v began, want the last", began)
	}
}

func TestWorkbookAdmitsAnAttemptOnce(t *testing.T) {
	later := time.Now().Add(time.Minute)
	b := newWorkbook(10)
	first, newer := held(1, 2, later), held(1, 3, later)
	for _, test := range []struct {
		a     *Attempt
		given *Attempt
		ok    bool
	}{
		{first, nil, true},
		{held(1, 2, later), nil, false},
		{held(1, 1, later), nil, false},
		{newer, first, true},
		{held(1, 2, later), nil, false},
		{held(2, 2, later), nil, true},
	} {
		given, ok := b.admit(test.a)
		if ok != test.ok || ok && given != test.given {
			t.Errorf("task %d, fence %d: admitted %v in place of %p, want %v of %p", test.a.id[15], test.a.fence, ok, given, test.ok, test.given)
		}
	}
	b.forget(first) // a newer one is there
	if b.held[newer.id] != newer {
		t.Error("the newer attempt is forgotten with the older")
	}
	b.forget(newer)
	if _, ok := b.admit(held(1, 3, later)); ok {
		t.Error("an attempt that has ended was admitted again")
	}
	for i := range recentAttempts {
		b.remember(attemptRef{wire.TaskID{0: 1, 14: byte(i >> 8), 15: byte(i)}, 1})
	}
	if len(b.recent) != recentAttempts || len(b.ring) != recentAttempts {
		t.Errorf("%d and %d attempts are remembered, want %d", len(b.recent), len(b.ring), recentAttempts)
	}
}

func TestLifeOfAnAttempt(t *testing.T) {
	const lease = 6 * time.Second
	began := time.Now()
	at := func(s float64) time.Time { return began.Add(time.Duration(s * float64(time.Second))) }
	l := life{beatAt: began}
	if l.due(at(0.05), lease) || !l.due(at(0.1), lease) {
		t.Error("the first beat, which promises others, is not due when the attempt has lasted for a moment")
	}
	if l.over(at(100), lease) {
		t.Error("a lease that nobody promised is over")
	}
	l.sent(at(2))
	if l.due(at(3.4), lease) || !l.due(at(4), lease) {
		t.Error("the next beat is not due after a third of the lease")
	}
	l.sent(at(4))
	if l.over(at(6.9), lease) || !l.over(at(7), lease) {
		t.Error("without an acknowledgement the lease is not over before it is at the service, 8s")
	}
	l.acknowledged(at(4))
	l.acknowledged(at(2)) // late
	if l.over(at(8.9), lease) || !l.over(at(9), lease) || l.due(at(5), lease) {
		t.Error("an acknowledgement does not count from when its beat was sent")
	}
}
