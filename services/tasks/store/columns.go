package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Parameters of statements are columns: one array for each, whatever the number
// of rows.

// uuids is a column of ids.
type uuids = pgtype.FlatArray[pgtype.UUID]

func uuid(id wire.TaskID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

func uuidsOf(ids []wire.TaskID) uuids {
	column := make(uuids, len(ids))
	for i, id := range ids {
		column[i] = uuid(id)
	}
	return column
}

// text returns what Postgres can store: one row that it refuses would take the
// whole batch with it. Nothing else can be said on the wire.
func text(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, string(utf8.RuneError)), "\x00", "")
}

// document returns JSON as Postgres can store it, nil for none.
func document(b []byte) []byte {
	switch {
	case len(b) == 0:
		return nil
	case utf8.Valid(b):
		return b
	}
	return bytes.ToValidUTF8(b, []byte(string(utf8.RuneError)))
}

// problem returns an error as it is stored: without details that are no JSON.
func problem(e *wire.TaskError) []byte {
	if e == nil {
		return nil
	}
	b, err := json.Marshal(e)
	if err != nil {
		plain := *e
		plain.Details = nil
		b, _ = json.Marshal(&plain) // nothing is left in it that can't be encoded
	}
	return document(b)
}

func problemOf(b []byte) (*wire.TaskError, error) {
	if b == nil {
		return nil, nil
	}
	e := new(wire.TaskError)
	if err := json.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("decode the error of a task: %w", err)
	}
	return e, nil
}

// at is a time that may be missing.
func at(t time.Time) pgtype.Timestamptz { return pgtype.Timestamptz{Time: t, Valid: !t.IsZero()} }

func timeOf(t pgtype.Timestamptz) time.Time {
	if !t.Valid {
		return time.Time{}
	}
	return t.Time.UTC()
}

// micros is a duration as it is stored: what is more than none is not none.
func micros(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return int64((d-1)/time.Microsecond) + 1
}

func duration(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

// States as they are stored.
var (
	stateNumbers = map[wire.TaskState]int16{
		wire.TaskPending: 0, wire.TaskRunning: 1, wire.TaskCommitted: 2,
		wire.TaskFailed: 3, wire.TaskCancelled: 4, wire.TaskDead: 5,
	}
	stateNames = []wire.TaskState{
		wire.TaskPending, wire.TaskRunning, wire.TaskCommitted, wire.TaskFailed, wire.TaskCancelled, wire.TaskDead,
	}
)

func stateOf(n int16) wire.TaskState {
	if n < 0 || int(n) >= len(stateNames) {
		return ""
	}
	return stateNames[n]
}
