package wire

import (
	"strings"
	"testing"
)

func TestLockEntry(t *testing.T) {
	for _, test := range []struct{ key, want string }{
		{"report", "v1.report"}, {"a.b *>", "v1.a=2Eb=20=2A=3E"}, {"é", "v1.=C3=A9"}, {strings.Repeat(".", MaxLockKey), "v1." + strings.Repeat("=2E", MaxLockKey)},
	} {
		if got, err := DefaultNamespace.LockEntry(test.key); got != test.want || err != nil {
			t.Errorf("%q: got %s, %v; want %s", test.key, got, err, test.want)
		}
	}
	for _, key := range []string{"", "a\nb", "\x7f", strings.Repeat("x", MaxLockKey+1)} {
		if _, err := DefaultNamespace.LockEntry(key); CodeOf(err) != InvalidArgument {
			t.Errorf("%q: got %v", key, err)
		}
	}
	if got := DefaultNamespace.LockChanges("v1.report"); got != "fl.locks.v1.report" {
		t.Errorf("changes are on %s", got)
	}
}

func TestFenceAt(t *testing.T) {
	for _, test := range []struct {
		e    LockEntry
		want uint64
	}{
		{LockEntry{}, 0}, {LockEntry{Holder: &LockHolder{}}, 7}, {LockEntry{Holder: &LockHolder{Fence: 3}}, 3},
	} {
		if got := test.e.FenceAt(7); got != test.want {
			t.Errorf("%+v: fence %d, want %d", test.e, got, test.want)
		}
	}
}
