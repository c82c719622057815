package ratelimit

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// until asks for tokens by a caller who waits until then, and returns the reply.
func (r *rig) until(subject, body string, until time.Time) (reply wire.LimitReply, code string) {
	r.Helper()
	msg, err := r.nc.RequestMsg(&nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{wire.HeaderDeadline: {wire.Deadline(until.UnixMilli())}}}, rigPatience)
	if err != nil {
		r.Fatal(err)
	}
	if code = msg.Header.Get("Nats-Service-Error-Code"); code == "" {
		if err := reply.ParseJSON(msg.Data); err != nil {
			r.Fatalf("%s: %v", msg.Data, err)
		}
	}
	return reply, code
}

// A key that is slow, or can't be read, keeps from the others of a batch neither
// what they were given nor that they were refused.
func TestOneKeyFailsByItself(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1)
	one := r.replicas[0]
	if _, err := one.store.Put(t.Context(), kv.Write{Key: "v1.broken", Value: []byte("[]"), TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	stuck, err := one.keeper.hold(t.Context(), "stuck")
	if err != nil {
		t.Fatal(err)
	}
	held := true
	defer func() {
		if held {
			one.keeper.leave(stuck)
		}
	}()
	for _, subject := range []string{"fl.svc.ratelimit.consume", "fl.svc.ratelimit.consume." + one.id} {
		end := time.Now().Add(clocksDiffer + time.Second)
		reply, code := r.until(subject, `{"batch":[{"policy":"five","key":"stuck"},{"policy":"ten","key":"free","cost":3},{"policy":"five","key":"broken"},{"policy":"five","key":"stuck","cost":0},{"policy":"five","key":"free","cost":6}]}`, end)
		if !time.Now().Before(end) {
			t.Errorf("%s: answered when nobody waited any more", subject)
		}
		if code != "" || len(reply.Batch) != 5 || reply.Allowed {
			t.Fatalf("%s: got %q %+v, want five verdicts", subject, code, reply)
		}
		for i, want := range []wire.LimitVerdict{{Code: wire.DeadlineExceeded}, {Allowed: true, Granted: 1, Limit: 10}, {Code: wire.Internal}, {Code: wire.DeadlineExceeded}, {RetryAfterMs: -1, Limit: 5}} {
			v := reply.Batch[i]
			got := wire.LimitVerdict{Code: v.Code, Allowed: v.Allowed, Granted: v.Granted, Limit: v.Limit, RetryAfterMs: v.RetryAfterMs}
			if got != want {
				t.Errorf("%s: item %d: got %+v, want %+v", subject, i, v, want)
			}
		}
	}
	r.wants("peek", `{"policy":"ten","key":"free"}`, `{"remaining":4}`)
	// Where nothing is decided it is an error, that of who may have taken.
	if _, code := r.until("fl.svc.ratelimit.consume", `{"batch":[{"policy":"five","key":"broken"},{"policy":"five","key":"stuck"}]}`, time.Now()); code != string(wire.DeadlineExceeded) {
		t.Errorf("nothing decided: got %q, want %s", code, wire.DeadlineExceeded)
	}
	if a := r.ask("consume", `{"batch":[{"policy":"five","key":"broken"},{"policy":"five","key":"broken","cost":0}]}`); a.code != string(wire.Internal) {
		t.Errorf("nothing decided: got %q %s, want %s", a.code, a.text, wire.Internal)
	}
	held = false
	one.keeper.leave(stuck)
	// Nobody was charged who was told that he might be: who waited had given up.
	r.wants("consume", `{"policy":"five","key":"stuck"}`, `{"allowed":true,"remaining":4}`)
}

// A caller whose clock is behind that of the replica's host is not too late.
func TestClocksOfHostsDiffer(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1)
	for _, endpoint := range []string{"consume", "consume." + r.replicas[0].id, "peek"} {
		// A caller on a loaded machine: one in a few has to be answered.
		answered := 0
		for i := range 20 {
			if _, code := r.until("fl.svc.ratelimit."+endpoint, fmt.Sprintf(`{"policy":"large","key":"%s.%d"}`, endpoint, i), time.Now().Add(-time.Second)); code == "" {
				answered++
			}
		}
		if answered == 0 {
			t.Errorf("%s: all of 20 were too late", endpoint)
		}
	}
}
