package outbox

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// The queue against a plain slice, by random operations.
func TestQueueAgainstModel(t *testing.T) {
	const bound = 2000
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		sources := []*Source{nil, {}, {Policy: DropOldest}, {Policy: DropOldest}, {Policy: Conflate}, {Policy: Conflate}}
		var q queue
		var model []item
		size := func() (n int) {
			for _, it := range model {
				n += len(it.frame)
			}
			return n
		}
		for step := range 3000 {
			it := item{frame: []byte(fmt.Sprint(step, strings.Repeat("x", r.IntN(100)))), src: sources[r.IntN(len(sources))]}
			switch op := r.IntN(20); {
			case op < 4 && len(model) > 0:
				if got, want := q.peek(), len(model[0].frame); got != want {
					t.Fatalf("seed %d step %d: peek %d, want %d", seed, step, got, want)
				}
				if got := q.pop(); string(got.frame) != string(model[0].frame) || got.src != model[0].src {
					t.Fatalf("seed %d step %d: got %s, want %s", seed, step, got.frame, model[0].frame)
				}
				model = model[1:]
			case op < 10 && it.src.policy() == Conflate:
				i := len(model) - 1
				for i >= 0 && model[i].src != it.src {
					i--
				}
				if got, want := q.replace(it, nil) == 1, i >= 0; got != want {
					t.Fatalf("seed %d step %d: replaced %v, want %v", seed, step, got, want)
				}
				if i >= 0 {
					model[i] = it
				}
			case op == 19:
				var ch chunk
				ch.reset()
				ch.take(&q, true, 500)
				for _, got := range ch.items[ch.from:] {
					if got.frame == nil {
						continue
					}
					if string(got.frame) != string(model[0].frame) {
						t.Fatalf("seed %d step %d: took %s, want %s", seed, step, got.frame, model[0].frame)
					}
					model = model[1:]
				}
			default:
				for !q.fits(len(it.frame), bound) {
					dropped, ok := q.shed(len(it.frame), bound)
					before := len(model)
					for i := 0; ok && i < len(model) && len(model) > 0 && size()+len(it.frame) > bound; {
						if model[i].src.policy() == DropOldest {
							model = slices.Delete(slices.Clone(model), i, i+1)
						} else {
							i++
						}
					}
					if dropped != before-len(model) {
						t.Fatalf("seed %d step %d: shed %d, want %d", seed, step, dropped, before-len(model))
					}
					if !ok {
						q.pop()
						model = model[1:]
					}
				}
				q.push(it)
				model = append(model, it)
			}
			if q.live != len(model) || q.bytes != size() {
				t.Fatalf("seed %d step %d: %d frames of %d bytes, want %d of %d", seed, step, q.live, q.bytes, len(model), size())
			}
		}
		if cap(q.items) > 4096 {
			t.Errorf("seed %d: the slice grew to %d for at most %d frames", seed, cap(q.items), bound)
		}
	}
}

// A peer that never reads does not make the queue's slice grow.
func TestQueueOfAStalledPeerStaysSmall(t *testing.T) {
	var q queue
	lossy := &Source{Policy: DropOldest}
	q.push(item{frame: []byte("first")})
	for range 100_000 {
		if _, ok := q.shed(10, 1000); !ok {
			t.Fatal("nothing to shed")
		}
		q.push(item{frame: make([]byte, 10), src: lossy})
	}
	if got := cap(q.items); got > 512 {
		t.Errorf("the slice grew to %d for 100 frames", got)
	}
}

func TestChunkLimits(t *testing.T) {
	for _, batch := range []bool{true, false} {
		var q queue
		for i := range 1000 {
			q.push(item{frame: []byte(strings.Repeat("1", 1+i%50))})
		}
		q.push(item{frame: []byte(strings.Repeat("2", 5000))})
		q.push(item{frame: []byte("3")})
		total, largest := 0, 0
		for q.live > 0 {
			var ch chunk
			ch.reset()
			ch.take(&q, batch, 1000)
			ch.build(batch)
			total += ch.messages
			if ch.messages > 1 {
				largest = max(largest, len(ch.body))
			} else if len(ch.body) > 1000 && len(ch.body) != 5000 {
				t.Errorf("a frame of %d bytes alone", len(ch.body))
			}
		}
		if total != 1002 || largest > 1000 || largest < 800 {
			t.Errorf("batch %v: %d frames, the largest write %d bytes", batch, total, largest)
		}
	}
}

// The protocol allows 256 frames in an array.
func TestArraysHold256Frames(t *testing.T) {
	var q queue
	for range 600 {
		q.push(item{frame: []byte("{}")})
	}
	for _, want := range []int{256, 256, 88} {
		var ch chunk
		ch.reset()
		ch.take(&q, true, 64<<10)
		ch.build(true)
		if got := bytes.Count(ch.body, []byte("{}")); got != want || ch.messages != want {
			t.Errorf("got %d frames (%d counted), want %d", got, ch.messages, want)
		}
	}
}

func TestCloseFrames(t *testing.T) {
	long := strings.Repeat("ü", 100)
	for _, tc := range []struct {
		code   int
		reason string
		want   string
	}{
		{1001, "drain", "\x88\x07\x03\xe9drain"},
		{1005, "x", "\x88\x00"},
		{0, "", "\x88\x00"},
		{4408, long, "\x88\x7c\x11\x38" + long[:122]},
	} {
		if got := string(appendClose(nil, tc.code, tc.reason)); got != tc.want {
			t.Errorf("%d: got %q, want %q", tc.code, got, tc.want)
		}
	}
}
