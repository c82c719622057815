package bridge

import (
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// FuzzChange: no payload panics, and whatever passes is what a topic's message may
// be, on a topic that the patterns cover.
func FuzzChange(f *testing.F) {
	f.Add(`{"topic":"db.orders","event":"changed","data":{"id":1}}`)
	f.Add(`{"topic":"db.a","topic":"chat.b","data":"\ud800"}`)
	f.Add(`{"TOPIC":"db.é","event":null}`)
	f.Add(`{"topic":"system.x"}`)
	f.Add("{\"topic\":\"db.\xff\"}")
	patterns := []string{"db.>", "news.*"}
	f.Fuzz(func(t *testing.T, payload string) {
		c, why := parseChange(payload, patterns)
		if why != fine {
			if c.topic != "" || c.event != "" || c.data != nil || why.String() == "" {
				t.Errorf("refused as %q with %+v", why, c)
			}
			return
		}
		if wire.CheckTopic(c.topic) != nil || isOwnTopic(c.topic) || !wire.MatchPattern("db.>", c.topic) && !wire.MatchPattern("news.*", c.topic) {
			t.Errorf("the topic %q passes", c.topic)
		}
		if c.event != "" && wire.CheckEvent(c.event) != nil {
			t.Errorf("the event %q passes", c.event)
		}
		if !json.Valid(c.data) || !utf8.Valid(c.data) {
			t.Errorf("the data %q passes", c.data)
		}
	})
}
