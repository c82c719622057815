package wire

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTaskIDsSortByAgeAndAreReadBack(t *testing.T) {
	at := time.UnixMilli(1_790_000_000_000)
	var ids []string
	for range 100 {
		at = at.Add(time.Millisecond)
		id := NewTaskID(at)
		text := id.String()
		if back, err := ParseTaskID("id", text); err != nil || back != id {
			t.Fatalf("%s is read as %v, %v; want %v", text, back, err, id)
		}
		if id[6]>>4 != 7 || id[8]>>6 != 2 {
			t.Errorf("%s is no UUID of version 7", text)
		}
		ids = append(ids, text)
	}
	if !slices.IsSorted(ids) {
		t.Errorf("ids do not sort by age: %v", ids)
	}
}

func TestWhatIsNoTaskID(t *testing.T) {
	good := NewTaskID(time.Now()).String()
	for _, bad := range []string{"", "t_", good[2:], good + "0", strings.ToUpper(good), good[:27] + "z", "x_" + good[2:], good[:27] + "1"} {
		if bad == good {
			continue
		}
		if id, err := ParseTaskID("task", bad); CodeOf(err) != InvalidArgument || !strings.Contains(err.Error(), "task") {
			t.Errorf("%q is read as %v, %v; want INVALID_ARGUMENT that names the field", bad, id, err)
		}
	}
}

func TestTaskNames(t *testing.T) {
	for name, want := range map[string]bool{
		"resize": true, "images.resize": true, "A-1_b": true, "a.b.c": true, strings.Repeat("a", 128): true,
		"": false, "1a": false, "a.1": false, "a..b": false, ".a": false, "a.": false, "a b": false, "a.*": false, "a.>": false,
		"ä": false, "_a": false, strings.Repeat("a", 129): false,
	} {
		if got := CheckTaskName("name", name) == nil; got != want {
			t.Errorf("name %q: got allowed=%v, want %v", name, got, want)
		}
	}
}

func TestTaskReplySubject(t *testing.T) {
	id := NewTaskID(time.Now())
	subject := Namespace("fl").TaskReply("r1", id, 7, "tok")
	replica, gotID, fence, token, ok := Namespace("fl").ParseTaskReply(subject)
	if !ok || replica != "r1" || gotID != id || fence != 7 || token != "tok" {
		t.Errorf("%s is read as %q %v %d %q %v", subject, replica, gotID, fence, token, ok)
	}
	for _, bad := range []string{
		"", "fl.svc.tasks.reply", subject + ".x", strings.TrimSuffix(subject, ".tok"), strings.Replace(subject, ".7.", ".-7.", 1),
		strings.Replace(subject, ".7.", ".0.", 1), strings.Replace(subject, ".7.", ".x.", 1), strings.Replace(subject, "t_", "t-", 1), "x" + subject,
	} {
		if _, _, _, _, ok := Namespace("fl").ParseTaskReply(bad); ok {
			t.Errorf("%s is taken for a reply subject", bad)
		}
	}
}
