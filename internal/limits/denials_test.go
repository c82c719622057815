package limits

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

var chat = &rules.Limit{Name: "chat", Capacity: 10, Refill: 1, Per: time.Hour}

// denied is a denial as the service answers it.
func denied(revision uint64, retry time.Duration) *wire.LimitVerdict {
	return &wire.LimitVerdict{RetryAfterMs: wire.RetryAfterOf(retry), Revision: revision, Version: chat.Version(), Limit: 10}
}

func (d *denials) denies(key string, cost int64, now time.Time) bool {
	_, yes := d.look(chat, key, cost, now)
	return yes
}

func TestADenialIsForItsCostAndMore(t *testing.T) {
	d := newDenials()
	d.remember(chat, "k", 5, denied(1, 3*time.Second), start)
	for cost, want := range map[int64]bool{0: false, 1: false, 4: false, 5: true, 6: true, 10: true} {
		if got := d.denies("k", cost, start); got != want {
			t.Errorf("cost %d: got %v, want %v", cost, got, want)
		}
	}
	if v, _ := d.look(chat, "k", 5, start.Add(time.Second)); v.Allowed || v.Banned || v.RetryAfter != 2*time.Second {
		t.Errorf("a second later: got %+v", v)
	}
	// Who wants two more than there will be then waits for those, too.
	if v, _ := d.look(chat, "k", 7, start.Add(time.Second)); v.RetryAfter != 2*time.Second+2*time.Hour {
		t.Errorf("two more: got %+v", v)
	}
	if d.denies("k", 5, start.Add(3*time.Second)) || d.denies("other", 5, start) {
		t.Error("denied when it is over, or another key is")
	}
	d.remember(chat, "k", 2, denied(1, 3*time.Second), start)
	d.remember(chat, "k", 7, denied(1, 3*time.Second), start)
	if !d.denies("k", 2, start) || d.denies("k", 1, start) {
		t.Error("the lowest cost that was denied does not count")
	}
	banned := denied(1, time.Hour)
	banned.Banned = true
	d.remember(chat, "k", 7, banned, start)
	if v, _ := d.look(chat, "k", 1, start); !v.Banned || v.RetryAfter != time.Hour || d.denies("k", 0, start) {
		t.Errorf("banned: got %+v", v)
	}
	if d.denies("k", 1, start.Add(rememberMost)) {
		t.Error("remembered for more than 5s")
	}
}

func TestWhatIsNotRemembered(t *testing.T) {
	other := denied(1, time.Second)
	other.Version = "of other rules"
	never := denied(1, wire.Never)
	for name, v := range map[string]*wire.LimitVerdict{"another version": other, "no version": {RetryAfterMs: 1000}, "never": never, "at once": denied(1, 0)} {
		d := newDenials()
		if d.remember(chat, "k", 1, v, start); d.count != 0 {
			t.Errorf("%s: it is remembered", name)
		}
	}
	d := newDenials()
	d.remember(chat, "k", 1, denied(1, time.Second), start)
	changed := *chat
	changed.Capacity = 20
	if _, yes := d.look(&changed, "k", 1, start); yes {
		t.Error("a changed limit is denied")
	}
	shadow := *chat
	shadow.Shadow = true
	d.change(wire.LimitChange{Policy: "chat", Key: "k", Revision: 9, BannedMs: 1000}, start)
	if _, yes := d.look(&shadow, "k", 1, start); yes {
		t.Error("a limit with shadow is denied")
	}
}

// A change and a denial that was decided before it, in either order.
func TestChangesForgetWhatIsOlder(t *testing.T) {
	for _, c := range []struct {
		change wire.LimitChange
		denial uint64
		want   bool // remembered
	}{
		{wire.LimitChange{Policy: "chat", Key: "k", Revision: 7}, 6, false},
		{wire.LimitChange{Policy: "chat", Key: "k", Revision: 7}, 7, true},
		{wire.LimitChange{Policy: "chat", Key: "k", Revision: 7}, 8, true},
		{wire.LimitChange{Key: "k", Revision: 7}, 6, false},
		{wire.LimitChange{Policy: "chat", Revision: 7}, 7, false}, // cleared: 7 is gone
		{wire.LimitChange{Revision: 7}, 7, false},
		{wire.LimitChange{Revision: 7}, 8, true},
		{wire.LimitChange{Policy: "chat", Key: "another", Revision: 7}, 6, true},
		{wire.LimitChange{Policy: "chat", Key: "k"}, 6, true}, // that the revision is what counts
	} {
		before, after := newDenials(), newDenials()
		before.remember(chat, "k", 1, denied(c.denial, time.Minute), start)
		before.change(c.change, start)
		after.change(c.change, start)
		after.remember(chat, "k", 1, denied(c.denial, time.Minute), start)
		if got := before.denies("k", 1, start); got != c.want {
			t.Errorf("denied at %d, then %+v: got %v, want %v", c.denial, c.change, got, c.want)
		}
		if got := after.denies("k", 1, start); got != c.want {
			t.Errorf("%+v, then denied at %d: got %v, want %v", c.change, c.denial, got, c.want)
		}
	}
	d := newDenials()
	d.change(wire.LimitChange{Policy: "chat", Key: "k", Revision: 7}, start)
	later := start.Add(changeLife)
	d.sweep(later)
	if d.remember(chat, "k", 1, denied(6, time.Minute), later); !d.denies("k", 1, later) || len(d.changed) != 0 {
		t.Error("a change is remembered for ever")
	}
}

func TestABanIsRememberedAtOnce(t *testing.T) {
	d := newDenials()
	d.change(wire.LimitChange{Policy: "chat", Key: "k", Revision: 7, BannedMs: 60_000}, start)
	if v, yes := d.look(chat, "k", 1, start.Add(time.Second)); !yes || !v.Banned || v.RetryAfter != 59*time.Second {
		t.Errorf("got %+v, %v", v, yes)
	}
	d.change(wire.LimitChange{Policy: "chat", Key: "k", Revision: 8}, start)
	if d.denies("k", 1, start) {
		t.Error("banned when it is not any more")
	}
	d.change(wire.LimitChange{Policy: "chat", Key: "k", Revision: 7, BannedMs: 60_000}, start)
	if d.denies("k", 1, start) {
		t.Error("banned by what was said before the ban was taken back")
	}
}

func TestOneAsksWhenTheTimeIsOver(t *testing.T) {
	d := newDenials()
	d.remember(chat, "k", 2, denied(1, time.Second), start)
	now := start.Add(time.Second)
	// turn is what somebody does who wants something.
	turn := func(cost int64) string {
		switch {
		case d.denies("k", cost, now):
			return "is denied"
		case d.asked(chat, "k", cost, now):
			return "waits"
		case d.begin(chat, "k", cost, now):
			return "asks first"
		}
		return "asks"
	}
	if a, b, c, e := turn(2), turn(2), turn(9), turn(1); a != "asks first" || b != "waits" || c != "waits" || e != "asks" {
		t.Errorf("got %s, %s, %s, %s", a, b, c, e)
	}
	d.remember(chat, "k", 2, denied(1, time.Second), now)
	d.settle("chat", "k")
	if got := turn(2); got != "is denied" {
		t.Errorf("denied again: got %s", got)
	}
	now = now.Add(time.Second)
	if got := turn(2); got != "asks first" {
		t.Errorf("over again: got %s", got)
	}
	d.settle("chat", "k") // who asked got an error
	if got := turn(2); got != "asks first" {
		t.Errorf("after an error: got %s", got)
	}
	d.allow("chat", "k", now)
	d.settle("chat", "k")
	if got := turn(2); got != "asks" || d.count != 0 {
		t.Errorf("allowed: got %s, with %d denials", got, d.count)
	}
}

func TestWhatIsRememberedIsCapped(t *testing.T) {
	d := newDenials()
	for i := range deniedMost + 100 {
		d.remember(chat, fmt.Sprint(i), 1, denied(1, time.Minute), start)
	}
	if d.count != deniedMost || len(d.keys) != deniedMost || d.dropped != 100 {
		t.Errorf("got %d denials of %d keys, %d dropped", d.count, len(d.keys), d.dropped)
	}
	if !d.denies(fmt.Sprint(deniedMost+99), 1, start) {
		t.Error("the newest is not remembered")
	}
	d.sweep(start.Add(2*rememberMost + 1))
	if d.count != 0 || len(d.keys) != 0 {
		t.Errorf("%d are left of what nobody asks for", d.count)
	}
	for i := range changesMost + 1 {
		d.change(wire.LimitChange{Policy: "chat", Key: fmt.Sprint(i), Revision: uint64(i + 10)}, start)
	}
	if len(d.changed) > changesMost {
		t.Errorf("%d changes are remembered", len(d.changed))
	}
	if d.remember(chat, "5", 1, denied(14, time.Minute), start); d.count != 0 {
		t.Error("a change was forgotten for want of room")
	}
	if d.remember(chat, "5", 1, denied(changesMost+10, time.Minute), start); d.count != 1 {
		t.Error("a denial newer than all changes is not remembered")
	}
}
