package bench

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHistogramQuantiles(t *testing.T) {
	var h Histogram
	r := rand.New(rand.NewPCG(1, 2))
	values := make([]int64, 100_000)
	for i := range values {
		values[i] = int64(r.ExpFloat64() * 5e6)
		h.Record(values[i])
	}
	slices.Sort(values)
	for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
		got, want := float64(h.Quantile(q)), float64(values[max(0, int(q*float64(len(values)))-1)])
		if got < want*0.999 || got > want*1.017 {
			t.Errorf("quantile %v: got %v, want %v to 1.6 %% above", q, got, want)
		}
	}
}

func TestHistogramBuckets(t *testing.T) {
	for _, ns := range []int64{0, 1, 63, 64, 127, 128, 129, 1 << 20, 1<<40 + 12345, 1<<63 - 1} {
		i := bucketOf(ns)
		if top := bucketTop(i); top < ns {
			t.Errorf("%d is in bucket %d, which ends at %d", ns, i, top)
		}
		if i > 0 && bucketTop(i-1) >= ns {
			t.Errorf("%d is in bucket %d, but the one before ends at %d", ns, i, bucketTop(i-1))
		}
	}
	var h Histogram
	h.Record(-5)
	if got := h.Quantile(0.5); got > 0 {
		t.Errorf("got %v for a negative duration", got)
	}
}

func TestPayloadRoundTrip(t *testing.T) {
	p, err := newTemplate(MinPayload + 10)
	if err != nil {
		t.Fatal(err)
	}
	due := time.Now().UnixNano()
	p.stamp(due, firstNumber+7)
	frame := slices.Concat([]byte(`[{"id":1,"ok":{}},{"topic":"a","data":`), p, []byte(`},{"topic":"a","data":`), p, []byte(`}]`))
	n, ok := scanPayloads(frame, len(p), func(d, number int64) {
		if d != due || number != firstNumber+7 {
			t.Errorf("got %d %d", d, number)
		}
	})
	if n != 2 || !ok {
		t.Errorf("got %d %v, want 2 payloads", n, ok)
	}
	if _, ok := scanPayloads(frame[:len(frame)-20], len(p), func(_, _ int64) {}); ok {
		t.Error("a payload cut short was not seen")
	}
}

func TestScanReplies(t *testing.T) {
	var ids []int64
	var failed string
	scanReplies([]byte(`[{"id":7,"ok":{}},{"topic":"a","data":{}},{"id":0,"error":{"code":"X"}}]`), func(id int64, text []byte) {
		ids = append(ids, id)
		failed += string(text)
	})
	if !slices.Equal(ids, []int64{7, 0}) || !strings.HasPrefix(failed, `{"id":0,"error"`) {
		t.Errorf("got %v %q", ids, failed)
	}
}

func TestNextFrame(t *testing.T) {
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		payload := bytes.Repeat([]byte("x"), n)
		b := appendFrame(nil, opText, payload)
		// A server's frame: no mask bit, no key.
		head := len(b) - n
		b[1] &= 0x7f
		b = slices.Delete(b, head-4, head)
		for _, cut := range []int{0, 1, head - 5, len(b) - 1} {
			if cut < len(b) && cut >= 0 {
				if _, _, _, size, err := nextFrame(b[:cut]); size != 0 || err != nil {
					t.Errorf("%d bytes of %d: got size %d, %v", cut, len(b), size, err)
				}
			}
		}
		fin, op, got, size, err := nextFrame(append(b, "more"...))
		if !fin || op != opText || len(got) != n || size != len(b) || err != nil {
			t.Errorf("%d bytes: got %v %d %d %d %v", n, fin, op, len(got), size, err)
		}
	}
	for _, bad := range []string{"\x81\x80\x00\x00\x00\x00", "\xc1\x00", "\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if _, _, _, _, err := nextFrame([]byte(bad)); !errors.Is(err, errFrame) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func FuzzNextFrame(f *testing.F) {
	f.Add([]byte("\x81\x02{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for {
			_, _, payload, size, err := nextFrame(b)
			if err != nil || size == 0 {
				return
			}
			if size > len(b) || len(payload) > size {
				t.Fatalf("size %d, payload %d of %d", size, len(payload), len(b))
			}
			scanReplies(payload, func(int64, []byte) {})
			scanPayloads(payload, MinPayload, func(_, _ int64) {})
			b = b[size:]
		}
	})
}

func TestJudgeNamesTheGenerator(t *testing.T) {
	e := &engine{}
	r := &Report{Latency: &Quantiles{P50: 4}, Server: &ServerCost{}, Generator: GeneratorCost{BusiestLoop: 0.9, Share: 0.6, Machine: 1, TurnP99: 3, LagP99: 9}}
	e.judge(r)
	text := strings.Join(r.Warnings, "\n")
	for _, want := range []string{"90 % of a core", "60 % of all cores", "turn of the generator", "behind their schedule", "other processes"} {
		if !strings.Contains(text, want) {
			t.Errorf("no warning has %q:\n%s", want, text)
		}
	}
	quiet := &Report{Latency: &Quantiles{P50: 4}, Server: &ServerCost{Cores: 0.1}, Generator: GeneratorCost{BusiestLoop: 0.2, Share: 0.1, Machine: 0.2, TurnP99: 0.5}}
	if e.judge(quiet); len(quiet.Warnings) > 0 {
		t.Errorf("got %q, want none", quiet.Warnings)
	}
}

func TestRemoteIsRefused(t *testing.T) {
	_, err := Connect{Connections: 1}.Run(t.Context(), Target{URL: "ws://192.0.2.1:1/ws"})
	if !errors.Is(err, ErrRemote) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkScanPayloads(b *testing.B) {
	p, _ := newTemplate(128)
	p.stamp(time.Now().UnixNano(), firstNumber)
	frame := []byte("[")
	for range 16 {
		frame = append(append(append(frame, `{"topic":"bench.1.2","event":"message","data":`...), p...), "},"...)
	}
	var sum int64
	b.ReportAllocs()
	for b.Loop() {
		scanPayloads(frame, len(p), func(due, _ int64) { sum += due })
	}
}
