package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// What the commands ask the service, and what they print of its answer.
func TestLimit(t *testing.T) {
	env, out, nc := busEnv(t)
	bucket := limitBucket{Policy: "login", Key: "ann"}
	tests := []struct {
		command interface {
			Run(context.Context, *Env) error
		}
		endpoint, want, reply, printed string
		code                           int
	}{
		{&LimitPeekCmd{bucket, 1}, "peek", `{"policy":"login","key":"ann","cost":1}`, `{"allowed":true,"remaining":5}`, "{\"allowed\":true,\"remaining\":5}\n", 0},
		{&LimitConsumeCmd{bucket, 0}, "consume", `{"policy":"login","key":"ann","cost":0}`, `{"allowed":true}`, "{\"allowed\":true}\n", 0},
		{&LimitConsumeCmd{bucket, 3}, "consume", `{"policy":"login","key":"ann","cost":3}`, `{"allowed":false,"retryAfterMs":null}`, "{\"allowed\":false,\"retryAfterMs\":null}\n", exitFailure},
		{&LimitRefundCmd{bucket, 2, "o1"}, "refund", `{"policy":"login","key":"ann","cost":2,"id":"o1"}`, `{"remaining":4}`, "{\"remaining\":4}\n", 0},
		{&LimitResetCmd{bucket}, "reset", `{"policy":"login","key":"ann"}`, `{}`, "", 0},
		{&LimitBanCmd{bucket, 0}, "ban", `{"policy":"login","key":"ann"}`, `{}`, "", 0},
		{&LimitBanCmd{bucket, time.Hour}, "ban", `{"policy":"login","key":"ann","duration":"1h0m0s"}`, `{}`, "", 0},
		{&LimitUnbanCmd{bucket}, "unban", `{"policy":"login","key":"ann"}`, `{}`, "", 0},
		{&LimitPolicyCmd{"login"}, "policy", `{"policy":"login"}`, `{"name":"login"}`, "{\"name\":\"login\"}\n", 0},
		{&LimitClearCmd{Policy: "login"}, "clear", `{"policy":"login"}`, `{"count":2}`, "{\"count\":2}\n", 0},
		{&LimitClearCmd{All: true}, "clear", `{}`, `{"count":0}`, "{\"count\":0}\n", 0},
	}
	for _, test := range tests {
		asked := make(chan string, 1)
		sub, err := nc.Subscribe("fl.svc.ratelimit."+test.endpoint, func(m *nats.Msg) {
			asked <- string(m.Data)
			_ = m.Respond([]byte(test.reply)) // where it can't be sent, the command fails
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		out.Reset()
		err = test.command.Run(t.Context(), env)
		if out.String() != test.printed || codeOf(err) != test.code {
			t.Errorf("%T %s: got %q %v, want %q and code %d", test.command, test.reply, out.String(), err, test.printed, test.code)
		}
		if got := <-asked; got != test.want {
			t.Errorf("%T: asks %s, want %s", test.command, got, test.want)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLimitThatCannotBeAsked(t *testing.T) {
	env, out, _ := busEnv(t)
	bucket := limitBucket{Policy: "login", Key: "ann"}
	if err := (&LimitPeekCmd{bucket, 1}).Run(t.Context(), env); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("without the service: got %q %v, want UNAVAILABLE", out.String(), err)
	}
	for _, args := range []string{"limit clear", "limit clear login --all", "limit ban login ann --for=-1s", "limit consume login ann --cost=-1", "limit refund login ann", "limit peek login"} {
		var stderr strings.Builder
		if got := run(t.Context(), strings.Fields(args), nil, &stderr, &stderr); got != exitUsage {
			t.Errorf("%s: exit code %d, want %d: %s", args, got, exitUsage, stderr.String())
		}
	}
}
