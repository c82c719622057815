package tasks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// Bounds of what is asked for.
const (
	maxPriority = 100
	maxAhead    = 366 * 24 * time.Hour // of a delay, and of runAt
	minTimeout  = 10 * time.Millisecond
	maxTimeout  = 7 * 24 * time.Hour // of an attempt
	maxLease    = 10 * time.Minute   // of what a worker promises to be heard within
	defaultWait = 30 * time.Second
	maxWait     = 10 * time.Minute
	defaultPage = 50
	maxPage     = 1000
	maxToken    = 64
	maxStep     = 128
	maxDetails  = 16 << 10 // JSON of an error's
	maxMessage  = 8 << 10  // of an error
	maxCode     = 128      // bytes of a code of the worker's own, which is kept in the details
	maxNames    = 1000     // of one hello
	maxWorker   = 128      // bytes of a worker's own name
	maxSlots    = 100_000
)

// checkEnqueue turns what is asked for into a task with an id of its own.
func checkEnqueue(req *wire.TaskEnqueue, id wire.TaskID, now time.Time) (n store.New, err error) {
	if err := wire.CheckTaskName("name", req.Name); err != nil {
		return n, err
	}
	n = store.New{ID: id, Name: req.Name, IdempotencyKey: req.IdempotencyKey, UniqueKey: req.UniqueKey, Priority: req.Priority}
	if n.Input, err = checkJSON("input", req.Input, wire.MaxTaskInput); err != nil {
		return n, err
	}
	if err := checkKey("idempotencyKey", req.IdempotencyKey); err != nil {
		return n, err
	}
	if !wire.ValidHeaderValue(req.IdempotencyKey) { // workers get it as one
		return n, wire.InvalidField("idempotencyKey", "no space at either end")
	}
	if err := checkKey("uniqueKey", req.UniqueKey); err != nil {
		return n, err
	}
	if n.Delay, err = checkDuration("delay", req.Delay, 0, 0, maxAhead); err != nil {
		return n, err
	}
	if req.RunAt != "" {
		if req.Delay != "" {
			return n, wire.InvalidField("runAt", "not beside delay")
		}
		if n.RunAt, err = time.Parse(time.RFC3339Nano, req.RunAt); err != nil || n.RunAt.Year() < 1 || n.RunAt.Sub(now) > maxAhead {
			return n, wire.InvalidField("runAt", "a time as in RFC 3339, such as 2030-01-31T08:00:00Z, and at most a year ahead")
		}
	}
	if req.Priority < -maxPriority || req.Priority > maxPriority {
		return n, wire.InvalidField("priority", "a whole number from -100 to 100")
	}
	if n.Timeout, err = checkDuration("timeout", req.Timeout, 0, minTimeout, maxTimeout); err != nil {
		return n, err
	}
	n.Metadata, err = checkMetadata(req.Metadata)
	return n, err
}

// checkKey takes an idempotency or unique key, or none.
func checkKey(field, key string) error {
	if len(key) > wire.MaxTaskKey || !printable(key) {
		return wire.InvalidField(field, fmt.Sprintf("at most %d bytes, no control characters", wire.MaxTaskKey))
	}
	return nil
}

// printable reports whether s is text without control characters, which also is
// what Postgres takes for one.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// checkJSON bounds a JSON value; without one it is null.
func checkJSON(field string, value json.RawMessage, most int) ([]byte, error) {
	value = bytes.TrimSpace(value)
	switch {
	case len(value) == 0:
		return []byte("null"), nil
	case len(value) > most:
		return nil, wire.InvalidField(field, fmt.Sprintf("at most %d bytes of JSON", most))
	case !wire.ValidJSON(value):
		return nil, wire.InvalidField(field, "JSON, at most 512 levels deep")
	}
	return value, nil
}

// checkMetadata takes a small JSON object, or none. It travels in a header, so it
// is put on one line.
func checkMetadata(value json.RawMessage) ([]byte, error) {
	value = bytes.TrimSpace(value)
	if len(value) == 0 || string(value) == "null" {
		return nil, nil
	}
	var line bytes.Buffer
	if value[0] != '{' || !wire.ValidJSON(value) || json.Compact(&line, value) != nil || line.Len() > wire.MaxTaskMetadata {
		return nil, wire.InvalidField("metadata", fmt.Sprintf("an object, at most %d bytes of JSON", wire.MaxTaskMetadata))
	}
	return line.Bytes(), nil
}

// checkDuration reads a duration between bounds; an empty one is the default.
func checkDuration(field, text string, otherwise, least, most time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, wire.InvalidField(field, fmt.Sprintf("a duration such as 90s, from %s to %s", plain(least), plain(most)))
	}
	return d, nil
}

// plain writes a duration without the parts that are zero, such as 1h.
func plain(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// checkRef takes the id of a task.
func checkRef(req wire.TaskRef) (wire.TaskID, error) { return wire.ParseTaskID("id", req.ID) }

// checkAttempt takes what a worker names its attempt by. Whether it is the one is
// for the runner to say.
func checkAttempt(a *wire.TaskAttempt) error {
	if _, err := wire.ParseTaskID("id", a.ID); err != nil {
		return err
	}
	if a.Fence <= 0 {
		return wire.InvalidField("fence", "the attempt's Fl-Task-Fence")
	}
	if a.Token == "" || len(a.Token) > maxToken || !printable(a.Token) {
		return wire.InvalidField("token", "the attempt's Fl-Task-Token")
	}
	return nil
}

// checkHeartbeat takes a sign of life.
func checkHeartbeat(req *wire.TaskHeartbeat) (err error) {
	if err := checkAttempt(&req.TaskAttempt); err != nil {
		return err
	}
	if len(bytes.TrimSpace(req.Progress)) == 0 {
		req.Progress = nil
	} else if req.Progress, err = checkJSON("progress", req.Progress, wire.MaxTaskProgress); err != nil {
		return err
	}
	if req.LeaseMs < 0 || req.LeaseMs > maxLease.Milliseconds() {
		return wire.InvalidField("leaseMs", fmt.Sprintf("from 0 to %d", maxLease.Milliseconds()))
	}
	return nil
}

// checkComplete takes a result.
func checkComplete(req *wire.TaskComplete) (err error) {
	if err := checkAttempt(&req.TaskAttempt); err != nil {
		return err
	}
	req.Result, err = checkJSON("result", req.Result, wire.MaxTaskInput)
	return err
}

// checkFail takes an error. A message that is too long is cut: who fails is not
// told to do so in another way.
func checkFail(req *wire.TaskFail) (err error) {
	if err := checkAttempt(&req.TaskAttempt); err != nil {
		return err
	}
	e := &req.Error
	if e.Code == "" || len(e.Code) > maxCode || !printable(string(e.Code)) {
		e.Code = wire.Internal
	}
	e.Message = clip(strings.ToValidUTF8(strings.ReplaceAll(e.Message, "\x00", ""), "�"), maxMessage)
	if e.RetryAfterMs < 0 || e.RetryAfterMs > maxAhead.Milliseconds() {
		return wire.InvalidField("error.retryAfterMs", fmt.Sprintf("from 0 to %d", maxAhead.Milliseconds()))
	}
	if len(bytes.TrimSpace(e.Details)) == 0 {
		e.Details = nil
	} else if e.Details, err = checkJSON("error.details", e.Details, maxDetails); err != nil {
		return err
	}
	return nil
}

// clip cuts text to so many bytes, between characters.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}

// checkStep takes the name of a step, and its result where there is one.
func checkStep(req *wire.TaskStep) (err error) {
	if err := checkAttempt(&req.TaskAttempt); err != nil {
		return err
	}
	if req.Step == "" || len(req.Step) > maxStep || !printable(req.Step) {
		return wire.InvalidField("step", fmt.Sprintf("1-%d bytes, no control characters", maxStep))
	}
	if len(bytes.TrimSpace(req.Result)) == 0 {
		req.Result = nil // it only looks
		return nil
	}
	req.Result, err = checkJSON("result", req.Result, wire.MaxTaskInput)
	return err
}

// checkList turns what is asked for into a query.
func checkList(req *wire.TaskList) (q store.Query, err error) {
	if req.Name != "" {
		if err := wire.CheckTaskName("name", req.Name); err != nil {
			return q, err
		}
	}
	if req.State != "" && !req.State.Known() {
		return q, wire.InvalidField("state", "pending, running, committed, failed, cancelled or dead")
	}
	if req.Limit < 0 || req.Limit > maxPage {
		return q, wire.InvalidField("limit", fmt.Sprintf("from 1 to %d", maxPage))
	}
	q = store.Query{Name: req.Name, State: req.State, Limit: req.Limit}
	if q.Limit == 0 {
		q.Limit = defaultPage
	}
	if req.Cursor != "" {
		if q.Before, err = wire.ParseTaskID("cursor", req.Cursor); err != nil {
			return q, wire.InvalidField("cursor", "what the page before named")
		}
	}
	return q, nil
}

// checkHello takes what a worker says of itself.
func checkHello(req *wire.TaskHello) error {
	if len(req.Names) == 0 || len(req.Names) > maxNames {
		return wire.InvalidField("names", fmt.Sprintf("from 1 to %d names of tasks", maxNames))
	}
	for _, name := range req.Names {
		if err := wire.CheckTaskName("names", name); err != nil {
			return err
		}
	}
	if len(req.Worker) > maxWorker || !printable(req.Worker) {
		return wire.InvalidField("worker", fmt.Sprintf("at most %d bytes, no control characters", maxWorker))
	}
	if req.Slots < 0 || req.Slots > maxSlots {
		return wire.InvalidField("slots", fmt.Sprintf("from 0 to %d", maxSlots))
	}
	return nil
}
