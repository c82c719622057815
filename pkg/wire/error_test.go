package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"testing"
	"time"
)

var sentinels = map[Code]error{
	Unauthenticated: ErrUnauthenticated, PermissionDenied: ErrPermissionDenied, InvalidArgument: ErrInvalidArgument, NotFound: ErrNotFound,
	AlreadyExists: ErrAlreadyExists, FailedPrecondition: ErrFailedPrecondition, Aborted: ErrAborted, ResourceExhausted: ErrResourceExhausted,
	DeadlineExceeded: ErrDeadlineExceeded, Cancelled: ErrCancelled, Unimplemented: ErrUnimplemented, Unavailable: ErrUnavailable, Internal: ErrInternal,
}

func TestErrorIs(t *testing.T) {
	for code, sentinel := range sentinels {
		err := fmt.Errorf("publish: %w", Errorf(code, "why %d", 7).With("k", 1))
		for other, otherSentinel := range sentinels {
			if got := errors.Is(err, otherSentinel); got != (other == code) {
				t.Errorf("errors.Is(%s, %s) = %v", code, other, got)
			}
		}
		if CodeOf(err) != code || !errors.Is(err, sentinel) {
			t.Errorf("CodeOf(%v) = %s, want %s", err, CodeOf(err), code)
		}
		if got, want := AsError(err).Error(), string(code)+": why 7"; got != want {
			t.Errorf("Error() = %q, want %q", got, want)
		}
		if got := sentinel.Error(); got != string(code) {
			t.Errorf("Error() = %q, want %q", got, code)
		}
	}
	if errors.Is(ErrNotFound, io.EOF) {
		t.Error("an error is another's")
	}
}

func TestCodes(t *testing.T) {
	status := map[Code]int{
		Unauthenticated: 401, PermissionDenied: 403, InvalidArgument: 400, NotFound: 404, AlreadyExists: 409, FailedPrecondition: 412,
		Aborted: 409, ResourceExhausted: 429, DeadlineExceeded: 504, Cancelled: 499, Unimplemented: 501, Unavailable: 503, Internal: 500,
	}
	if len(codes) != 13 || len(sentinels) != 13 {
		t.Errorf("%d codes, %d sentinels, want 13 each", len(codes), len(sentinels))
	}
	for code := range codes {
		retries := code == ResourceExhausted || code == Unavailable || code == Aborted
		if !code.Known() || code.Retries() != retries {
			t.Errorf("%s: Known %v, Retries %v, want true, %v", code, code.Known(), code.Retries(), retries)
		}
		if got := code.HTTPStatus(); got != status[code] {
			t.Errorf("%s: HTTP status %d, want %d", code, got, status[code])
		}
	}
	for _, code := range []Code{"", "MINE", "not_found"} {
		if code.Known() || code.Retries() || code.HTTPStatus() != 500 {
			t.Errorf("%q is known, retried, or has status %d", code, code.HTTPStatus())
		}
	}
}

func TestRetryAfterMs(t *testing.T) {
	for _, test := range []struct {
		code Code
		d    time.Duration
		want string
	}{
		{ResourceExhausted, 0, "100"}, {Unavailable, 0, "100"}, {Aborted, 0, "50"},
		{ResourceExhausted, Never, "null"}, {Aborted, Never, "null"}, {Unavailable, -time.Hour, "null"},
		{ResourceExhausted, 1, "1"}, {ResourceExhausted, time.Millisecond, "1"}, {ResourceExhausted, time.Millisecond + 1, "2"},
		{ResourceExhausted, 1200 * time.Millisecond, "1200"}, {ResourceExhausted, time.Hour, "3600000"},
		{ResourceExhausted, math.MaxInt64, "9223372036855"},
		{NotFound, time.Second, ""}, {NotFound, Never, ""}, {Internal, 0, ""}, {DeadlineExceeded, time.Second, ""}, {"MINE", time.Second, ""},
	} {
		e := &Error{Code: test.code, RetryAfter: test.d}
		var frame map[string]json.RawMessage
		if err := json.Unmarshal(AppendError(nil, e), &frame); err != nil {
			t.Fatal(err)
		}
		if got := string(frame["retryAfterMs"]); got != test.want {
			t.Errorf("%s after %d: retryAfterMs %q, want %q", test.code, test.d, got, test.want)
		}
		body := `{}`
		if test.want != "" {
			body = `{"retryAfterMs":` + test.want + `}`
		}
		if got := string(AppendErrorBody(nil, e)); got != body {
			t.Errorf("%s after %d: body %s, want %s", test.code, test.d, got, body)
		}
	}
}

func TestAsError(t *testing.T) {
	own := Errorf(NotFound, "no such order")
	for _, test := range []struct {
		err  error
		want *Error
	}{
		{own, own},
		{fmt.Errorf("a: %w", fmt.Errorf("b: %w", own)), own},
		{errors.Join(io.EOF, own), own},
		{io.EOF, &Error{Code: Internal, Message: "internal error"}},
		{errors.New("password=hunter2"), &Error{Code: Internal, Message: "internal error"}},
		{fmt.Errorf("a: %w", context.DeadlineExceeded), &Error{Code: DeadlineExceeded, Message: "the deadline passed"}},
		{context.Canceled, &Error{Code: Cancelled, Message: "cancelled"}},
	} {
		if got := AsError(test.err); !reflect.DeepEqual(got, test.want) {
			t.Errorf("AsError(%v) = %+v, want %+v", test.err, got, test.want)
		}
		if got := AsErrorOrNil(test.err); !reflect.DeepEqual(got, test.want) {
			t.Errorf("AsErrorOrNil(%v) = %+v, want %+v", test.err, got, test.want)
		}
	}
	if got := AsErrorOrNil(nil); got != nil {
		t.Errorf("AsErrorOrNil(nil) = %v", got)
	}
}

func TestErrorWith(t *testing.T) {
	base := InvalidField("topic", "must not be empty")
	with := base.With("op", "publish")
	if !reflect.DeepEqual(base.Details, map[string]any{"field": "topic"}) {
		t.Errorf("With changed the original: %v", base.Details)
	}
	if !reflect.DeepEqual(with.Details, map[string]any{"field": "topic", "op": "publish"}) || with.Code != base.Code || with.Message != base.Message {
		t.Errorf("With: %+v", with)
	}
	if ErrNotFound.With("k", 1); ErrNotFound.Details != nil {
		t.Error("With changed ErrNotFound")
	}
}

func TestErrorJSON(t *testing.T) {
	e := (&Error{Code: Aborted, Message: "m", RetryAfter: Never}).With("n", 1)
	got, err := json.Marshal(map[string]any{"error": e})
	if want := `{"error":{"code":"ABORTED","message":"m","retryAfterMs":null,"details":{"n":1}}}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	// Details that JSON can't hold are left out; the error still arrives.
	if got, want := string(AppendError(nil, ErrInternal.With("c", make(chan int)))), `{"code":"INTERNAL","message":""}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDecodeError(t *testing.T) {
	for _, test := range []struct {
		raw  string
		want *Error
	}{
		{`{"code":"NOT_FOUND","message":"m"}`, &Error{Code: NotFound, Message: "m"}},
		{`{"code":"ABORTED","retryAfterMs":1200,"details":{"k":"v"},"x":1}`, &Error{Code: Aborted, RetryAfter: 1200 * time.Millisecond, Details: map[string]any{"k": "v"}}},
		{`{"code":"ABORTED","retryAfterMs":null}`, &Error{Code: Aborted, RetryAfter: Never}},
		{`{"code":"ABORTED","retryAfterMs":"x"}`, &Error{Code: Aborted}},
		{`{"code":"MINE","message":"m","details":{"k":1}}`, &Error{Code: Internal, Message: "m", Details: map[string]any{"k": 1.0, "code": "MINE"}}},
	} {
		if got := DecodeError([]byte(test.raw)); !reflect.DeepEqual(got, test.want) {
			t.Errorf("DecodeError(%s) = %+v, want %+v", test.raw, got, test.want)
		}
	}
	for _, raw := range []string{`"x"`, `7`, `[]`, `{"code":7}`, `{"code":"NOT_FOUND","details":[]}`} {
		if got := DecodeError([]byte(raw)); got.Code != Internal {
			t.Errorf("DecodeError(%s) = %v, want %s", raw, got, Internal)
		}
	}
}

func TestCloseAdvice(t *testing.T) {
	for code, want := range map[CloseCode]Advice{
		CloseNormal: StayAway, CloseGoingAway: ReconnectNow, CloseTooBig: FixClient, CloseTryAgain: ReconnectBackoff, CloseProtocol: FixClient,
		CloseUnauthenticated: GetToken, CloseForbidden: StayAway, CloseHeartbeat: ReconnectBackoff, CloseTooMany: ReconnectBackoff,
		CloseAbnormal: ReconnectBackoff, 1011: ReconnectBackoff, 1012: ReconnectBackoff, 0: ReconnectBackoff, 4999: ReconnectBackoff,
	} {
		if got := code.Advice(); got != want {
			t.Errorf("%d: %q, want %q", code, got, want)
		}
	}
}
