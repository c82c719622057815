package wire

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"time"
)

// TaskID names a task. Its first six bytes are the time at which it was made, as
// in a UUID of version 7 (RFC 9562), so that ids sort by age; 74 bits of the rest
// are random, so that nobody guesses one. It is written `t_` and 26 characters
// of [0-9a-v], which sort as the bytes do.
type TaskID [16]byte

const taskIDPrefix = "t_"

var taskIDText = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// NewTaskID returns the id of a task that is made now.
func NewTaskID(now time.Time) (id TaskID) {
	rand.Read(id[:]) // never fails: it ends the process
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(id[:6], ms[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// String returns the id as it stands on the wire.
func (id TaskID) String() string {
	var text [len(taskIDPrefix) + 26]byte
	copy(text[:], taskIDPrefix)
	taskIDText.Encode(text[len(taskIDPrefix):], id[:])
	return string(text[:])
}

// ParseTaskID reads what [TaskID.String] writes; anything else is an
// INVALID_ARGUMENT that names the field.
func ParseTaskID(field, s string) (id TaskID, err error) {
	if len(s) != len(taskIDPrefix)+26 || s[:len(taskIDPrefix)] != taskIDPrefix {
		return id, InvalidField(field, "the id of a task: t_ and 26 characters of [0-9a-v]")
	}
	if n, err := taskIDText.Decode(id[:], []byte(s[len(taskIDPrefix):])); err != nil || n != len(id) || id.String() != s {
		return TaskID{}, InvalidField(field, "the id of a task: t_ and 26 characters of [0-9a-v]")
	}
	return id, nil
}
