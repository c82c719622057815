package replay

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestMemory(t *testing.T) {
	testLog(t, func(_ *testing.T, r Retention, now func() time.Time) Log { return NewMemory(r, now) })
}

func TestMemoryForgetsIDsAfterTheWindow(t *testing.T) {
	now := time.UnixMilli(1e12)
	log := NewMemory(Retention{Size: 3, Dedupe: time.Minute}, func() time.Time { return now })
	e := Entry{Topic: "t.a", Payload: []byte("1"), ID: "one"}
	for i, c := range []struct {
		wait time.Duration
		want wire.ReplayStored
	}{
		{0, wire.ReplayStored{Seq: 1}},
		{time.Minute - time.Millisecond, wire.ReplayStored{Seq: 1, Duplicate: true}},
		{time.Millisecond, wire.ReplayStored{Seq: 2}},
		{time.Minute - time.Millisecond, wire.ReplayStored{Seq: 2, Duplicate: true}},
	} {
		now = now.Add(c.wait)
		if got, err := log.Append(t.Context(), e); err != nil || got != c.want {
			t.Errorf("append %d: %+v, %v, want %+v", i, got, err, c.want)
		}
	}
	if len(log.ids) != 1 || len(log.recent) != 1 {
		t.Errorf("%d ids and %d recent ones are held, want 1", len(log.ids), len(log.recent))
	}
}

func TestMemoryTimeNeverGoesBack(t *testing.T) {
	now := time.UnixMilli(1e12)
	log := NewMemory(Retention{Size: 3, TTL: time.Hour}, func() time.Time { return now })
	for _, back := range []time.Duration{0, time.Minute, -2 * time.Minute} {
		now = now.Add(-back)
		if _, err := log.Append(t.Context(), Entry{Topic: "t.a", Payload: []byte("1")}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := log.Since(t.Context(), Query{Topic: "t.a", Limit: 10, Bytes: 100})
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, m := range page.Messages {
		got = append(got, m.Ts-1e12)
	}
	if len(got) != 3 || got[0] != 0 || got[1] != 0 || got[2] != 60_000 {
		t.Errorf("stored at %v ms, want 0, 0, 60000", got)
	}
}

func TestMemoryHoldsNothingOfWhatItForgot(t *testing.T) {
	now := time.UnixMilli(1e12)
	r := Retention{Size: 3, TTL: time.Hour}
	log := NewMemory(r, func() time.Time { return now })
	for _, topic := range []string{"t.a", "t.b", "t.a", "t.a", "t.a", "t.a"} {
		if _, err := log.Append(t.Context(), Entry{Topic: topic, Payload: []byte("1")}); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := log.all.Len(), 5; got != want {
		t.Errorf("%d records, want %d", got, want)
	}
	for _, c := range []struct {
		wait time.Duration
		want int
	}{{r.TTL + memory, 5}, {time.Millisecond, 0}} {
		now = now.Add(c.wait)
		if _, _, err := log.Head(t.Context(), "t.a"); err != nil {
			t.Fatal(err)
		}
		if got := log.all.Len(); got != c.want || (len(log.topics) > 0) != (c.want > 0) {
			t.Errorf("%d records of %d topics, want %d", got, len(log.topics), c.want)
		}
	}
}
