package fairlead_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// What the ratelimit service is asked, and what comes of its answers.
func TestLimits(t *testing.T) {
	r := start(t, fairlead.Options{})
	ctx := t.Context()
	l := r.f.Limits()
	tests := []struct {
		endpoint, want, reply string
		do                    func() string
		got                   string
	}{
		{
			"consume", `{"policy":"login","key":"ann","cost":2}`, `{"allowed":true,"remaining":3,"limit":5,"resetMs":2000}`,
			func() string { return fmt.Sprintln(l.Consume(ctx, "login", "ann", 2)) },
			"{true false false 3 5 0s 2s} <nil>\n",
		}, {
			"consume", `{"policy":"login","key":"ann","cost":0}`, `{"allowed":false,"remaining":0,"limit":5,"resetMs":9000,"retryAfterMs":9000,"banned":true}`,
			func() string { return fmt.Sprintln(l.Consume(ctx, "login", "ann", 0)) },
			"{false true false 0 5 9s 9s} <nil>\n",
		}, {
			"consume", `{"policy":"login","key":"ann","cost":9}`, `{"allowed":false,"remaining":1,"limit":5,"resetMs":0,"retryAfterMs":null}`,
			func() string {
				v, err := l.Consume(ctx, "login", "ann", 9)
				return fmt.Sprintln(v.RetryAfter == wire.Never, v.Allowed, v.Remaining, err)
			},
			"true false 1 <nil>\n",
		}, {
			"consume", `{"policy":"","key":"","takes":[{"policy":"login","key":"ann","cost":1},{"policy":"address","key":"10.0.0.1","cost":0}]}`,
			`{"allowed":false,"remaining":0,"limit":0,"resetMs":0,"retryAfterMs":40,"takes":[{"allowed":true,"remaining":4,"limit":5,"resetMs":0},{"allowed":false,"remaining":0,"limit":9,"resetMs":100,"retryAfterMs":40}]}`,
			func() string {
				return fmt.Sprintln(l.ConsumeAll(ctx, fairlead.Take{Policy: "login", Key: "ann", Cost: 1}, fairlead.Take{Policy: "address", Key: "10.0.0.1"}))
			},
			"{false false false 0 0 40ms 0s} [{true false false 4 5 0s 0s} {false false false 0 9 40ms 100ms}] <nil>\n",
		}, {
			"peek", `{"policy":"login","key":"ann","cost":1}`, `{"allowed":true,"shadowed":true,"remaining":0,"limit":5,"resetMs":7}`,
			func() string { return fmt.Sprintln(l.Peek(ctx, "login", "ann", 1)) },
			"{true false true 0 5 0s 7ms} <nil>\n",
		},
		{"refund", `{"policy":"login","key":"ann","cost":2,"id":"o1"}`, `{"remaining":4}`, func() string { return fmt.Sprintln(l.Refund(ctx, "login", "ann", 2, "o1")) }, "4 <nil>\n"},
		{"reset", `{"policy":"login","key":"ann"}`, `{}`, func() string { return fmt.Sprintln(l.Reset(ctx, "login", "ann")) }, "<nil>\n"},
		{"ban", `{"policy":"login","key":"ann","duration":"1h0m0s"}`, `{}`, func() string { return fmt.Sprintln(l.Ban(ctx, "login", "ann", time.Hour)) }, "<nil>\n"},
		{"ban", `{"policy":"login","key":"bob"}`, `{}`, func() string { return fmt.Sprintln(l.Ban(ctx, "login", "bob", 0)) }, "<nil>\n"},
		{"unban", `{"policy":"login","key":"ann"}`, `{}`, func() string { return fmt.Sprintln(l.Unban(ctx, "login", "ann")) }, "<nil>\n"},
		{
			"policy", `{"policy":"login"}`, `{"name":"login","capacity":5,"refill":1,"per":"1s","block":"0s","key":"user","failMode":"closed","shadow":false,"version":"v"}`,
			func() string { return fmt.Sprintln(l.Policy(ctx, "login")) }, "{login 5 1 1s 0s user closed false v} <nil>\n",
		},
	}
	for _, test := range tests {
		t.Run(test.endpoint, func(t *testing.T) {
			asked := r.serveOnce("fl.svc.ratelimit."+test.endpoint, test.reply)
			if got := test.do(); got != test.got {
				t.Errorf("got %s, want %s", got, test.got)
			}
			if got := string(receive(t, asked).Data); got != test.want {
				t.Errorf("asked %s, want %s", got, test.want)
			}
		})
	}
}

// Each refund without an id is one of its own.
func TestARefundWithoutAnID(t *testing.T) {
	r := start(t, fairlead.Options{})
	asked := r.serve("fl.svc.ratelimit.refund", body(`{"remaining":1}`))
	ids := map[string]bool{}
	for range 2 {
		_, err := r.f.Limits().Refund(t.Context(), "login", "ann", 1, "")
		must(t, err)
		_, id, _ := strings.Cut(string(receive(t, asked).Data), `"id":`)
		ids[id] = true
	}
	if len(ids) != 2 || ids[`""}`] {
		t.Errorf("got the ids %v, want two", ids)
	}
}

func TestLimitsThatCannotBeAsked(t *testing.T) {
	r := start(t, fairlead.Options{Timeout: 300 * time.Millisecond})
	l := r.f.Limits()
	_, err := l.Consume(t.Context(), "login", "ann", 1)
	if e := coded(t, err, wire.Unavailable); e.Details["outcome"] != "none" {
		t.Errorf("without the service: details %v, want outcome none", e.Details)
	}
	_, _, err = l.ConsumeAll(t.Context())
	coded(t, err, wire.InvalidArgument)
	r.listen("fl.svc.ratelimit.peek")
	_, err = l.Peek(t.Context(), "login", "ann", 1)
	coded(t, err, wire.DeadlineExceeded)
	r.serve("fl.svc.ratelimit.policy", refusal("NOT_FOUND", "no such limit", ``))
	_, err = l.Policy(t.Context(), "none")
	coded(t, err, wire.NotFound)
}

// What a handler makes of a refusal is what the client hears.
func TestAVerdictAsAnError(t *testing.T) {
	if err := (fairlead.Verdict{Allowed: true}).Err(); err != nil {
		t.Errorf("allowed: got %v", err)
	}
	for _, v := range []fairlead.Verdict{
		{Limit: 5, RetryAfter: 1500 * time.Millisecond}, {Banned: true, Limit: 5, RetryAfter: time.Hour}, {Limit: 5, Remaining: 3, RetryAfter: wire.Never},
	} {
		e := coded(t, v.Err(), wire.ResourceExhausted)
		if e.RetryAfter != v.RetryAfter || e.Details["capacity"] != v.Limit || e.Details["remaining"] != v.Remaining {
			t.Errorf("%+v: got %+v", v, e)
		}
	}
}

// serveOnce answers the next request on a subject.
func (r *rig) serveOnce(subject, reply string) <-chan *nats.Msg {
	r.t.Helper()
	asked := make(chan *nats.Msg, 1)
	sub, err := r.other.Subscribe(subject, func(msg *nats.Msg) {
		if err := msg.Respond([]byte(reply)); err != nil {
			r.t.Errorf("respond on %s: %v", subject, err)
		}
		asked <- msg
	})
	must(r.t, err)
	must(r.t, sub.AutoUnsubscribe(1))
	must(r.t, r.other.FlushTimeout(patience))
	return asked
}
