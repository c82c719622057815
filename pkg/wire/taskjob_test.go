package wire

import (
	"strings"
	"testing"
)

// Every queue has a queue of its dead.
func TestCheckQueue(t *testing.T) {
	longest := strings.Repeat("x", MaxQueueName)
	for name, want := range map[string]bool{
		"q": true, longest: true, longest + DeadQueue: true, "q" + DeadQueue: true,
		"": false, longest + "x": false, longest + "x" + DeadQueue: false, "a\nb": false,
	} {
		if got := CheckQueue("queue", name) == nil; got != want {
			t.Errorf("a queue of %d bytes that begins with %.4q may be: %v, want %v", len(name), name, got, want)
		}
	}
}
