package presence

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const leaseTime = 10 * time.Second

func leaseOf(epoch uint64) lease {
	return lease{GatewayLease: wire.GatewayLease{LeaseMs: leaseTime.Milliseconds()}, epoch: epoch}
}

// A gateway is dead only when its lease is gone although JetStream could be
// written all the time, and it does not answer.
func TestDeathTakesMoreThanALapse(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	var d deaths
	find := func(live bool, writable time.Duration) finding {
		f, _ := d.find("g", leaseOf(5), live, leaseTime, writable, now)
		return f
	}
	if got := find(true, time.Hour); got != living {
		t.Errorf("with a lease: %v", got)
	}
	if got := find(false, leaseTime-1); got != living {
		t.Errorf("nobody could have renewed: %v", got)
	}
	if got := find(false, 0); got != living {
		t.Errorf("JetStream takes no writes: %v", got)
	}
	if got := find(false, leaseTime); got != unsure {
		t.Errorf("without a lease: %v, want that it is asked", got)
	}
	d.asked("g", 5, true, now)
	if got := find(false, time.Hour); got != living {
		t.Errorf("it answered: %v", got)
	}
	now = now.Add(leaseTime / 2)
	if got := find(false, time.Hour); got != unsure {
		t.Errorf("it answered long ago: %v, want that it is asked again", got)
	}
	d.asked("g", 5, false, now)
	f, epoch := d.find("g", leaseOf(5), false, leaseTime, time.Hour, now)
	if f != gone || epoch != 5 || !d.dead("g", 5, now) {
		t.Errorf("it did not answer: %v up to %d", f, epoch)
	}
	if d.dead("g", 6, now) {
		t.Error("what it says in a later epoch does not count")
	}
	d.returned("g") // it has said something since
	if got := find(false, time.Hour); got != unsure || d.dead("g", 5, now) {
		t.Errorf("it said something since: %v", got)
	}
	d.asked("g", 5, false, now)
	if got := find(true, time.Hour); got != living || d.dead("g", 5, now) {
		t.Errorf("its lease is back: %v", got)
	}
}

// What a living gateway said in an earlier epoch counts until it has had time to
// say it again.
func TestEarlierEpochsCountForAWhile(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	var d deaths
	d.find("g", leaseOf(7), true, leaseTime, time.Hour, now)
	if d.dead("g", 5, now.Add(strangerGrace)) {
		t.Error("too early")
	}
	late := now.Add(strangerGrace + 1)
	d.find("g", leaseOf(7), true, leaseTime, time.Hour, late)
	if !d.dead("g", 6, late) || d.dead("g", 7, late) {
		t.Error("an earlier epoch still counts, or its own does not")
	}
	d.find("g", leaseOf(9), true, leaseTime, time.Hour, late)
	if d.dead("g", 7, late) {
		t.Error("the epoch before counts no more at once")
	}
}

// A final lease says that the gateway goes: its epoch may be taken out.
func TestFinalLease(t *testing.T) {
	var d deaths
	last := leaseOf(5)
	last.Final = true
	if f, epoch := d.find("g", last, true, leaseTime, 0, time.UnixMilli(1)); f != leaving || epoch != 5 {
		t.Errorf("got %v up to %d", f, epoch)
	}
}

// TestDeathsModel plays random histories: nothing is ever taken out of a gateway
// that answers, nor while nobody could renew, nor of an epoch that it had not
// reached when it was asked.
func TestDeathsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.UnixMilli(1_800_000_000_000)
		var d deaths
		epoch, live, silent := uint64(5), true, false
		died := uint64(0) // it did not answer when its newest word was of that epoch
		writable := now   // since when
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0:
				now = now.Add(time.Duration(rapid.IntRange(1, 12000).Draw(t, "ms")) * time.Millisecond)
			case 1:
				writable = now
			case 2: // the lease lapses
				if live {
					live = false
				}
			case 3: // the gateway makes a new one
				if !live {
					live, epoch = true, epoch+2
				}
			case 4:
				silent = !silent
			default:
				f, upTo := d.find("g", leaseOf(epoch), live, leaseTime, now.Sub(writable), now)
				switch f {
				case unsure:
					if live || now.Sub(writable) < leaseTime {
						t.Fatalf("asked although it has a lease (%v), or none could be renewed", live)
					}
					d.asked("g", epoch, !silent, now)
					if silent {
						died = epoch
					}
				case gone:
					if live || died == 0 || upTo != died {
						t.Fatalf("taken out up to epoch %d (it has a lease: %v), want %d", upTo, live, died)
					}
				}
				if d.dead("g", epoch+1, now) {
					t.Fatal("an epoch that it has not begun is dead")
				}
				if live && d.dead("g", epoch, now) {
					t.Fatal("the epoch of its lease is dead")
				}
			}
		}
	})
}

// lacks is the difference of a view that lacks a section of this hash.
func lacks(hash uint64) (by difference) {
	by.topics.Remove(hash)
	return by
}

// What differs at a renewal may be on its way; what differs by the same at the
// next one has the gateway compare, and not all the time.
func TestCompareTwice(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	var d deaths
	for i, c := range []struct {
		renewal uint64
		by      difference
		want    bool
	}{
		{1, lacks(7), false},
		{1, lacks(7), false}, // seen already
		{2, difference{}, false},
		{3, lacks(7), false},
		{4, lacks(8), false},
		{5, lacks(9), false},
		{6, lacks(9), true},
		{7, lacks(9), false}, // it was asked a moment ago
	} {
		if got := d.compare("g", c.renewal, c.by, now); got != c.want {
			t.Errorf("%d: got %v", i, got)
		}
	}
	if !d.compare("g", 8, lacks(9), now.Add(auditEvery)) {
		t.Error("it still differs, and nobody asks")
	}
	d.keep(map[string]struct{}{"other": {}})
	if len(d.byID) != 0 {
		t.Errorf("%d gateways remembered of which nothing is left", len(d.byID))
	}
}

func TestDue(t *testing.T) {
	renewed := time.UnixMilli(1_800_000_000_000)
	if got := due(&wire.PresenceSection{Topic: "a"}, renewed, time.Minute); got != renewed.Add(time.Minute) {
		t.Errorf("of a topic: %s", got)
	}
	if got := due(&wire.PresenceSection{}, renewed, time.Minute); got != renewed {
		t.Errorf("of the registry: %s", got)
	}
}
