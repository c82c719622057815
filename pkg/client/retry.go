package client

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// good is how long a connection has to last for the next failure to count as
	// the first.
	good = 5 * time.Second
	// crowded is the attempt that a refusal for the number of connections counts
	// as, at least: others have to leave first.
	crowded = 5
)

// retry says when a session dials again. It has no clock.
type retry struct {
	min, max time.Duration
	random   func() float64 // in [0, 1)

	attempt int // failures in a row
	refused int // tokens in a row that were
}

// ending is how a connection, or the attempt to have one, ended.
type ending struct {
	code   wire.CloseCode
	pause  time.Duration // the server asked for
	lasted time.Duration // since hello; 0: it never was
	moved  bool          // the server asked for it; pause is what is left of the delay it gave
	tokens bool          // another token can be had
}

// next returns how long to wait before the next attempt; false: there is none.
func (r *retry) next(e ending) (wait time.Duration, again bool) {
	if e.lasted >= good {
		r.attempt = 0
	}
	if e.lasted > 0 {
		r.refused = 0
	}
	wait = max(r.backoff(), e.pause)
	switch e.code {
	case wire.CloseNormal, wire.CloseForbidden, wire.CloseProtocol:
		return 0, false
	case wire.CloseUnauthenticated:
		// Another token is asked for once, at once; where that is refused too,
		// asking does not help.
		if r.refused++; !e.tokens || r.refused > 1 {
			return 0, false
		}
		if r.attempt == 0 {
			wait = e.pause
		}
	case wire.CloseGoingAway:
		if e.moved {
			wait = e.pause
		}
	case wire.CloseTooMany:
		if r.attempt < crowded {
			r.attempt = crowded
			wait = max(r.backoff(), e.pause)
		}
	}
	r.attempt++
	return wait, true
}

// backoff returns a time between nothing and a bound that doubles: clients which
// lost the same gateway don't come back together.
func (r *retry) backoff() time.Duration {
	bound := r.max
	if doubled := r.min << min(r.attempt, 20); doubled > 0 {
		bound = min(bound, doubled)
	}
	return time.Duration(r.random() * float64(bound))
}

// refusal is the close code that an error of dialing, or to hello, amounts to.
func refusal(e *wire.Error) wire.CloseCode {
	switch e.Code {
	case wire.Unauthenticated:
		return wire.CloseUnauthenticated
	case wire.PermissionDenied:
		return wire.CloseForbidden
	case wire.InvalidArgument:
		return wire.CloseProtocol
	case wire.ResourceExhausted:
		return wire.CloseTooMany
	}
	return wire.CloseAbnormal
}

// transient reports whether the same request may succeed later.
func transient(e *wire.Error) bool {
	if e.RetryAfter == wire.Never {
		return false
	}
	return e.Code.Retries() || e.Code == wire.DeadlineExceeded
}
