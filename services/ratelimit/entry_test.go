package ratelimit

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/limits"
)

var entryStart = time.UnixMilli(1_800_000_000_000)

// bucket returns what a policy has; a full one where there is none.
func (e *entry) bucket(policy string) limits.Bucket {
	if h := e.find(policy); h != nil {
		return h.Bucket
	}
	return limits.Bucket{}
}

func TestEntryIsReadAsItWasWritten(t *testing.T) {
	e := entry{
		buckets: []held{
			{"a", limits.Bucket{Missing: 5, Share: 7, At: 9, Ban: 11}, rate{3, 2, time.Second}, 13},
			{`b"\<é`, limits.Bucket{At: 1}, rate{}, 0},
		},
		batches: []batch{{"r1", 1}, {"r2", 1 << 63}},
		refunds: []refundedOnce{{"x", 5}},
	}
	for _, e := range []entry{{}, e} {
		text := e.append(nil)
		back := decodeEntry(text)
		if back.broken != nil || fmt.Sprintf("%#v", back.buckets) != fmt.Sprintf("%#v", e.buckets) ||
			fmt.Sprint(back.batches) != fmt.Sprint(e.batches) || fmt.Sprint(back.refunds) != fmt.Sprint(e.refunds) {
			t.Errorf("%s: got %+v, want %+v", text, back, e)
		}
	}
}

// What can't be read is broken: never an entry of which less is missing.
func TestEntryThatCannotBeRead(t *testing.T) {
	good := `{"buckets":{"p":{"f":9,"m":5,"s":7,"a":1}},"batches":[{"r":"x","n":1}],"refunds":[{"i":"x","a":1}]}`
	if e := decodeEntry([]byte(good)); e.broken != nil {
		t.Fatalf("%s: %v", good, e.broken)
	}
	// Releases run beside the next one, which may add something.
	for _, text := range []string{strings.Replace(good, `"m":5`, `"m":5,"later":1`, 1), `{"later":{},` + good[1:]} {
		if e := decodeEntry([]byte(text)); e.broken != nil || e.bucket("p").Missing != 5 {
			t.Errorf("%q: got %+v (%v), want it read", text, e, e.broken)
		}
	}
	for _, text := range []string{
		"", " ", "null", "0", `""`, "[]", "{}", `{"buckets":null}`, "{", good[:len(good)-1], good + good, good + "x", "\xff" + good,
		strings.Replace(good, `"m":5`, `"m":-5`, 1), strings.Replace(good, `"s":7`, `"s":-7`, 1), strings.Replace(good, `,"s":7`, ``, 1),
		strings.Replace(good, `"a":1}}`, `"a":-1}}`, 1), strings.Replace(good, `"f":9`, `"f":-9`, 1), strings.Replace(good, `"f":9`, `"f":9,"b":-1`, 1),
		strings.Replace(good, `"m":5`, `"m":5.5`, 1), strings.Replace(good, `"m":5`, `"m":"5"`, 1), strings.Replace(good, `"m":5`, `"m":9223372036854775808`, 1),
		strings.Replace(good, `"p"`, `""`, 1), strings.Replace(good, `"r":"x"`, `"r":""`, 1),
		strings.Replace(good, `"n":1`, `"n":-1`, 1), strings.Replace(good, `"i":"x"`, `"i":""`, 1),
		strings.Replace(good, `"m":5`, `"m":5,"c":5,"r":0,"p":1`, 1), strings.Replace(good, `"m":5`, `"m":5,"c":5,"r":1,"p":-1`, 1),
		strings.Replace(good, `"m":5`, `"m":5,"c":9000000000000000000,"r":1,"p":1`, 1),
	} {
		if e := decodeEntry([]byte(text)); e.broken == nil || len(e.buckets) > 0 {
			t.Errorf("%q: got %+v, want it broken", text, e)
		}
	}
}

func TestEntryRemembersItsLastWriters(t *testing.T) {
	var e entry
	for i := range maxBatches + 2 {
		e.wrote(batch{fmt.Sprint("r", i), uint64(i + 1)}, entryStart)
	}
	e.wrote(batch{"r5", 100}, entryStart)
	switch {
	case len(e.batches) != maxBatches:
		t.Errorf("%d writers, want %d", len(e.batches), maxBatches)
	case !e.has(batch{"r5", 100}) || e.has(batch{"r5", 6}):
		t.Errorf("got %v, want the last write of r5 alone", e.batches)
	case !e.has(batch{"r2", 3}) || e.has(batch{"r1", 2}):
		t.Errorf("got %v, want the oldest dropped", e.batches)
	}
}

// What says nothing any more is left out, a moment after.
func TestEntryLeavesOutWhatEnded(t *testing.T) {
	full := entryStart.Add(time.Second).UnixMicro()
	e := entry{buckets: []held{{"p", limits.Bucket{Missing: 1, Share: 1}, rate{}, full}}, refunds: []refundedOnce{{"x", entryStart.UnixMicro()}}}
	if got := e.life(entryStart); got != refundMemory+rest {
		t.Errorf("life of a refund: got %s", got)
	}
	e.wrote(batch{"r", 1}, entryStart.Add(time.Second+rest-time.Microsecond))
	if len(e.buckets) != 1 || len(e.refunds) != 1 {
		t.Errorf("got %+v, want all of it still", e)
	}
	e.wrote(batch{"r", 2}, entryStart.Add(refundMemory))
	if len(e.buckets) != 0 || len(e.refunds) != 0 || e.life(entryStart.Add(refundMemory)) != rest {
		t.Errorf("got %+v, want nothing left", e)
	}
}

func FuzzEntry(f *testing.F) {
	for _, text := range []string{
		`{"buckets":{}}`, `{"buckets":{"p":{"f":9,"m":5,"s":7,"a":1,"b":3}},"batches":[{"r":"x","n":1}],"refunds":[{"i":"x","a":1}]}`, `null`, `{`, `{"buckets":{"p":{"m":1}}}`,
	} {
		f.Add([]byte(text))
	}
	l := slow("p", 5)
	f.Fuzz(func(t *testing.T, text []byte) {
		e := decodeEntry(text)
		if e.broken != nil {
			a := e.decide(&request{action: consuming, takes: []take{{l, 1}}, n: 1}, entryStart)
			if a.err == nil || a.granted > 0 || a.changed {
				t.Errorf("%q: got %+v of a broken entry", text, a)
			}
			return
		}
		again := e.append(nil)
		back := decodeEntry(again)
		if back.broken != nil || string(back.append(nil)) != string(again) {
			t.Errorf("%q: %s came back as %s (%v)", text, again, back.append(nil), back.broken)
		}
		now := entryStart
		a := e.decide(&request{action: consuming, takes: []take{{l, 1}}, n: 3}, now)
		if a.err != nil || a.granted < 0 || a.granted > 3 || a.verdicts[0].Remaining < 0 || a.verdicts[0].Remaining > 5 {
			t.Errorf("%q: got %+v", text, a)
		}
		e.wrote(batch{"r", 1}, now)
		if life := e.life(now); life < rest || life%time.Second != 0 {
			t.Errorf("%q: a life of %s", text, life)
		}
	})
}
