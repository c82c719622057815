package wire

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Code says what the caller of a failed operation can do about it. The same
// codes travel in WebSocket error frames and in the NATS header
// [HeaderErrorCode].
type Code string

// The codes of the protocol. No other code ever crosses a process border.
const (
	Unauthenticated    Code = "UNAUTHENTICATED"     // get a token, connect again
	PermissionDenied   Code = "PERMISSION_DENIED"   // the rules or the token refuse it
	InvalidArgument    Code = "INVALID_ARGUMENT"    // fix the request
	NotFound           Code = "NOT_FOUND"           // it is not there
	AlreadyExists      Code = "ALREADY_EXISTS"      // it is there already
	FailedPrecondition Code = "FAILED_PRECONDITION" // it can't be in this state
	Aborted            Code = "ABORTED"             // a race was lost: read again, retry
	ResourceExhausted  Code = "RESOURCE_EXHAUSTED"  // a limit: retry after the given time
	DeadlineExceeded   Code = "DEADLINE_EXCEEDED"   // the outcome is unknown
	Cancelled          Code = "CANCELLED"           // the caller took it back
	Unimplemented      Code = "UNIMPLEMENTED"       // nobody serves it
	Unavailable        Code = "UNAVAILABLE"         // a backend is away: retry
	Internal           Code = "INTERNAL"            // our fault; details are in our log
)

// Never as [Error.RetryAfter] says that no retry can succeed; it is null on the wire.
const Never time.Duration = -1

// codes lists every code with the pause a caller should make before a retry
// when the error names none; only the three codes that carry `retryAfterMs`
// have one.
var codes = map[Code]struct{ backoff time.Duration }{
	Unauthenticated: {}, PermissionDenied: {}, InvalidArgument: {}, NotFound: {}, AlreadyExists: {},
	FailedPrecondition: {}, Aborted: {50 * time.Millisecond}, ResourceExhausted: {100 * time.Millisecond},
	DeadlineExceeded: {}, Cancelled: {}, Unimplemented: {}, Unavailable: {100 * time.Millisecond}, Internal: {},
}

// Known reports whether c is a code of the protocol.
func (c Code) Known() bool { _, ok := codes[c]; return ok }

// Retries reports whether errors of this code carry `retryAfterMs`.
func (c Code) Retries() bool { return codes[c].backoff > 0 }

// Error is an error that crosses a process border. Its message is for the
// caller: it never holds a secret, a payload or an internal cause.
type Error struct {
	Code    Code
	Message string
	// RetryAfter is sent as `retryAfterMs` with RESOURCE_EXHAUSTED, UNAVAILABLE
	// and ABORTED. Zero takes the code's default; [Never] is sent as null.
	RetryAfter time.Duration
	// Details is sent as it is; nil leaves the field out.
	Details map[string]any
}

// One value per code, for errors.Is on either side of the border.
var (
	ErrUnauthenticated    = &Error{Code: Unauthenticated}
	ErrPermissionDenied   = &Error{Code: PermissionDenied}
	ErrInvalidArgument    = &Error{Code: InvalidArgument}
	ErrNotFound           = &Error{Code: NotFound}
	ErrAlreadyExists      = &Error{Code: AlreadyExists}
	ErrFailedPrecondition = &Error{Code: FailedPrecondition}
	ErrAborted            = &Error{Code: Aborted}
	ErrResourceExhausted  = &Error{Code: ResourceExhausted}
	ErrDeadlineExceeded   = &Error{Code: DeadlineExceeded}
	ErrCancelled          = &Error{Code: Cancelled}
	ErrUnimplemented      = &Error{Code: Unimplemented}
	ErrUnavailable        = &Error{Code: Unavailable}
	ErrInternal           = &Error{Code: Internal}
)

// Error returns the code and the message.
func (e *Error) Error() string {
	if e.Message == "" {
		return string(e.Code)
	}
	return string(e.Code) + ": " + e.Message
}

// Is reports whether target is an [Error] of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// With returns a copy of e whose details also hold key.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Details = make(map[string]any, len(e.Details)+1)
	for k, v := range e.Details {
		c.Details[k] = v
	}
	c.Details[key] = value
	return &c
}

// RetryAfterMs returns what `retryAfterMs` says on the wire: the milliseconds
// (rounded up), whether they are null, and whether the field is there at all.
func (e *Error) RetryAfterMs() (ms int64, null, present bool) {
	backoff := codes[e.Code].backoff
	switch {
	case backoff == 0:
		return 0, false, false
	case e.RetryAfter < 0:
		return 0, true, true
	case e.RetryAfter == 0:
		return backoff.Milliseconds(), false, true
	}
	return int64((e.RetryAfter-1)/time.Millisecond) + 1, false, true
}

// Errorf returns an [Error] with a formatted message.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// InvalidField returns an INVALID_ARGUMENT that names the field and says what it allows.
func InvalidField(field, allowed string) *Error {
	return &Error{Code: InvalidArgument, Message: field + ": " + allowed, Details: map[string]any{"field": field}}
}

// CodeOf returns the code of err, or [Internal] for an error without one.
func CodeOf(err error) Code { return AsError(err).Code }

// AsError turns any error into one that may leave the process. An error
// without a code becomes [Internal] and says nothing of its cause; a context's
// end becomes [DeadlineExceeded] or [Cancelled].
func AsError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: DeadlineExceeded, Message: "the deadline passed"}
	case errors.Is(err, context.Canceled):
		return &Error{Code: Cancelled, Message: "cancelled"}
	}
	return &Error{Code: Internal, Message: "internal error"}
}

// MarshalJSON returns the error as it stands in an error frame.
func (e *Error) MarshalJSON() ([]byte, error) { return AppendError(nil, e), nil }

// HTTPStatus returns the HTTP status that says the same as the code.
func (c Code) HTTPStatus() int {
	switch c {
	case Unauthenticated:
		return 401
	case PermissionDenied:
		return 403
	case InvalidArgument:
		return 400
	case NotFound:
		return 404
	case AlreadyExists, Aborted:
		return 409
	case FailedPrecondition:
		return 412
	case ResourceExhausted:
		return 429
	case DeadlineExceeded:
		return 504
	case Cancelled:
		return 499
	case Unimplemented:
		return 501
	case Unavailable:
		return 503
	}
	return 500
}

func quoteShort(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}

// AsErrorOrNil is [AsError] for an error that may be nil.
func AsErrorOrNil(err error) *Error {
	if err == nil {
		return nil
	}
	return AsError(err)
}
