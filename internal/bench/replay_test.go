package bench

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// replayedFrame is an array of messages of a replayed topic as a gateway sends
// it, numbered from first on and each behind the one before.
func replayedFrame(t *testing.T, first, n, seq, prev int64) []byte {
	t.Helper()
	p, err := newTemplate(MinPayload)
	if err != nil {
		t.Fatal(err)
	}
	out := []byte(`[{"id":3,"ok":{"recovered":true}}`)
	for i := range n {
		p.stamp(time.Now().UnixNano(), firstNumber+first+i)
		out = wire.AppendMessage(append(out, ','), &wire.Message{
			Topic: "a", Event: "message", Payload: bytes.Clone(p), Seq: seq + i, Prev: prev, Ts: 1_700_000_000_000,
		})
		prev = seq + i
	}
	return append(out, ']')
}

func TestScanFollowed(t *testing.T) {
	frame := replayedFrame(t, 5, 3, 70, 66)
	var got []string
	n, ok := scanFollowed(frame, MinPayload, func(number int64, at wire.Position, prev int64) {
		got = append(got, fmt.Sprint(number-firstNumber, at, prev))
	})
	want := "5 {70 1700000000000} 66,6 {71 1700000000000} 70,7 {72 1700000000000} 71"
	if n != 3 || !ok || strings.Join(got, ",") != want {
		t.Errorf("got %d %v %s, want 3 messages: %s", n, ok, strings.Join(got, ","), want)
	}
	for _, cut := range []int{2, 10, len(`"ts":1700000000000}]`)} {
		if _, ok := scanFollowed(frame[:len(frame)-cut], MinPayload, func(int64, wire.Position, int64) {}); ok {
			t.Errorf("a frame without its last %d bytes passed", cut)
		}
	}
	plain := bytes.ReplaceAll(frame, []byte(`,"seq":71`), nil)
	if n, ok := scanFollowed(plain, MinPayload, func(int64, wire.Position, int64) {}); ok || n != 1 {
		t.Errorf("got %d %v of a frame whose second message has no position", n, ok)
	}
}

// Each fault that a resume can have is counted as what it is.
func TestFollowSeesFaults(t *testing.T) {
	type message struct{ number, seq, prev int64 }
	tests := []struct {
		name                    string
		then                    []message
		lost, repeated, damaged int64
	}{
		{"whole", []message{{4, 40, 30}, {5, 41, 40}}, 0, 0, 0},
		{"one is missing", []message{{5, 41, 40}}, 1, 0, 0},
		{"one comes again", []message{{4, 40, 30}, {4, 40, 30}}, 0, 1, 0},
		{"an old one comes late", []message{{2, 20, 10}}, 0, 1, 0},
		{"the chain is wrong", []message{{4, 40, 20}}, 0, 0, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &conn{next: firstNumber + 4, followed: &followed{at: wire.Position{Seq: 30, Ts: 1}}}
			var got tally
			for _, m := range tt.then {
				got.follow(c, firstNumber+m.number, wire.Position{Seq: m.seq, Ts: 1}, m.prev)
			}
			if got.lost != tt.lost || got.repeated != tt.repeated || got.damaged != tt.damaged {
				t.Errorf("got %d lost, %d repeated, %d damaged, want %d, %d, %d", got.lost, got.repeated, got.damaged, tt.lost, tt.repeated, tt.damaged)
			}
		})
	}
}

func TestSinceAnswersAreChecked(t *testing.T) {
	whole := replayedFrame(t, 1, 3, 9, 8)
	tests := []struct {
		name                    string
		frame                   []byte
		lost, repeated, damaged int64
	}{
		{"whole", whole, 0, 0, 0},
		{"the last is missing", replayedFrame(t, 1, 2, 9, 8), 1, 0, 0},
		{"the first is missing", replayedFrame(t, 2, 2, 9, 8), 3, 0, 0},
		{"one too many", replayedFrame(t, 1, 4, 9, 8), 0, 1, 0},
		{"nothing", []byte(`{"messages":[]}`), 3, 0, 0},
		{"cut", whole[:bytes.LastIndex(whole, mark)+MinPayload-1], 0, 0, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var a asker
			a.check(tt.frame, MinPayload, 1, 3)
			if got := a.tally; got.lost != tt.lost || got.repeated != tt.repeated || got.damaged != tt.damaged {
				t.Errorf("got %d lost, %d repeated, %d damaged, want %d, %d, %d", got.lost, got.repeated, got.damaged, tt.lost, tt.repeated, tt.damaged)
			}
		})
	}
}

func TestVerdicts(t *testing.T) {
	c := &Comparison{Scenario: "x"}
	c.atMost("low", 2, "times", 9, 1, 1.5)
	c.atLeast("high", 20_000, "/s", 19_000)
	if got, want := fmt.Sprint(c.Verdicts[0].Got, c.Verdicts[0].Met, c.Verdicts[1].Met), "1.5 true false"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if c.Failed() {
		t.Error("a goal that was missed is no failure")
	}
	var b bytes.Buffer
	if err := c.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1.5 times (at most 2): met [1 to 9 in 3 rounds]", "19.0k /s (at least 20.0k): NOT MET"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("got %s, which does not have %q", b.String(), want)
		}
	}
	c.faults(&tally{repeated: 1})
	if !c.Failed() {
		t.Error("a message came twice, and the run passed")
	}
}

func TestMedian(t *testing.T) {
	tests := []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 4}, 4}, {[]float64{4, 1, 9, 2}, 3}}
	for _, tt := range tests {
		if got := median(tt.values); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.values, got, tt.want)
		}
	}
}
