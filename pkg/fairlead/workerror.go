package fairlead

import (
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// maxTaskError is the longest message of an error that is stored, in bytes.
const maxTaskError = 4 << 10

// maxTaskDetails bounds the JSON of the details that are stored.
const maxTaskDetails = 16 << 10

// maxRetryAfter is the longest wait before another attempt.
const maxRetryAfter = 365 * 24 * time.Hour

// taskPolicy is an error of a worker's function with its own say in what follows.
type taskPolicy struct {
	err   error
	never bool
	after time.Duration
}

func (p *taskPolicy) Error() string { return p.err.Error() }
func (p *taskPolicy) Unwrap() error { return p.err }

// NonRetryable returns err as one after which no further attempt follows: the
// task has failed. nil stays nil. It is for functions of [Work].
func NonRetryable(err error) error {
	if err == nil {
		return nil
	}
	return &taskPolicy{err: err, never: true}
}

// RetryAfter returns err as one after which the next attempt follows not sooner
// than d, at most a year, instead of the task's backoff, where its policy allows
// one. It is for functions of [Work]. nil stays nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &taskPolicy{err: err, after: min(max(d, 0), maxRetryAfter)}
}

// explicit reports whether err says by itself what it means for the task.
func explicit(err error) bool {
	var p *taskPolicy
	var coded *wire.Error
	return errors.As(err, &p) || errors.As(err, &coded)
}

// failure says what an error of a worker's function means for the task.
func failure(err error) *wire.TaskError {
	e := &wire.TaskError{Code: wire.Internal, Message: short(err.Error())}
	var coded *wire.Error
	if errors.As(err, &coded) && coded != nil {
		e.Code, e.Message = coded.Code, short(coded.Message)
		if !coded.Code.Known() {
			e.Code = wire.Internal
		}
		if len(coded.Details) > 0 {
			if data, err := json.Marshal(coded.Details); err == nil && len(data) <= maxTaskDetails { // else details that are no JSON, or too much of it
				e.Details = data
			}
		}
		usual, _, _ := (&wire.Error{Code: coded.Code}).RetryAfterMs()
		switch ms, never, present := coded.RetryAfterMs(); {
		case never:
			e.Retryable = new(false)
		case present && ms > usual: // else only what every error of that code has
			e.RetryAfterMs = ms
		}
	}
	var p *taskPolicy
	if errors.As(err, &p) {
		if p.never {
			e.Retryable, e.RetryAfterMs = new(false), 0
		} else {
			e.RetryAfterMs = max(int64((p.after+time.Millisecond-1)/time.Millisecond), 1)
		}
	}
	return e
}

// encodeResult encodes what a worker's function returns.
func encodeResult(out any) ([]byte, error) {
	data, err := wire.EncodeData("result", out)
	if err != nil { // it never will be another
		return nil, NonRetryable(errors.New(err.Error()))
	}
	if len(data) > wire.MaxTaskInput {
		return nil, &wire.Error{Code: wire.ResourceExhausted, Message: "the result is larger than 512 KB", RetryAfter: wire.Never}
	}
	return data, nil
}

// short cuts a message to what is stored.
func short(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= maxTaskError {
		return s
	}
	cut := maxTaskError - len("…")
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
