package wire

import (
	"os"
	"path/filepath"
	"testing"
	"time"
	"unicode/utf8"
	"unsafe"
)

func readGoldenSeed(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(goldenDir, name+".json"))
}

// checkAccepted says what holds of every frame that the decoder accepts.
func checkAccepted(t *testing.T, data []byte, f *Frame) {
	t.Helper()
	no := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%q: accepted %s: %v", data, what, err)
		}
	}
	if f.Op == OpUnknown || f.Op >= numOps || Ops[f.Op].NeedsID && f.ID == 0 {
		t.Errorf("%q: accepted op %d with id %d", data, f.Op, f.ID)
	}
	switch {
	case f.Op == OpSubscribe || f.Op == OpUnsubscribe:
		no("pattern", CheckPattern(f.Topic))
	case f.Topic != "":
		no("topic", CheckTopic(f.Topic))
	}
	optional := func(s string, check func(string) error, what string) {
		t.Helper()
		if s != "" {
			no(what, check(s))
		}
	}
	optional(f.Event, CheckEvent, "event")
	optional(f.Key, CheckKey, "key")
	optional(f.Method, CheckMethod, "method")
	optional(f.Group, CheckGroup, "group")
	optional(f.Role, CheckRole, "role")
	for _, s := range []string{f.Token, f.Session, f.Client, f.Member, f.Page, f.Ref} {
		if !utf8.ValidString(s) {
			t.Errorf("%q: accepted a string that is no UTF-8: %q", data, s)
		}
	}
	for _, raw := range [][]byte{f.Data, f.Meta} {
		checkRaw(t, data, raw)
	}
	for _, m := range f.Messages {
		no("topic of a batch", CheckTopic(m.Topic))
		no("event of a batch", CheckEvent(m.Event))
		optional(m.Key, CheckKey, "key of a batch")
		checkRaw(t, data, m.Data)
	}
	if len(f.Messages) > MaxBatch {
		t.Errorf("accepted a batch of %d", len(f.Messages))
	}
	switch {
	case f.Presence != "" && f.Presence != "watch" && f.Presence != "join",
		f.Last < 0 || f.Last > 1000, f.Limit < 0 || f.Limit > 1000,
		f.Timeout < 0 || f.Timeout > time.Minute,
		f.After < 0 || f.After > MaxID, f.Ts < -MaxID || f.Ts > MaxID, f.RefID < 0 || f.RefID > MaxID,
		f.After != 0 && !f.HasAfter, f.Ts != 0 && !f.HasTs,
		f.HasAfter && f.Last > 0, f.HasAfter && IsPattern(f.Topic),
		f.Error != nil && !f.Error.Code.Known():
		t.Errorf("%q: accepted %+v", data, f)
	}
}

// checkRaw says that raw is JSON and a piece of the very bytes that were decoded.
func checkRaw(t *testing.T, data, raw []byte) {
	t.Helper()
	if raw == nil {
		return
	}
	if !ValidJSON(raw) {
		t.Errorf("%q: raw member %q is no JSON", data, raw)
	}
	first := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	at := uintptr(unsafe.Pointer(unsafe.SliceData(raw)))
	if at < first || at+uintptr(len(raw)) > first+uintptr(len(data)) {
		t.Errorf("%q: raw member %q is a copy", data, raw)
	}
}
