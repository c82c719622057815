package archive

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestRoundTripByteForByte(t *testing.T) {
	a := migrated(t)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	sent := []Message{
		{Seq: 1, Topic: "chat.a", Event: "message", Payload: []byte(`{"a": 1,  "b":"\u0000"}`)},
		{Seq: 2, Topic: "chat.a", Event: "typing:x", Payload: every, User: "ann", Exclude: "c1"},
		{Seq: 3, Topic: "chat.a", Event: "message", User: "Zoë \U0001f600"},
		{Seq: 4, Topic: "chat.a", Event: "message", Payload: bytes.Repeat([]byte("x"), 1<<20)},
		{Seq: 5, Topic: "chat.b", Event: "message", Payload: []byte("other")},
		{Seq: 6, Topic: "bad\xff\x00", Event: "message", Exclude: "\x00", Payload: []byte("no text")},
		{Seq: 7, Topic: string(bytes.Repeat([]byte("t"), 4000)), Event: "message", Payload: []byte("too long")},
	}
	var want []wire.ReplayMessage
	for i := range sent {
		sent[i].Time = epoch.Add(time.Duration(i) * time.Microsecond)
		if sent[i].Topic == "chat.a" {
			want = append(want, wire.ReplayMessage{
				Position: wire.Position{Seq: sent[i].Seq, Ts: sent[i].Time.UnixMilli()}, Prev: sent[i].Seq - 1,
				Event: sent[i].Event, Payload: append([]byte{}, sent[i].Payload...), User: sent[i].User, Exclude: sent[i].Exclude,
			})
		}
	}
	slices.Reverse(sent) // whatever the order
	store(t, a, sent...)
	got, whole, more, err := since(t, a, stream, "chat.a", wire.Position{}, 0, 100, 1<<30)
	if err != nil || !whole || more {
		t.Fatalf("Since: whole %v, more %v, err %v, want true, false, nil", whole, more, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

func TestBounds(t *testing.T) {
	a := migrated(t)
	store(t, a, plain("chat.a", 1, 2, 4, 5, 7)...)
	store(t, a, plain("chat.b", 3, 6)...)
	for _, test := range []struct {
		after, before int64
		limit, bytes  int
		want          []int64
		prev          int64
		more          bool
	}{
		{0, 0, 10, 1000, []int64{1, 2, 4, 5, 7}, 0, false},
		{2, 0, 10, 1000, []int64{4, 5, 7}, 2, false},
		{2, 7, 10, 1000, []int64{4, 5}, 2, false},
		{2, 7, 2, 1000, []int64{4, 5}, 2, false},
		{2, 0, 2, 1000, []int64{4, 5}, 2, true},
		{3, 0, 10, 1000, []int64{4, 5, 7}, 2, false}, // not a position of the topic
		{0, 0, 10, 2, []int64{1, 2}, 0, true},
		{0, 0, 10, 1, []int64{1}, 0, true},
		{0, 0, 10, 0, []int64{1}, 0, true}, // one at least
		{5, 7, 10, 1000, nil, 0, false},
		{7, 0, 10, 1000, nil, 0, false},
	} {
		after := wire.Position{Seq: test.after}
		ms, _, more, err := since(t, a, stream, "chat.a", after, test.before, test.limit, test.bytes)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for i, m := range ms {
			got = append(got, m.Seq)
			if want := test.prev; i == 0 && m.Prev != want {
				t.Errorf("Since(%v): first prev %d, want %d", test, m.Prev, want)
			}
			if i > 0 && m.Prev != ms[i-1].Seq {
				t.Errorf("Since(%v): prev %d, want %d", test, m.Prev, ms[i-1].Seq)
			}
		}
		if !slices.Equal(got, test.want) || more != test.more {
			t.Errorf("Since(%+v) = %v, more %v", test, got, more)
		}
	}
}

func TestWholeOnlyWhereItIsProven(t *testing.T) {
	a := migrated(t)
	store(t, a, plain("chat.a", 1, 2, 5)...)
	store(t, a, plain("chat.b", 3, 4)...)
	other := at(2)
	other.Ts++
	for _, test := range []struct {
		name   string
		after  wire.Position
		before int64
		whole  bool
	}{
		{"the beginning", wire.Position{}, 0, true},
		{"the beginning, further than was copied", wire.Position{}, 100, true},
		{"a message's position", at(2), 0, true},
		{"up to the end", at(2), 6, true},
		{"further than was copied", at(2), 7, false},
		{"the same sequence in another log", other, 0, false},
		{"another topic's message", at(3), 0, false},
		{"no message's", at(9), 0, false},
		{"without a time", wire.Position{Seq: 3}, 0, true},
		{"an empty topic", wire.Position{Seq: 4, Ts: -at(4).Ts - 1}, 0, true},
		{"an empty topic, before that was stored", wire.Position{Seq: 4, Ts: -at(4).Ts + 1}, 0, false},
		{"an empty topic of an empty stream", wire.Position{Seq: 0, Ts: -at(0).Ts}, 0, true},
	} {
		if _, whole := read(t, a, "chat.a", test.after, test.before); whole != test.whole {
			t.Errorf("%s: Since(%v, %d): whole %v, want %v", test.name, test.after, test.before, whole, test.whole)
		}
	}
	if _, whole := read(t, a, "chat.none", at(2), 0); whole {
		t.Error("a position of another topic: whole true, want false")
	}
	ms, whole, _, err := since(t, a, "fl_replay_other", "chat.a", at(2), 0, 10, 10)
	if err != nil || whole || len(ms) > 0 {
		t.Errorf("a stream without archive: %v, whole %v, err %v, want none, false, nil", ms, whole, err)
	}
}

func TestStoredOnce(t *testing.T) {
	a := migrated(t)
	ms := plain("chat.a", 1, 2, 3, 4, 5)
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			if err := a.Store(t.Context(), stream, append(ms[i:], ms...)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{1, 2, 3, 4, 5}, true)
	if got := count(t, a, "archive_log"); got != 1 {
		t.Errorf("logs: got %d, want 1", got)
	}
}

func TestSequencesOfAnotherLog(t *testing.T) {
	a := migrated(t)
	store(t, a, plain("chat.a", 1, 2, 3)...)
	anew := plain("chat.a", 2, 3)
	for i := range anew {
		anew[i].Time = anew[i].Time.Add(time.Hour)
	}
	store(t, a, anew...)
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{2, 3}, true)
	expect(t, a, "chat.a", at(2), 0, []int64{3}, false)
}

func TestMarker(t *testing.T) {
	a := migrated(t)
	ms := plain("chat.a", 1, 2, 3, 4, 5)
	ms[2].Marker = true
	store(t, a, ms...)
	store(t, a, plain("chat.b", 6)...)
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{4, 5}, true)
	expect(t, a, "chat.a", at(2), 0, []int64{4, 5}, false)
	expect(t, a, "chat.a", at(3), 0, []int64{4, 5}, true)
	expect(t, a, "chat.a", at(4), 0, []int64{5}, true)
	expect(t, a, "chat.b", wire.Position{}, 0, []int64{6}, true)
}

func TestClear(t *testing.T) {
	a := migrated(t)
	store(t, a, plain("chat.a", 1, 2, 3)...)
	store(t, a, plain("chat.b", 4, 5)...)
	if err := a.Clear(t.Context(), stream, "chat.a", 2); err != nil {
		t.Fatal(err)
	}
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{3}, true)
	expect(t, a, "chat.a", at(1), 0, []int64{3}, false)
	expect(t, a, "chat.a", at(3), 0, nil, true)
	expect(t, a, "chat.b", at(4), 0, []int64{5}, true)
	store(t, a, plain("chat.a", 1, 2, 3)...) // delivered again
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{3}, true)

	if err := a.Clear(t.Context(), stream, "", 4); err != nil {
		t.Fatal(err)
	}
	expect(t, a, "chat.a", wire.Position{}, 0, nil, true)
	expect(t, a, "chat.b", wire.Position{}, 0, []int64{5}, true)
	expect(t, a, "chat.b", at(4), 0, []int64{5}, false)
	for _, want := range []int64{4, 0} {
		if n, err := a.Sweep(t.Context(), stream); err != nil || n != want {
			t.Errorf("Sweep = %d, %v, want %d, nil", n, err, want)
		}
	}
	if got := count(t, a, "archive_message"); got != 1 {
		t.Errorf("messages left: got %d, want 1", got)
	}
	expect(t, a, "chat.b", at(4), 0, []int64{5}, false)
	if _, err := a.Clean(t.Context(), stream, epoch.Add(time.Hour), 10); err != nil {
		t.Fatal(err)
	}
	if got := count(t, a, "archive_clear"); got != 0 {
		t.Errorf("notes of what is cleaned away: got %d, want 0", got)
	}
	expect(t, a, "chat.b", at(4), 0, nil, false)
}

func TestClean(t *testing.T) {
	a := migrated(t)
	var seqs []int64
	for seq := range int64(100) {
		seqs = append(seqs, seq+1)
	}
	store(t, a, plain("chat.a", seqs...)...)
	removed, err := a.Clean(t.Context(), stream, epoch.Add(41*time.Second), 7)
	if err != nil || removed != 40 {
		t.Fatalf("Clean = %d, %v, want 40, nil", removed, err)
	}
	expect(t, a, "chat.a", wire.Position{}, 0, seqs[40:], true)
	expect(t, a, "chat.a", at(41), 0, seqs[41:], true)
	expect(t, a, "chat.a", at(40), 0, seqs[40:], false)
	expect(t, a, "chat.a", wire.Position{Seq: 39}, 0, seqs[40:], false)
	store(t, a, plain("chat.a", seqs[:50]...)...) // delivered again
	expect(t, a, "chat.a", wire.Position{}, 0, seqs[40:], true)
	if removed, err := a.Clean(t.Context(), stream, epoch, 7); err != nil || removed != 0 {
		t.Errorf("Clean of what is younger = %d, %v, want 0, nil", removed, err)
	}
}

// A message that is older than the ones before it, since a clock was set back,
// waits for its turn: what is left of a log never has a gap.
func TestCleanKeepsTheOrder(t *testing.T) {
	a := migrated(t)
	ms := plain("chat.a", 1, 2, 3, 4)
	ms[2].Time = epoch
	store(t, a, ms...)
	if removed, err := a.Clean(t.Context(), stream, epoch.Add(2*time.Second), 100); err != nil || removed != 1 {
		t.Fatalf("Clean = %d, %v, want 1, nil", removed, err)
	}
	expect(t, a, "chat.a", at(2), 0, []int64{3, 4}, true)
}

func TestCleanForgetsOldLogs(t *testing.T) {
	a := migrated(t)
	store(t, a, plain("chat.a", 1, 2)...)
	anew := plain("chat.a", 1)
	anew[0].Time = epoch.Add(time.Hour)
	store(t, a, anew...)
	if removed, err := a.Clean(t.Context(), stream, epoch.Add(time.Minute), 100); err != nil || removed != 2 {
		t.Fatalf("Clean = %d, %v, want 2, nil", removed, err)
	}
	if got := count(t, a, "archive_log"); got != 1 {
		t.Errorf("logs: got %d, want 1", got)
	}
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{1}, true)
}

func TestMigrateAtOnceAndAgain(t *testing.T) {
	url := pgdev.Test(t)
	var group sync.WaitGroup
	for range 4 {
		a := open(t, url)
		group.Go(func() {
			for range 2 {
				if err := a.Migrate(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func TestPostgresAway(t *testing.T) {
	pg := pgdev.TestServer(t)
	url := pg.URL()
	pg.Stop()
	a := open(t, url)
	away := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("%s: got %v, want UNAVAILABLE", what, err)
		}
	}
	all := func() {
		t.Helper()
		_, _, _, err := since(t, a, stream, "chat.a", wire.Position{}, 0, 10, 10)
		away("Since", err)
		away("Store", a.Store(t.Context(), stream, plain("chat.a", 1)))
		away("Clear", a.Clear(t.Context(), stream, "chat.a", 1))
		_, err = a.Clean(t.Context(), stream, epoch, 10)
		away("Clean", err)
		_, err = a.Copied(t.Context(), stream)
		away("Copied", err)
	}
	all()
	away("Migrate", a.Migrate(t.Context()))
	if err := pg.Restart(); err != nil {
		t.Fatal(err)
	}
	all() // there are no tables yet
	if err := a.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	store(t, a, plain("chat.a", 1)...)
	pg.Stop()
	all()
	if err := pg.Restart(); err != nil {
		t.Fatal(err)
	}
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{1}, true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Copied(ctx, stream); !errors.Is(err, wire.ErrCancelled) {
		t.Errorf("Copied of who has left: got %v, want CANCELLED", err)
	}
}

func TestSequencesAreLarge(t *testing.T) {
	a := migrated(t)
	const far = 1 << 45
	ms := plain("chat.a", 1, 2, 3, 4, 5)
	for i := range ms[1:] {
		ms[i+1].Seq += far - 1
	}
	store(t, a, ms[:4]...)
	known, _, err := a.current(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	for seq := range int64(3) {
		if _, _, err := a.settle(t.Context(), stream, known.id, far+1+seq); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := a.Copied(t.Context(), stream); err != nil || got != far+3 {
		t.Fatalf("Copied = %d, %v, want %d, nil", got, err, int64(far+3))
	}
	store(t, a, ms[4])
	expect(t, a, "chat.a", wire.Position{Seq: 1}, far+5, []int64{far + 1, far + 2, far + 3, far + 4}, false)
	expect(t, a, "chat.a", wire.Position{Seq: far + 1}, far+5, []int64{far + 2, far + 3, far + 4}, true)
	if err := a.Clear(t.Context(), stream, "chat.a", far+1); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Clean(t.Context(), stream, ms[3].Time, 10); err != nil || n != 3 {
		t.Fatalf("Clean = %d, %v, want 3, nil", n, err)
	}
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{far + 3, far + 4}, true)
}
