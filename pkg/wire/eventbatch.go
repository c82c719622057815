package wire

import "strconv"

// BatchEvent is one event of a NATS message with [HeaderBatch].
type BatchEvent struct {
	Event   string // never empty
	Data    []byte // raw JSON, as it was written; nil: absent
	Exclude string // connection that does not get it; "" for none
}

// ParseBatch reads the body of a message with [HeaderBatch]: a JSON array of 1 to
// [MaxBatch] objects `{"event"?, "data"?, "exclude"?}`. Null is as absent; other
// members are ignored, and one that appears twice counts as it appears last. The
// data of the events alias body. The error is an INVALID_ARGUMENT that names what
// is wrong: nothing of such a body counts.
func ParseBatch(body []byte) ([]BatchEvent, error) {
	i := skipSpace(body, 0)
	if i == len(body) || body[i] != '[' || !ValidJSON(body) {
		return nil, InvalidField("batch", "a JSON array of events, in UTF-8")
	}
	n := countElements(body[i:])
	if n == 0 || n > MaxBatch {
		return nil, InvalidField("batch", "1 to "+strconv.Itoa(MaxBatch)+" events")
	}
	events := make([]BatchEvent, 0, n)
	for i = skipSpace(body, i+1); body[i] != ']'; {
		end := skipValue(body, i)
		e, bad := parseBatchEvent(body[i:end], len(events))
		if bad != nil {
			return nil, bad
		}
		events = append(events, e)
		if i = skipSpace(body, end); body[i] == ',' {
			i = skipSpace(body, i+1)
		}
	}
	return events, nil
}

func parseBatchEvent(raw []byte, n int) (BatchEvent, *Error) {
	e := BatchEvent{Event: DefaultEvent}
	at := "batch[" + strconv.Itoa(n) + "]"
	if raw[0] != '{' {
		return e, InvalidField(at, "an object {event?, data?, exclude?}")
	}
	var event, exclude []byte
	eachMember(raw, func(name, value []byte) {
		switch string(name) {
		case "event":
			event = value
		case "data":
			e.Data = value
		case "exclude":
			exclude = value
		}
	})
	var bad *Error
	if event != nil && !isNull(event) {
		bad = setString(&e.Event, at+".event", event, CheckEvent)
	}
	if bad == nil && exclude != nil && !isNull(exclude) {
		bad = setString(&e.Exclude, at+".exclude", exclude, nil)
	}
	return e, bad
}
