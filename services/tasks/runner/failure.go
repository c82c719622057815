package runner

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// clean makes an error of a worker one that can be stored: with a code of the
// protocol, and text that is text.
func clean(e *wire.TaskError) *wire.TaskError {
	if !e.Code.Known() {
		if e.Details == nil && len(e.Code) <= 128 {
			e.Details, _ = json.Marshal(map[string]string{"code": string(e.Code)})
		}
		e.Code = wire.Internal
	}
	if len(e.Message) > maxMessage {
		e.Message = e.Message[:maxMessage]
	}
	if !utf8.ValidString(e.Message) || strings.IndexByte(e.Message, 0) >= 0 {
		e.Message = strings.ToValidUTF8(strings.ReplaceAll(e.Message, "\x00", ""), "�")
	}
	return e
}

// Errors that attempts end with, of which no worker said anything.
func errTimeout() *wire.TaskError {
	return &wire.TaskError{Code: wire.DeadlineExceeded, Message: "the attempt's time was over"}
}

func errLost() *wire.TaskError {
	return &wire.TaskError{Code: wire.Aborted, Message: "the worker was lost"}
}

func errDead() *wire.TaskError {
	return &wire.TaskError{Code: wire.Aborted, Message: "the workers were lost"}
}

// errGivenUp answers a worker whose attempt is not the one that counts any more.
func errGivenUp(fence int64, state wire.TaskState) *wire.Error {
	return wire.Errorf(wire.FailedPrecondition, "the attempt was given up").With("fence", fence).With("state", string(state))
}
