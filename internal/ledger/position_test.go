package ledger

import (
	"testing"
	"time"
)

func TestPositionHoldsAnEntry(t *testing.T) {
	p := Position{Created: 1000, At: 5000, Last: 70}
	at := func(ts int64) time.Time { return time.UnixMilli(ts) }
	for _, c := range []struct {
		name string
		e    entry
		want bool
	}{
		{"evicted", entry{Entry: Entry{Seq: 50, Ts: 4000}, written: at(4001)}, true},
		{"noted by a gateway", entry{Entry: Entry{Seq: 50}, written: at(4001)}, true},
		{"newer than the look", entry{Entry: Entry{Seq: 71, Ts: 5001}, written: at(5002)}, true},
		{"older than the stream", entry{Entry: Entry{Seq: 50, Ts: 999}, written: at(1001)}, false},
		{"noted before the stream was made", entry{Entry: Entry{Seq: 50}, written: at(999)}, false},
		{"of an end that was lost", entry{Entry: Entry{Seq: 71, Ts: 4000}, written: at(4001)}, false},
	} {
		if got := p.holds(&c.e); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestALedgerThatIsBehind(t *testing.T) {
	b := open(t, `{dedupe: 1h}`)
	_, err := b.Check(t.Context(), "new", 8)
	if got, want := outcome(err), "UNAVAILABLE none"; got != want {
		t.Errorf("without a position: got %s, want %s", got, want)
	}
	b.fill("known", b.say("known"))
	p := b.now()
	p.UpTo -= 61_000
	b.advance(p)
	_, err = b.Check(t.Context(), "new", 8)
	if got, want := outcome(err), "UNAVAILABLE none"; got != want {
		t.Errorf("behind by a minute: got %s, want %s", got, want)
	}
	if got := b.check("known"); got == 0 {
		t.Error("a known id is not found")
	}
	p.UpTo += 11_000
	p.At += 1000
	b.advance(p)
	if got := b.check("new"); got != 0 {
		t.Errorf("behind by less: got %d, want 0", got)
	}
}

func TestAgeOfAPosition(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	for _, c := range []struct {
		name        string
		clock       time.Duration // of the process, against the server's
		behind      time.Duration // when it was written
		since, want time.Duration
	}{
		{"fresh", 0, 2 * time.Second, 0, 2 * time.Second},
		{"a while ago", 0, 2 * time.Second, time.Minute, 62 * time.Second},
		{"a slow clock", -time.Hour, 2 * time.Second, time.Minute, 62 * time.Second},
		{"a fast clock", time.Hour, 2 * time.Second, 0, time.Hour + 2*time.Second},
	} {
		k := known{Position: Position{UpTo: at.Add(-c.behind).UnixMilli()}, written: at, since: at.Add(c.clock)}
		if got := k.age(at.Add(c.clock + c.since)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestAdvanceTakesNothingBack(t *testing.T) {
	b := open(t, `{dedupe: 1h}`)
	p := b.now()
	b.advance(p)
	older := *p
	older.UpTo, older.At = p.UpTo-5000, p.At+5000
	got, err := b.Advance(t.Context(), older)
	if err != nil || got.UpTo != p.UpTo {
		t.Errorf("behind another replica: got %+v, %v, want up to %d", got, err, p.UpTo)
	}
	other := older
	other.Created++
	got, err = b.Advance(t.Context(), other)
	if err != nil || got.UpTo != other.UpTo {
		t.Errorf("of another stream: got %+v, %v, want up to %d", got, err, other.UpTo)
	}
}
