package spelling

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	for _, c := range []struct {
		word, nearest string
		distance      int
	}{
		{"subscribe", "subscribe", 0},
		{"SUBSCRIBE", "subscribe", 0},
		{"subscibe", "subscribe", 1},
		{"publsh", "publish", 1},
		{"pulbish", "publish", 2},
		{"", "publish", 7},
		{strings.Repeat("x", 1000), "subscribe", 1000},
	} {
		if nearest, distance := Nearest(c.word, []string{"subscribe", "publish!!!", "publish"}); distance != c.distance || nearest != c.nearest {
			t.Errorf("%.20q: got %q, %d, want %q, %d", c.word, nearest, distance, c.nearest, c.distance)
		}
	}
	if nearest, _ := Nearest("a", nil); nearest != "" {
		t.Errorf("got %q of no words", nearest)
	}
}
