package bridge

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// largePayload is near what Postgres refuses, 8000 bytes: the next row may be
// larger, and its transaction fails then.
const largePayload = 7500

// change is what a payload asks for.
type change struct {
	topic string
	event string // "": none was named
	data  []byte // JSON
}

// reason says why a notification is not published.
type reason uint8

const (
	fine        reason = iota
	badJSON            // no JSON object in UTF-8
	badTopic           // none, or none that can be
	badEvent           // none that can be
	ownTopic           // Fairlead's own topics
	outside            // no pattern of the channel covers the topic
	full               // too many wait for NATS
	superseded         // somebody else may listen by now
	refused            // the topic's stream does not take it
	undelivered        // the topic's stream, or NATS, did not take it in time
	reasons            // how many there are
)

var reasonNames = [reasons]string{"", "json", "topic", "event", "system", "outside", "full", "superseded", "refused", "unavailable"}

func (r reason) String() string { return reasonNames[r] }

// parseChange reads a payload, {"topic", "event"?, "data"?}, and says why it may
// not be published to the topics that patterns cover: whoever can connect to the
// database can notify, so the payload is no more trusted than a client.
func parseChange(payload string, patterns []string) (change, reason) {
	var p struct {
		Topic *string         `json:"topic"`
		Event *string         `json:"event"`
		Data  json.RawMessage `json:"data"`
	}
	// encoding/json lets bytes pass that are no UTF-8, and a null as an empty object.
	if !utf8.ValidString(payload) || !strings.HasPrefix(strings.TrimLeft(payload, " \t\r\n"), "{") || json.Unmarshal([]byte(payload), &p) != nil {
		return change{}, badJSON
	}
	if p.Topic == nil || wire.CheckTopic(*p.Topic) != nil {
		return change{}, badTopic
	}
	c := change{topic: *p.Topic, data: p.Data}
	if p.Event != nil {
		if wire.CheckEvent(*p.Event) != nil {
			return change{}, badEvent
		}
		c.event = *p.Event
	}
	if c.data == nil {
		c.data = []byte("null")
	}
	if isOwnTopic(c.topic) {
		return change{}, ownTopic
	}
	if !covered(patterns, c.topic) {
		return change{}, outside
	}
	return c, fine
}

// isOwnTopic reports whether Fairlead speaks on a topic: what is said there is
// believed. A task's topic says how it ended.
func isOwnTopic(topic string) bool {
	first, rest, _ := strings.Cut(topic, ".")
	switch first {
	case "system":
		return true
	case "task":
		_, err := wire.ParseTaskID("topic", rest)
		return err == nil
	}
	return false
}

func covered(patterns []string, topic string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return wire.MatchPattern(p, topic) })
}
