package fairlead_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// late answers a subject on Fairlead's side, behind the window in which answers
// are collected.
func (r *rig) late(subject string, fn func(*nats.Msg) *nats.Msg) {
	r.t.Helper()
	_, err := r.other.Subscribe(subject, func(msg *nats.Msg) {
		time.AfterFunc(fairlead.DefaultWindow+200*time.Millisecond, func() {
			_ = msg.RespondMsg(fn(msg)) // where it can't be sent, the test hears nothing
		})
	})
	must(r.t, err)
	must(r.t, r.other.FlushTimeout(patience))
}

// Whoever revokes a stolen token has to know that somebody heard it.
func TestControlThatNobodyHears(t *testing.T) {
	r := start(t, fairlead.Options{Timeout: 700 * time.Millisecond})
	for name, tell := range map[string]func(fairlead.Target) (int, error){
		"revoke":     func(to fairlead.Target) (int, error) { return to.Revoke(t.Context(), time.Time{}, "stolen") },
		"disconnect": func(to fairlead.Target) (int, error) { return to.Disconnect(t.Context(), 0, "") },
		"subscribe":  func(to fairlead.Target) (int, error) { return to.Subscribe(t.Context(), "news") },
	} {
		_, err := tell(r.f.OfUser("nobody"))
		if e := coded(t, err, wire.Unavailable); e.Details["outcome"] != "none" {
			t.Errorf("%s without a gateway: details %v, want outcome none", name, e.Details)
		}
		silent := r.listen("fl.control.user.ann")
		_, err = tell(r.f.OfUser("ann"))
		if e := coded(t, err, wire.DeadlineExceeded); e.Details["outcome"] != "unknown" {
			t.Errorf("%s that no gateway answers: details %v, want outcome unknown", name, e.Details)
		}
		must(t, silent.Unsubscribe())
	}
}

// The first answer counts also where it comes behind the window: storing takes a
// while where JetStream is slow.
func TestTheFirstAnswerToControlIsWaitedFor(t *testing.T) {
	r := start(t, fairlead.Options{Timeout: patience})
	r.late("fl.control.user.ann", body(`{"reached":2}`))
	if n, err := r.f.OfUser("ann").Revoke(t.Context(), time.Time{}, ""); n != 2 || err != nil {
		t.Errorf("reached %d, %v, want 2", n, err)
	}
	r.late("fl.control.user.bob", refusal("UNAVAILABLE", "it can't be stored", ``))
	_, err := r.f.OfUser("bob").Revoke(t.Context(), time.Time{}, "")
	if e := coded(t, err, wire.Unavailable); e.Message != "it can't be stored" {
		t.Errorf("the error says %q, want what the gateway says", e.Message)
	}
	// A refusal is an answer, and what is no JSON is none.
	r.serve("fl.control.user.cyd", refusal("RESOURCE_EXHAUSTED", "too many", ``))
	r.late("fl.control.user.cyd", body(`{"reached":1}`))
	_, err = r.f.OfUser("cyd").Revoke(t.Context(), time.Time{}, "")
	coded(t, err, wire.ResourceExhausted)
	r.serve("fl.control.user.dan", body(`nonsense`))
	r.late("fl.control.user.dan", body(`{"reached":1}`))
	if n, err := r.f.OfUser("dan").Revoke(t.Context(), time.Time{}, ""); n != 1 || err != nil {
		t.Errorf("reached %d, %v, want 1", n, err)
	}
}

// The clock of a gateway is the better one.
func TestRevokeWithoutATimeLeavesItToTheGateways(t *testing.T) {
	r := start(t, fairlead.Options{})
	asked := r.serve("fl.control.user.ann", body(`{"reached":1}`))
	_, err := r.f.OfUser("ann").Revoke(t.Context(), time.Time{}, "stolen")
	must(t, err)
	if got, want := string(receive(t, asked).Data), `{"action":"revoke","reason":"stolen"}`; got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
}

// t.FailNow in a handler ends its goroutine, no more.
func TestAHandlerThatEndsItsGoroutineIsAnswered(t *testing.T) {
	r := start(t, fairlead.Options{})
	handle(r, "exit", fairlead.HandleOptions{Concurrency: 1}, func(_ context.Context, _ *fairlead.Call, exit bool) (int, error) {
		if exit {
			runtime.Goexit()
		}
		return 1, nil
	})
	for range 3 {
		if e := failure(t, r.next(r.call("exit", `true`, nil))); e.Code != wire.Internal || e.Message != "internal error" {
			t.Errorf("answered %v, want INTERNAL", e)
		}
	}
	if got := string(r.next(r.call("exit", `false`, nil)).Data); got != "1" {
		t.Errorf("the next call: answered %s, want 1", got)
	}
	if !strings.Contains(r.log.String(), "ended its goroutine") {
		t.Errorf("the log says %q", r.log.String())
	}
}

// A nil *wire.Error in an error is not nil.
func TestANilErrorWithATypeIsInternal(t *testing.T) {
	r := start(t, fairlead.Options{})
	handle(r, "check", fairlead.HandleOptions{}, func(context.Context, *fairlead.Call, raw) (int, error) {
		var e *wire.Error
		return 7, e
	})
	if e := failure(t, r.next(r.call("check", `1`, nil))); e.Code != wire.Internal {
		t.Errorf("answered %v, want INTERNAL", e)
	}
	if !strings.Contains(r.log.String(), "nil *wire.Error") {
		t.Errorf("the log says %q", r.log.String())
	}
}
