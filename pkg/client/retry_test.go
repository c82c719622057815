package client

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestRetry(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	type step struct {
		e     ending
		wait  time.Duration // with the greatest jitter
		again bool
	}
	lost := ending{code: wire.CloseAbnormal}
	tests := []struct {
		name  string
		steps []step
	}{
		{"the bound doubles and ends", []step{{lost, 300 * ms, true}, {lost, 600 * ms, true}, {lost, 1200 * ms, true}, {lost, 2400 * ms, true}, {lost, 4800 * ms, true}, {lost, 9600 * ms, true}, {lost, 10_000 * ms, true}, {lost, 10_000 * ms, true}}},
		{"a good connection begins anew", []step{{lost, 300 * ms, true}, {lost, 600 * ms, true}, {ending{code: wire.CloseAbnormal, lasted: good}, 300 * ms, true}}},
		{"a short one does not", []step{{lost, 300 * ms, true}, {ending{code: wire.CloseAbnormal, lasted: good - 1}, 600 * ms, true}}},
		{"the server's pause is the least", []step{{ending{code: wire.CloseAbnormal, pause: time.Second}, time.Second, true}, {ending{code: wire.CloseAbnormal, pause: ms}, 600 * ms, true}}},
		{"goodbye", []step{{ending{code: wire.CloseNormal}, 0, false}}},
		{"thrown out", []step{{ending{code: wire.CloseForbidden}, 0, false}}},
		{"our fault", []step{{ending{code: wire.CloseProtocol}, 0, false}}},
		{"a frame too large", []step{{ending{code: wire.CloseTooBig}, 300 * ms, true}}},
		{"slow", []step{{ending{code: wire.CloseTryAgain}, 300 * ms, true}}},
		{"silent", []step{{ending{code: wire.CloseHeartbeat}, 300 * ms, true}}},
		{"too many", []step{{ending{code: wire.CloseTooMany}, 9600 * ms, true}, {ending{code: wire.CloseTooMany}, 10_000 * ms, true}}},
		{"a drain that was waited for", []step{{ending{code: wire.CloseGoingAway, moved: true, lasted: good}, 0, true}}},
		{"a drain that closed early", []step{{ending{code: wire.CloseGoingAway, moved: true, pause: 200 * ms}, 200 * ms, true}}},
		{"away without a word", []step{{ending{code: wire.CloseGoingAway, lasted: good}, 300 * ms, true}}},
		{"expired, and another token", []step{{ending{code: wire.CloseUnauthenticated, lasted: good, tokens: true}, 0, true}, {ending{code: wire.CloseUnauthenticated, tokens: true}, 0, false}}},
		{"expired twice, with a connection between", []step{{ending{code: wire.CloseUnauthenticated, lasted: good, tokens: true}, 0, true}, {ending{code: wire.CloseUnauthenticated, lasted: good, tokens: true}, 0, true}}},
		{"expired at once, again and again", []step{{ending{code: wire.CloseUnauthenticated, lasted: 1, tokens: true}, 0, true}, {ending{code: wire.CloseUnauthenticated, lasted: 1, tokens: true}, 600 * ms, true}}},
		{"expired, and no other token", []step{{ending{code: wire.CloseUnauthenticated, lasted: good}, 0, false}}},
	}
	for _, test := range tests {
		r := retry{min: 300 * ms, max: 10 * time.Second, random: func() float64 { return 1 }}
		for i, s := range test.steps {
			if wait, again := r.next(s.e); wait != s.wait || again != s.again {
				t.Errorf("%s, step %d: got %v %v, want %v %v", test.name, i+1, wait, again, s.wait, s.again)
			}
		}
	}
}

func TestRetryWithoutABound(t *testing.T) {
	t.Parallel()
	r := retry{min: time.Hour, max: 2 * time.Hour, random: func() float64 { return 1 }}
	for range 100 {
		if wait, _ := r.next(ending{code: wire.CloseAbnormal}); wait < time.Hour || wait > 2*time.Hour {
			t.Fatalf("attempt %d: got %v", r.attempt, wait)
		}
	}
}

func TestRefreshIn(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_000_000)
	for left, want := range map[time.Duration]time.Duration{
		time.Hour: time.Hour - 30*time.Second, time.Minute: 30 * time.Second, 40 * time.Second: 20 * time.Second, 2 * time.Second: time.Second,
	} {
		if got, ok := refreshIn(now.Add(left).UnixMilli(), now); !ok || got != want {
			t.Errorf("with %v left: got %v %v, want %v", left, got, ok, want)
		}
	}
	for _, expires := range []int64{0, now.UnixMilli(), now.Add(refreshLeast - time.Millisecond).UnixMilli(), 1} {
		if got, ok := refreshIn(expires, now); ok {
			t.Errorf("expires %d: got %v, want never", expires, got)
		}
	}
}
