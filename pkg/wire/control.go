package wire

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

// ControlTarget is what a control message is about: the token of its subject
// behind fl.control.
type ControlTarget string

// The targets.
const (
	ControlOfUser    ControlTarget = "user"
	ControlOfConn    ControlTarget = "conn"
	ControlOfGateway ControlTarget = "gateway"
)

// What other services ask of a gateway by a [Control]; operators need none of it.
const (
	ControlRenew = "renew" // renew the lease now: does it live
	ControlAudit = "audit" // compare what is stored with what the gateway has
)

const (
	// controlAhead is how far ahead of the clock Before may be.
	controlAhead = time.Minute
	// leastBefore is a time in epoch milliseconds, in 2001: what is less was
	// meant in seconds.
	leastBefore = 1_000_000_000_000
)

var controlActions = map[ControlTarget][]string{
	ControlOfUser:    {ControlDisconnect, ControlRevoke, ControlSubscribe, ControlUnsubscribe, ControlRefresh},
	ControlOfConn:    {ControlDisconnect, ControlSubscribe, ControlUnsubscribe, ControlRefresh},
	ControlOfGateway: {ControlDrain, ControlRenew, ControlAudit},
}

// controlFields are the kinds of the fields of a [Control].
var controlFields = map[string]string{
	"action": "a string", "reason": "a string", "topic": "a string", "code": "a whole number", "before": "epoch milliseconds, a whole number",
}

// Controls returns the subject of the control messages about every user, or
// every connection.
func (n Namespace) Controls(target ControlTarget) string {
	return string(n) + ".control." + string(target) + ".*"
}

// ParseControl takes the subject of a control message apart; ok is false for
// every other subject.
func (n Namespace) ParseControl(subject string) (target ControlTarget, id string, ok bool) {
	rest, ok := strings.CutPrefix(subject, string(n)+".control.")
	if !ok {
		return "", "", false
	}
	kind, token, ok := strings.Cut(rest, ".")
	if !ok {
		return "", "", false
	}
	id, err := UnescapeToken(token)
	target = ControlTarget(kind)
	return target, id, err == nil && id != "" && controlActions[target] != nil
}

// ParseControl reads the body of a control message about a target. Its error is
// an INVALID_ARGUMENT that names the field and what it allows. A field of
// another action is one too: who gives it expects something that would not
// happen.
func ParseControl(target ControlTarget, body []byte, now time.Time) (Control, *Error) {
	var c Control
	if err := json.Unmarshal(body, &c); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && controlFields[wrong.Field] != "" {
			return c, InvalidField(wrong.Field, controlFields[wrong.Field])
		}
		return c, InvalidField("action", "a JSON object with an action")
	}
	return c, c.check(target, now)
}

func (c *Control) check(target ControlTarget, now time.Time) *Error {
	if !slices.Contains(controlActions[target], c.Action) {
		return InvalidField("action", "of a "+string(target)+": "+strings.Join(controlActions[target], ", "))
	}
	topical := c.Action == ControlSubscribe || c.Action == ControlUnsubscribe
	switch {
	case c.Code != 0 && c.Action != ControlDisconnect:
		return InvalidField("code", "of disconnect only")
	case c.Code != 0 && !MayCloseWith(c.Code):
		return InvalidField("code", "1000, 1001, 1013, or from 3000 to 4999")
	case c.Reason != "" && c.Action != ControlDisconnect && c.Action != ControlRevoke:
		return InvalidField("reason", "of disconnect and revoke only")
	case c.Before != 0 && c.Action != ControlRevoke:
		return InvalidField("before", "of revoke only")
	case c.Before != 0 && (c.Before < leastBefore || c.Before > now.Add(controlAhead).UnixMilli()):
		return InvalidField("before", "epoch milliseconds, at most a minute ahead of the clock")
	case c.Topic != "" && !topical:
		return InvalidField("topic", "of subscribe and unsubscribe only")
	case topical && CheckPattern(c.Topic) != nil:
		return InvalidField("topic", "a topic, or a wildcard over topics")
	}
	return nil
}

// MayCloseWith reports whether an operator may have a connection closed with
// this code. The others have a meaning that the WebSocket protocol gives them.
func MayCloseWith(code int) bool {
	return code == int(CloseNormal) || code == int(CloseGoingAway) || code == int(CloseTryAgain) || code >= 3000 && code <= 4999
}
