package fairlead

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ErrSlotLost is returned by [Once] where the work took longer than
// [OnceOptions].AcquireTTL: somebody else may have done it too. It is the cause
// with which the context of the work ends then.
var ErrSlotLost = errors.New("fairlead: the right to do the work of a key was lost")

// OnceOptions say how long the work of a key may take and how long it counts.
type OnceOptions struct {
	// AcquireTTL is how long the work may take: after that another one gets the right
	// to it, from 1s to 24h. Default 60s.
	AcquireTTL time.Duration
	// TTL is how long the result is kept, from 1s to 8760h. Default 48h.
	TTL time.Duration
	// Hash is of what the work is about, at most 128 bytes: a call with the same key
	// and another hash is FAILED_PRECONDITION. Default: it does not matter.
	Hash string
}

const defaultAcquireTTL = time.Minute

// Once does the work of a key, 1 to 1024 bytes, once: fn is called where nobody has
// done it nor does it now, and its result is kept by the tasks service. All others
// with the same key get that result, and wait for it while ctx lives where
// somebody is at it.
//
// An error of fn, or a panic, is no result: the next caller tries again. A process
// that dies within fn holds the key until [OnceOptions].AcquireTTL is over, and its
// effect may be there: it is once for calls that come again, and at most once only
// if fn's effect can tell a second time from the first. The context of fn ends a
// tenth of AcquireTTL before the end, with [ErrSlotLost] for its cause.
//
// The result is at most 256 KB of JSON. Where it could not be stored it is
// returned beside the error.
func Once[T any](ctx context.Context, f *Fairlead, key string, fn func(ctx context.Context) (T, error), o OnceOptions) (result T, err error) {
	slot, until, err := f.acquire(ctx, key, o)
	if err != nil {
		return result, fmt.Errorf("once %s: %w", key, err)
	}
	if slot.State == wire.SlotDone {
		if raw, ok := any(&result).(*json.RawMessage); ok {
			*raw = slot.Result
		} else if err := json.Unmarshal(slot.Result, &result); err != nil {
			return result, fmt.Errorf("once %s: read the result: %w", key, err)
		}
		return result, nil
	}
	work, cancel := context.WithDeadlineCause(ctx, until, ErrSlotLost)
	defer cancel()
	committed := false
	defer func() { // also where fn panics
		if !committed {
			f.abort(ctx, key, slot.Token)
		}
	}()
	if result, err = fn(work); err != nil {
		return result, err
	}
	data, err := wire.EncodeData("result", result)
	if err != nil {
		return result, fmt.Errorf("once %s: %w", key, err)
	}
	committed = true // or nobody knows
	if err := f.commit(context.WithoutCancel(ctx), until, wire.IdemCommit{Key: key, Token: slot.Token, Result: data}); err != nil {
		return result, fmt.Errorf("once %s: %w", key, err)
	}
	return result, nil
}

// acquire gets the right to do the work of a key, until when, or its result.
func (f *Fairlead) acquire(ctx context.Context, key string, o OnceOptions) (slot wire.IdemAcquired, until time.Time, err error) {
	ttl := o.AcquireTTL
	if ttl <= 0 {
		ttl = defaultAcquireTTL
	}
	req := wire.IdemAcquire{Key: key, AcquireTTL: ttl.String(), TTL: duration(o.TTL), Hash: o.Hash, ID: rand.Text()}
	until = time.Now().Add(ttl - ttl/10)
	for patience := time.Now().Add(f.opts.Timeout); ; {
		once, cancel := context.WithTimeout(ctx, answerWithin)
		slot, err = service[wire.IdemAcquired](once, f, "tasks", "idem.acquire", req)
		cancel()
		var e *wire.Error
		wait := firstPause
		switch {
		case err == nil && slot.State != wire.SlotPending:
			return slot, until, nil
		case err == nil:
			wait = max(time.Duration(slot.RetryAfterMs)*time.Millisecond, wait)
			patience = time.Now().Add(wait + f.opts.Timeout)
		case ctx.Err() != nil || !errors.As(err, &e) || e.Details["outcome"] != "unknown" || time.Now().After(patience):
			return slot, until, err
		} // else it may have been acquired by now, and is asked again
		select {
		case <-ctx.Done():
			return slot, until, wire.AsError(ctx.Err()).With("outcome", "none")
		case <-time.After(wait):
		}
		if err == nil { // as of then it was somebody else's
			until = time.Now().Add(ttl - ttl/10)
		}
	}
}

// commit stores the result until it is answered, or the right to do so is over.
func (f *Fairlead) commit(ctx context.Context, until time.Time, req wire.IdemCommit) error {
	if within := time.Now().Add(f.opts.Timeout); until.Before(within) {
		until = within // it may still be there
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		once, cancel := context.WithTimeout(ctx, answerWithin)
		_, err := service[struct{}](once, f, "tasks", "idem.commit", req)
		cancel()
		var e *wire.Error
		switch {
		case err == nil:
			return nil
		case errors.Is(err, wire.ErrFailedPrecondition):
			return ErrSlotLost
		case ctx.Err() != nil || !errors.As(err, &e) || final(e.Code):
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// abort gives the right back; where that fails it ends by itself.
func (f *Fairlead) abort(ctx context.Context, key, token string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWithin)
	defer cancel()
	_, err := service[struct{}](ctx, f, "tasks", "idem.abort", wire.IdemAbort{Key: key, Token: token})
	if err != nil && !errors.Is(err, wire.ErrFailedPrecondition) {
		f.opts.Log.Warn("the right to do the work of a key was not given back, and ends by its ttl", "key", key, "error", err)
	}
}

// ForgetOnce removes what is kept of a key, whoever has it: its work is done again.
// It reports whether there was something.
func (f *Fairlead) ForgetOnce(ctx context.Context, key string) (bool, error) {
	removed, err := service[wire.IdemCount](ctx, f, "tasks", "idem.purge", wire.IdemKey{Key: key})
	return removed.Count > 0, err
}
