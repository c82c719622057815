package wire

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"
)

// What is written of jobs and slots is what encoding/json reads, with payloads and
// results byte for byte.
func TestJobsAndSlotsAreJSON(t *testing.T) {
	claimed := JobClaimed{Jobs: []Job{
		{ID: 1 << 60, Claim: 3, Queue: "a\"<é", Payload: json.RawMessage(`{"b":  "<"}`), Attempts: 2, CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)},
		{ID: 2, Claim: 1, Queue: "q", Payload: json.RawMessage("null"), Attempts: 1, CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
	}}
	var back JobClaimed
	if err := json.Unmarshal(claimed.AppendJSON(nil), &back); err != nil || !reflect.DeepEqual(back, claimed) {
		t.Errorf("%s: %+v, %v", claimed.AppendJSON(nil), back, err)
	}
	if got := string(JobClaimed{}.AppendJSON(nil)); got != `{"jobs":[]}` {
		t.Errorf("no jobs: %s", got)
	}
	for _, want := range []IdemAcquired{
		{State: SlotAcquired, Token: "t"}, {State: SlotPending, RetryAfterMs: 5}, {State: SlotDone, Result: json.RawMessage(`{"b":  "<"}`)},
	} {
		var got IdemAcquired
		if err := json.Unmarshal(want.AppendJSON(nil), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", want.AppendJSON(nil), got, err)
		}
	}
}

func FuzzJobID(f *testing.F) {
	for _, seed := range []string{`"1"`, `1`, `"01"`, `0`, `-1`, `"9223372036854775808"`, `1.0`, `null`, `""`, `"+1"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var id JobID
		if err := id.UnmarshalJSON(data); err != nil {
			if !errors.Is(err, ErrInvalidArgument) {
				t.Fatalf("%q: %v, want INVALID_ARGUMENT", data, err)
			}
			return
		}
		again, err := json.Marshal(id)
		if err != nil || string(again) != string(data) && string(again) != `"`+string(data)+`"` || id <= 0 {
			t.Errorf("%q became %s, %v", data, again, err)
		}
	})
}
