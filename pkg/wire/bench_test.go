package wire

import (
	"bytes"
	"strings"
	"testing"
)

// publishFrame is a publish whose data has 128 bytes.
var publishFrame = []byte(`{"op":"publish","id":17,"topic":"chat.room-7","event":"said","data":{"text":"` + strings.Repeat("a", 117) + `"}}`)

func benchmarkDecode(b *testing.B, data []byte, want int) {
	var f Frame
	frames := 0
	each := func(err *Error) bool {
		if err != nil {
			b.Fatal(err)
		}
		frames++
		return true
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		frames = 0
		DecodeFrames(data, &f, each)
		if frames != want {
			b.Fatalf("got %d frames, want %d", frames, want)
		}
	}
}

func BenchmarkDecodeFrames(b *testing.B) {
	b.Run("publish", func(b *testing.B) { benchmarkDecode(b, publishFrame, 1) })
	b.Run("array of 16", func(b *testing.B) {
		benchmarkDecode(b, append(append([]byte{'['}, bytes.Join(repeat(publishFrame, 16), []byte{','})...), ']'), 16)
	})
	b.Run("escaped", func(b *testing.B) {
		benchmarkDecode(b, []byte(`{"op":"publish","id":17,"topic":"chat.caf\u00e9","data":{"text":"a\nb"}}`), 1)
	})
	b.Run("subscribe", func(b *testing.B) {
		benchmarkDecode(b, []byte(`{"op":"subscribe","id":3,"topic":"chat.room-7","after":45,"ts":1760000000000,"presence":"watch"}`), 1)
	})
}

func repeat(b []byte, n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = b
	}
	return all
}

func BenchmarkValidJSON(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(publishFrame)))
	for b.Loop() {
		if !ValidJSON(publishFrame) {
			b.Fatal("not JSON")
		}
	}
}

// BenchmarkAppendMessage encodes one message for all its subscribers, into a
// buffer of its own.
func BenchmarkAppendMessage(b *testing.B) {
	m := Message{
		Topic: "chat.room-7", Event: "said", Payload: []byte(`{"text":"` + strings.Repeat("a", 117) + `"}`),
		From: "u42", Seq: 46, Prev: 45, Ts: 1760000000000,
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(m.Payload)))
	size := 128 + len(m.Payload)
	for b.Loop() {
		if frame := AppendMessage(make([]byte, 0, size), &m); len(frame) > size {
			b.Fatal(string(frame))
		}
	}
}

func BenchmarkAppendOK(b *testing.B) {
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		if buf = AppendOK(buf[:0], 17, nil); len(buf) == 0 {
			b.Fatal("empty")
		}
	}
}

func BenchmarkAppendErrorReply(b *testing.B) {
	buf := make([]byte, 0, 256)
	err := &Error{Code: ResourceExhausted, Message: "too many messages"}
	b.ReportAllocs()
	for b.Loop() {
		if buf = AppendErrorReply(buf[:0], 17, err); len(buf) == 0 {
			b.Fatal("empty")
		}
	}
}

func BenchmarkParseMeta(b *testing.B) {
	for _, bench := range []struct {
		name string
		h    map[string][]string
	}{
		{"client", map[string][]string{HeaderEvent: {"said"}, HeaderUser: {"u42"}, HeaderConn: {"c1"}, HeaderExclude: {"c1"}}},
		{"replayed", map[string][]string{
			HeaderEvent: {"said"}, HeaderUser: {"u42"}, HeaderConn: {"c1"}, HeaderSequence: {"46"}, HeaderLastSeq: {"45"},
			HeaderTimestamp: {"2026-11-21T04:00:00Z"}, "Nats-Stream": {"FL_CHAT"}, "Nats-Subject": {"fl.topic.chat.room-7"},
		}},
		{"lower case", map[string][]string{"fl-event": {"said"}, "fl-user": {"u42"}}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if m := ParseMeta(bench.h); m.Event != "said" {
					b.Fatal(m)
				}
			}
		})
	}
}

func BenchmarkCheckTopic(b *testing.B) {
	for _, bench := range []struct{ name, topic string }{
		{"ascii", "org:42:items.room-7"},
		{"unicode", "café.zürich"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := CheckTopic(bench.topic); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMatchPattern(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if !MatchPattern("org.*.items.>", "org.42.items.a.b.c") {
			b.Fatal("no match")
		}
	}
}

func BenchmarkDecodeServer(b *testing.B) {
	frame := AppendMessage(nil, &Message{Topic: "chat.room-7", Event: "said", Payload: []byte(`{"text":"hi"}`), Seq: 46, Prev: 45, Ts: 1760000000000})
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		if _, err := DecodeServer(frame); err != nil {
			b.Fatal(err)
		}
	}
}
