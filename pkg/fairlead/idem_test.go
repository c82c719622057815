package fairlead_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestOnce(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	n := 0
	acquired := r.serve("fl.svc.tasks.idem.acquire", func(msg *nats.Msg) *nats.Msg {
		switch n++; n {
		case 1, 4, 5, 6:
			return body(`{"state":"acquired","token":"tok"}`)(msg)
		case 2:
			return body(`{"state":"pending","retryAfterMs":1}`)(msg)
		case 7:
			return refusal("FAILED_PRECONDITION", "another request", `{}`)(msg)
		}
		return body(`{"state":"done","result":{"item":"tea","count":1}}`)(msg)
	})
	tries := 0
	committed := r.serve("fl.svc.tasks.idem.commit", func(msg *nats.Msg) *nats.Msg {
		switch tries++; tries {
		case 1:
			return refusal("UNAVAILABLE", "postgres is away", `{}`)(msg)
		case 3:
			return refusal("FAILED_PRECONDITION", "late", `{}`)(msg)
		}
		return acknowledged(msg)
	})
	aborted := r.serve("fl.svc.tasks.idem.abort", acknowledged)
	did := 0
	once := func(o fairlead.OnceOptions, fail error) (order, error) {
		return fairlead.Once(t.Context(), r.f, "order-1", func(ctx context.Context) (order, error) {
			did++
			deadline, _ := ctx.Deadline()
			if left := time.Until(deadline); left > 54*time.Second || left < 40*time.Second {
				t.Errorf("the work has %v, want nine tenths of a minute", left)
			}
			return order{"tea", 1}, fail
		}, o)
	}
	got, err := once(fairlead.OnceOptions{TTL: time.Hour, Hash: "h"}, nil)
	if err != nil || got != (order{"tea", 1}) || did != 1 {
		t.Errorf("first: got %+v, %v, done %d times", got, err, did)
	}
	if got, want := anyID.ReplaceAllString(string(receive(t, acquired).Data), ""), `{"key":"order-1","acquireTTL":"1m0s","ttl":"1h0m0s","hash":"h"}`; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	for range 2 {
		if got, want := string(receive(t, committed).Data), `{"key":"order-1","token":"tok","result":{"item":"tea","count":1}}`; got != want {
			t.Errorf("committed %s, want %s", got, want)
		}
	}
	if got, err := once(fairlead.OnceOptions{}, nil); err != nil || got != (order{"tea", 1}) || did != 1 {
		t.Errorf("second: got %+v, %v, done %d times, want what was done", got, err, did)
	}
	broken := errors.New("broken")
	if _, err := once(fairlead.OnceOptions{}, broken); err != broken {
		t.Errorf("third: %v, want the work's own error", err)
	}
	var back wire.IdemAbort
	must(t, json.Unmarshal(receive(t, aborted).Data, &back))
	if back != (wire.IdemAbort{Key: "order-1", Token: "tok"}) {
		t.Errorf("aborted %+v", back)
	}
	if got, err := once(fairlead.OnceOptions{}, nil); !errors.Is(err, fairlead.ErrSlotLost) || got.Item != "tea" {
		t.Errorf("fourth: got %+v, %v, want the result beside that it was late", got, err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic was swallowed")
			}
		}()
		_, _ = fairlead.Once(t.Context(), r.f, "k", func(context.Context) (int, error) { panic("at the work") }, fairlead.OnceOptions{})
	}()
	receive(t, aborted)
	_, err = once(fairlead.OnceOptions{Hash: "other"}, nil)
	coded(t, err, wire.FailedPrecondition)
	if len(aborted) > 0 {
		t.Error("what was refused, or may be committed, was given back")
	}
	r.serve("fl.svc.tasks.idem.purge", body(`{"count":1}`))
	if was, err := r.f.ForgetOnce(t.Context(), "k"); !was || err != nil {
		t.Errorf("forgot %v, %v", was, err)
	}
}

// An answer that is lost is asked for again, as the same request: the key is not
// pending for nobody.
func TestOnceWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	first := ""
	r.serve("fl.svc.tasks.idem.acquire", func(msg *nats.Msg) *nats.Msg {
		var req wire.IdemAcquire
		must(t, json.Unmarshal(msg.Data, &req))
		switch {
		case first == "":
			first = req.ID
			return refusal("UNAVAILABLE", "postgres does not answer", `{"details":{"outcome":"unknown"}}`)(msg)
		case req.ID == first:
			return body(`{"state":"acquired","token":"tok"}`)(msg)
		}
		return body(`{"state":"pending","retryAfterMs":60000}`)(msg)
	})
	r.serve("fl.svc.tasks.idem.commit", acknowledged)
	got, err := fairlead.Once(t.Context(), r.f, "k", func(context.Context) (int, error) { return 7, nil }, fairlead.OnceOptions{})
	if err != nil || got != 7 || first == "" {
		t.Errorf("got %d, %v", got, err)
	}
}
