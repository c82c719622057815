package archive

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestCopyOfWhatIsPublished(t *testing.T) {
	a, s := migrated(t), newSource(t, 1000)
	c, _ := s.copier(a, ackWait)
	payload := []byte("{\"text\":  \"\u00e9\"}\x00\xff")
	s.send(&nats.Msg{Subject: "fl.topic.chat.a", Data: payload, Header: nats.Header{
		"fl-event": {"typing"}, "Fl-User": {"ann"}, "Fl-Exclude": {"c1"},
	}})
	s.publish("chat.b", 1)
	s.send(&nats.Msg{Subject: "fl.topic.chat.a"})
	s.send(&nats.Msg{Subject: "fl.topic.chat.b", Header: nats.Header{"Fl-Clear": {"1"}}})
	copied(t, a, 4)
	ms, whole, _, err := since(t, a, stream, "chat.a", wire.Position{}, 0, 10, 1000)
	if err != nil || !whole || len(ms) != 2 {
		t.Fatalf("Since = %v, whole %v, err %v, want 2 messages, true, nil", ms, whole, err)
	}
	if m := ms[0]; m.Event != "typing" || m.User != "ann" || m.Exclude != "c1" || !bytes.Equal(m.Payload, payload) {
		t.Errorf("first message: got %+v", m)
	}
	if m := ms[1]; m.Event != wire.DefaultEvent || len(m.Payload) != 0 || m.Prev != 1 {
		t.Errorf("second message: got %+v", m)
	}
	for _, m := range ms {
		at, ok, err := c.storedAt(t.Context(), m.Seq, false)
		if err != nil || !ok || at.UnixMilli() != m.Ts {
			t.Errorf("time of %d: got %d, want %d (%v, %v)", m.Seq, m.Ts, at.UnixMilli(), ok, err)
		}
	}
	expect(t, a, "chat.b", wire.Position{}, 0, nil, true)
	eventually(t, func() (bool, string) {
		l := c.Lag()
		return l == Lag{}, fmt.Sprintf("lag %+v", l)
	})
}

// A message without a body whose headers look like the server's word is a
// message all the same.
func TestCopyOfWhatLooksLikeAStatus(t *testing.T) {
	a, s := migrated(t), newSource(t, 1000)
	_, stop := s.copier(a, ackWait)
	for _, status := range []string{"100", "404", "408", "409", "500", "503"} {
		s.send(&nats.Msg{Subject: "fl.topic.chat.a", Header: nats.Header{"Status": {status}, "Description": {"Consumer Deleted"}}})
	}
	copied(t, a, 6)
	stop()
	s.copier(a, ackWait) // it looks at the newest one
	s.publish("chat.a", 1)
	copied(t, a, 7)
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{1, 2, 3, 4, 5, 6, 7}, true)
}

func TestCopiedOnceThoughDeliveredAgain(t *testing.T) {
	a, s := migrated(t), newSource(t, 10_000)
	s.publish("chat.a", 3000)
	_, stop := s.copier(a, ackWait)
	copied(t, a, 3000)
	stop()
	if err := s.js.DeleteConsumer(t.Context(), stream, Durable); err != nil {
		t.Fatal(err)
	}
	s.copier(a, ackWait)
	s.publish("chat.a", 1)
	copied(t, a, 3001)
	eventually(t, func() (bool, string) {
		consumer, err := s.js.Consumer(t.Context(), stream, Durable)
		if err != nil {
			return false, err.Error()
		}
		info := consumer.CachedInfo()
		return info.AckFloor.Stream == 3001, fmt.Sprintf("acknowledged up to %d", info.AckFloor.Stream)
	})
	if got := count(t, a, "archive_message"); got != 3001 {
		t.Errorf("messages: got %d, want 3001", got)
	}
	if got := count(t, a, "archive_log"); got != 1 {
		t.Errorf("logs: got %d, want 1", got)
	}
}

func TestHoleIsNotWhole(t *testing.T) {
	a, s := migrated(t), newSource(t, 10)
	_, stop := s.copier(a, ackWait)
	s.publish("chat.a", 5)
	s.publish("chat.b", 1) // 6
	copied(t, a, 6)
	stop()
	before, _, _, err := since(t, a, stream, "chat.a", wire.Position{}, 0, 10, 1000)
	if err != nil {
		t.Fatal(err)
	}
	s.publish("chat.a", 30) // 7 to 36: what is left is 27 and later
	s.publish("chat.b", 1)  // 37
	s.copier(a, ackWait)
	copied(t, a, 37)
	first, fifth := before[0].Position, before[4].Position
	if _, whole := read(t, a, "chat.a", first, 6); !whole {
		t.Error("before the hole: whole false, want true")
	}
	if _, whole := read(t, a, "chat.a", fifth, 27); whole {
		t.Error("across the hole: whole true, want false")
	}
	if _, whole := read(t, a, "chat.b", first, 38); whole {
		t.Error("across the hole, on another topic: whole true, want false")
	}
	ms, _, _, err := since(t, a, stream, "chat.a", wire.Position{}, 0, 100, 1000)
	if err != nil {
		t.Fatal(err)
	}
	last := ms[len(ms)-10]
	if last.Seq != 27 {
		t.Fatalf("first message behind the hole: got %d, want 27", last.Seq)
	}
	if seqs, whole := read(t, a, "chat.a", last.Position, 38); !whole || len(seqs) != 9 {
		t.Errorf("behind the hole: %v, whole %v, want 9 messages, true", seqs, whole)
	}
	if got := count(t, a, "archive_hole where first = 7 and last = 26"); got != 1 {
		t.Errorf("holes from 7 to 26: got %d, want 1", got)
	}
}

// An archive that begins when the stream has given up messages already knows
// that it does not have them, and one by one those that went from in between.
func TestArchiveOfAnOldStream(t *testing.T) {
	a, s := migrated(t), newSource(t, 2)
	for range 5 {
		s.publish("chat.a", 1)
		s.publish("chat.b", 1)
	}
	s.publish("chat.a", 2) // left are 8, 10, 11, 12
	s.copier(a, ackWait)
	copied(t, a, 12)
	if got := count(t, a, "archive_hole"); got != 2 {
		t.Errorf("holes: got %d, want 2 (1 to 7, 9)", got)
	}
	expect(t, a, "chat.b", wire.Position{Seq: 7}, 0, []int64{10}, false) // none before a hole
	expect(t, a, "chat.b", wire.Position{Seq: 9}, 0, []int64{10}, true)
}

func TestPostgresAwayForAWhile(t *testing.T) {
	pg := pgdev.TestServer(t)
	pg.Stop()
	a, s := open(t, pg.URL()), newSource(t, 100_000)
	c, _ := s.copier(a, ackWait)
	s.publish("chat.a", 500)
	eventually(t, func() (bool, string) {
		l := c.Lag()
		return l.Messages == 500 && l.Bytes > 0 && l.Age > 0 && l.Stopped > 0, fmt.Sprintf("lag %+v", l)
	})
	for want := int64(500); want <= 1500; want += 500 {
		if err := pg.Restart(); err != nil {
			t.Fatal(err)
		}
		copied(t, a, want)
		pg.Stop()
		s.publish("chat.a", 500)
	}
	if err := pg.Restart(); err != nil {
		t.Fatal(err)
	}
	copied(t, a, 2000)
	if seqs, whole := read(t, a, "chat.a", wire.Position{}, 0); len(seqs) != 2000 || !whole {
		t.Errorf("messages: got %d, whole %v, want 2000, true", len(seqs), whole)
	}
	if got := count(t, a, "archive_hole"); got != 0 {
		t.Errorf("holes: got %d, want 0", got)
	}
}

func TestNATSRestarts(t *testing.T) {
	a, s := migrated(t), newSource(t, 100_000)
	s.copier(a, time.Second)
	for want := int64(300); want <= 900; want += 300 {
		s.publish("chat.a", 300)
		copied(t, a, want)
		if err := s.server.Restart(); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() (bool, string) {
			_, err := s.js.Stream(t.Context(), stream)
			return err == nil, fmt.Sprint(err)
		})
	}
	s.publish("chat.a", 1)
	copied(t, a, 901)
	if got := count(t, a, "archive_log"); got != 1 {
		t.Errorf("logs: got %d, want 1", got)
	}
}

func TestStreamMadeAnew(t *testing.T) {
	a, s := migrated(t), newSource(t, 1000)
	s.copier(a, ackWait)
	s.publish("chat.a", 20)
	copied(t, a, 20)
	old, _, _, err := since(t, a, stream, "chat.a", wire.Position{Seq: 9}, 0, 2, 1000)
	if err != nil {
		t.Fatal(err)
	}
	s.remove()
	s.create()
	s.publish("chat.a", 15)
	copied(t, a, 15)
	var want []int64
	for seq := range int64(15) {
		want = append(want, seq+1)
	}
	expect(t, a, "chat.a", wire.Position{}, 0, want, true)
	if _, whole := read(t, a, "chat.a", old[0].Position, 0); whole {
		t.Error("a position of the stream before: whole true, want false")
	}
	if got := count(t, a, "archive_log"); got != 2 {
		t.Errorf("logs: got %d, want 2", got)
	}
}

// A stream that was made anew while no copier ran is another one even where its
// sequences go on as if it were the old one.
func TestStreamMadeAnewUnseen(t *testing.T) {
	a, s := migrated(t), newSource(t, 3)
	_, stop := s.copier(a, ackWait)
	s.publish("chat.a", 5)
	copied(t, a, 5)
	stop()
	old, _, _, err := since(t, a, stream, "chat.a", wire.Position{Seq: 4}, 0, 1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	s.remove()
	s.create()
	s.publish("chat.a", 8) // left are 6 to 8
	s.copier(a, ackWait)
	copied(t, a, 8)
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{6, 7, 8}, true)
	expect(t, a, "chat.a", old[0].Position, 0, []int64{6, 7, 8}, false)
}

// A stream that lost its newest messages gives their sequences to others. Here
// the archive has a message with another time in the place of the newest one.
func TestStreamThatLostItsEnd(t *testing.T) {
	a, s := migrated(t), newSource(t, 100)
	_, stop := s.copier(a, ackWait)
	s.publish("chat.a", 5)
	copied(t, a, 5)
	stop()
	if _, err := a.pool.Exec(t.Context(), "update fairlead.archive_message set ts = ts - 1000000 where seq = 5"); err != nil {
		t.Fatal(err)
	}
	_, stop = s.copier(a, ackWait)
	eventually(t, func() (bool, string) {
		n := count(t, a, "archive_log where position = 5")
		return n == 2, fmt.Sprintf("%d logs", n)
	})
	stop()
	if _, err := a.pool.Exec(t.Context(), "update fairlead.archive_log set last = 9"); err != nil {
		t.Fatal(err)
	}
	s.copier(a, ackWait)
	eventually(t, func() (bool, string) {
		n := count(t, a, "archive_log where position = 5")
		return n == 3, fmt.Sprintf("%d logs", n)
	})
	expect(t, a, "chat.a", wire.Position{}, 0, []int64{1, 2, 3, 4, 5}, true)
}

// A message that contradicts the archive though all looked well starts it again.
func TestMessageThatContradicts(t *testing.T) {
	a, s := migrated(t), newSource(t, 100)
	_, stop := s.copier(a, ackWait)
	s.publish("chat.a", 5)
	copied(t, a, 5)
	stop()
	if err := s.js.DeleteConsumer(t.Context(), stream, Durable); err != nil {
		t.Fatal(err)
	}
	if _, err := a.pool.Exec(t.Context(), "update fairlead.archive_message set ts = ts - 1000000 where seq = 2"); err != nil {
		t.Fatal(err)
	}
	s.copier(a, ackWait)
	eventually(t, func() (bool, string) {
		n := count(t, a, "archive_log where position = 5")
		return n == 2, fmt.Sprintf("%d logs", n)
	})
}

func TestTwoCopiersShareTheStream(t *testing.T) {
	a, s := migrated(t), newSource(t, 100_000)
	_, stop := s.copier(a, time.Second)
	s.copier(a, time.Second)
	for range 20 {
		s.publish("chat.a", 500)
		s.publish("chat.b", 1)
	}
	copied(t, a, 20*501)
	stop() // what it had not stored the other one gets
	s.publish("chat.a", 500)
	copied(t, a, 20*501+500)
	if got := count(t, a, "archive_hole"); got != 0 {
		t.Errorf("holes: got %d, want 0", got)
	}
	seqs, whole := read(t, a, "chat.a", wire.Position{}, 0)
	if len(seqs) != 21*500 || !whole || !slices.IsSorted(seqs) {
		t.Errorf("messages: got %d, whole %v, want %d, true", len(seqs), whole, 21*500)
	}
}

// What a copier that was killed had taken comes again after a while. Until then
// it is missing, and not a hole.
func TestCopierKilled(t *testing.T) {
	a, s := migrated(t), newSource(t, 100_000)
	s.publish("chat.a", 10)
	_, stop := s.copier(a, 2*time.Second)
	copied(t, a, 10)
	stop()
	s.publish("chat.a", 50)
	consumer, err := s.js.Consumer(t.Context(), stream, Durable)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := consumer.FetchNoWait(20) // and never heard of again
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range taken.Messages() {
		n++
	}
	if n != 20 {
		t.Fatalf("taken: got %d, want 20", n)
	}
	s.copier(a, 2*time.Second)
	eventually(t, func() (bool, string) {
		n := count(t, a, "archive_message")
		return n >= 40, fmt.Sprintf("%d messages", n)
	})
	if got, err := a.Copied(t.Context(), stream); err != nil || got != 10 {
		t.Errorf("copied: got %d, %v, want 10 as long as 11 is missing", got, err)
	}
	copied(t, a, 60)
	if got := count(t, a, "archive_hole"); got != 0 {
		t.Errorf("holes: got %d, want 0", got)
	}
}

func TestCopierWaitsForTheStream(t *testing.T) {
	a, s := migrated(t), newSource(t, 100)
	s.remove()
	s.copier(a, ackWait)
	s.create()
	s.publish("chat.a", 3)
	copied(t, a, 3)
}
