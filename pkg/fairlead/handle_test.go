package fairlead_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestHandleDecodesAndAnswers(t *testing.T) {
	r := start(t, fairlead.Options{})
	calls := make(chan *fairlead.Call, 10)
	handle(r, "orders.*", fairlead.HandleOptions{}, func(_ context.Context, c *fairlead.Call, in order) (map[string]string, error) {
		calls <- c
		return map[string]string{"got": fmt.Sprintf("%d <%s>", in.Count, in.Item)}, nil
	})
	replies := r.call("orders.create", `{"item":"tea","count":2,"more":1}`, nats.Header{"fl-attributes": {`{"role":"admin"}`}})
	if got, want := string(r.next(replies).Data), `{"got":"2 <tea>"}`; got != want {
		t.Errorf("answered %s, want %s", got, want)
	}
	c := receive(t, calls)
	if c.Method != "orders.create" || c.User != "ann" || c.Conn != "c1" || c.Attributes["role"] != "admin" {
		t.Errorf("the handler got %+v", c)
	}
	for data, field := range map[string]string{`{"count":"two"}`: "count", `{"item":`: "data", `[]`: "data", "{\"item\":\"\xff\"}": "data"} {
		e := failure(t, r.next(r.call("orders.create", data, nil)))
		if e.Code != wire.InvalidArgument || !strings.HasPrefix(e.Message, field+": ") {
			t.Errorf("%s: got %v, want INVALID_ARGUMENT of %s", data, e, field)
		}
	}
	if got, want := string(r.next(r.call("orders.create", ``, nil)).Data), `{"got":"0 <>"}`; got != want {
		t.Errorf("no data: answered %s, want %s", got, want)
	}
	if len(calls) != 1 {
		t.Errorf("the handler ran %d times more, want once: not for data that does not fit", len(calls))
	}
}

func TestHandlePassesRawData(t *testing.T) {
	r := start(t, fairlead.Options{})
	handle(r, "echo", fairlead.HandleOptions{}, func(_ context.Context, _ *fairlead.Call, in raw) (raw, error) { return in, nil })
	handle(r, "nothing", fairlead.HandleOptions{}, func(context.Context, *fairlead.Call, raw) (any, error) { return nil, nil })
	if got, want := string(r.next(r.call("echo", `{"a" : 1.50}`, nil)).Data), `{"a" : 1.50}`; got != want {
		t.Errorf("answered %s, want %s", got, want)
	}
	if got, want := string(r.next(r.call("nothing", `1`, nil)).Data), `null`; got != want {
		t.Errorf("answered %s, want %s", got, want)
	}
}

func TestHandleErrors(t *testing.T) {
	r := start(t, fairlead.Options{})
	big := strings.Repeat("x", int(r.nc.MaxPayload()))
	handle(r, "fail", fairlead.HandleOptions{}, func(_ context.Context, _ *fairlead.Call, how string) (any, error) {
		switch how {
		case "coded":
			return nil, fmt.Errorf("wrapped: %w", wire.Errorf(wire.NotFound, "no such item").With("item", "tea"))
		case "retry":
			return nil, &wire.Error{Code: wire.ResourceExhausted, Message: "sold out", RetryAfter: 2 * time.Second}
		case "plain":
			return nil, errors.New("the password is tea")
		case "panic":
			panic("the password is coffee")
		case "encode":
			return func() {}, nil
		case "big":
			return big, nil
		}
		return "fine", nil
	})
	tests := []struct {
		how, text string
		code      wire.Code
		logged    string
	}{
		{"coded", "no such item", wire.NotFound, ""},
		{"retry", "sold out", wire.ResourceExhausted, ""},
		{"plain", "internal error", wire.Internal, "the password is tea"},
		{"panic", "internal error", wire.Internal, "the password is coffee"},
		{"encode", "internal error", wire.Internal, "func()"},
		{"big", "the answer is larger than NATS takes", wire.ResourceExhausted, ""},
	}
	for _, test := range tests {
		msg := r.next(r.call("fail", `"`+test.how+`"`, nil))
		if e := failure(t, msg); e.Code != test.code || e.Message != test.text {
			t.Errorf("%s: got %v, want %s: %s", test.how, e, test.code, test.text)
		}
		if test.how == "coded" && string(msg.Data) != `{"details":{"item":"tea"}}` {
			t.Errorf("the body of the error is %s", msg.Data)
		}
		if e := failure(t, msg); test.how == "retry" && e.RetryAfter != 2*time.Second {
			t.Errorf("retryAfterMs of %s, want 2s", e.RetryAfter)
		}
		if !strings.Contains(r.log.String(), test.logged) {
			t.Errorf("%s: %q is not in the log", test.how, test.logged)
		}
	}
	if got := string(r.next(r.call("fail", `""`, nil)).Data); got != `"fine"` {
		t.Errorf("the handler after a panic answered %s", got)
	}
}

func TestProgressComesBeforeTheAnswer(t *testing.T) {
	r := start(t, fairlead.Options{})
	calls := make(chan *fairlead.Call, 1)
	handle(r, "report", fairlead.HandleOptions{}, func(_ context.Context, c *fairlead.Call, _ raw) (string, error) {
		calls <- c
		for i := range 3 {
			if err := c.Progress(i); err != nil {
				return "", err
			}
		}
		return "done", nil
	})
	replies := r.call("report", `null`, nil)
	for i := range 3 {
		if msg := r.next(replies); string(msg.Data) != fmt.Sprint(i) || msg.Header.Get("Fl-Progress") != "1" {
			t.Errorf("got %s with %v, want the progress %d", msg.Data, msg.Header, i)
		}
	}
	if msg := r.next(replies); string(msg.Data) != `"done"` || msg.Header.Get("Fl-Progress") != "" {
		t.Errorf("got %s with %v, want the answer", msg.Data, msg.Header)
	}
	coded(t, receive(t, calls).Progress(4), wire.FailedPrecondition)
}

// ended is how a handler's context ended.
type ended struct {
	err, cause, progress error
	deadline             time.Time
}

// untilEnd serves a method that waits for the end of its context.
func untilEnd(r *rig, method string, o fairlead.HandleOptions) (started chan string, end chan ended) {
	started, end = make(chan string, 100), make(chan ended, 100)
	handle(r, method, o, func(ctx context.Context, c *fairlead.Call, in string) (any, error) {
		started <- in
		<-ctx.Done()
		deadline, _ := ctx.Deadline()
		end <- ended{ctx.Err(), context.Cause(ctx), c.Progress(1), deadline}
		return nil, ctx.Err()
	})
	return started, end
}

func TestTheContextEndsWithTheCancelMessage(t *testing.T) {
	r := start(t, fairlead.Options{})
	started, end := untilEnd(r, "wait", fairlead.HandleOptions{})
	replies := r.call("wait", `"a"`, nats.Header{"Fl-Cancel": {"fl.cancel.one"}})
	receive(t, started)
	must(t, r.other.Publish("fl.cancel.other", nil))
	must(t, r.other.Publish("fl.cancel.one", nil))
	got := receive(t, end)
	if got.err != context.Canceled || !errors.Is(got.cause, wire.ErrCancelled) {
		t.Errorf("the context ended with %v, cause %v", got.err, got.cause)
	}
	coded(t, got.progress, wire.Cancelled)
	// The next call tells that the first one was not answered: nobody waits.
	handle(r, "next", fairlead.HandleOptions{}, func(context.Context, *fairlead.Call, raw) (int, error) { return 1, nil })
	r.next(r.call("next", `null`, nil))
	if n, _, _ := replies.Pending(); n != 0 {
		t.Errorf("%d replies came to a call that was cancelled", n)
	}
}

// A call that is cancelled while it waits for its turn never begins.
func TestACallThatWaitsCanBeCancelled(t *testing.T) {
	r := start(t, fairlead.Options{})
	started, end := untilEnd(r, "wait", fairlead.HandleOptions{Concurrency: 1})
	r.call("wait", `"first"`, nats.Header{"Fl-Cancel": {"fl.cancel.1"}})
	receive(t, started)
	for i := 2; i < 10; i++ {
		r.call("wait", `"waits"`, nats.Header{"Fl-Cancel": {fmt.Sprint("fl.cancel.", i)}})
	}
	for i := 9; i > 0; i-- {
		must(t, r.other.Publish(fmt.Sprint("fl.cancel.", i), nil))
	}
	receive(t, end)
	r.call("wait", `"last"`, nats.Header{"Fl-Cancel": {"fl.cancel.10"}})
	if got := receive(t, started); got != "last" {
		t.Errorf("%q began, which had been cancelled", got)
	}
	must(t, r.other.Publish("fl.cancel.10", nil))
	receive(t, end)
}

func TestTheContextEndsAtTheDeadline(t *testing.T) {
	r := start(t, fairlead.Options{})
	_, end := untilEnd(r, "wait", fairlead.HandleOptions{})
	told := time.Now().Add(200 * time.Millisecond).Truncate(time.Millisecond)
	replies := r.call("wait", `"a"`, nats.Header{"Fl-Deadline": {wire.Deadline(told.UnixMilli())}})
	got := receive(t, end)
	if got.err != context.DeadlineExceeded || !got.deadline.Equal(told) {
		t.Errorf("the context ended with %v, its deadline %s, want DeadlineExceeded at %s", got.err, got.deadline, told)
	}
	if e := failure(t, r.next(replies)); e.Code != wire.DeadlineExceeded {
		t.Errorf("answered %v, want DEADLINE_EXCEEDED", e)
	}
	// One that is over when it comes is not begun.
	over := r.call("wait", `"b"`, nats.Header{"Fl-Deadline": {wire.Deadline(1)}})
	if e := failure(t, r.next(over)); e.Code != wire.DeadlineExceeded || len(end) != 0 {
		t.Errorf("answered %v, %d handlers ran, want DEADLINE_EXCEEDED and none", e, len(end))
	}
	// Without one the handler's own bound counts.
	_, end = untilEnd(r, "short", fairlead.HandleOptions{Timeout: 50 * time.Millisecond})
	r.call("short", `"c"`, nil)
	if got := receive(t, end); got.err != context.DeadlineExceeded {
		t.Errorf("the context ended with %v, want DeadlineExceeded", got.err)
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	r := start(t, fairlead.Options{})
	var running, most atomic.Int64
	release := make(chan struct{})
	handle(r, "work", fairlead.HandleOptions{Concurrency: 3}, func(ctx context.Context, _ *fairlead.Call, _ raw) (int, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return 1, nil
	})
	var replies []*nats.Subscription
	for range 20 {
		replies = append(replies, r.call("work", `1`, nil))
	}
	eventually(t, "three calls run", func() bool { return running.Load() == 3 })
	close(release)
	for _, s := range replies {
		if got := string(r.next(s).Data); got != "1" {
			t.Errorf("answered %s", got)
		}
	}
	if most.Load() != 3 {
		t.Errorf("%d calls ran at a time, want 3", most.Load())
	}
}

// Calls go to one member of the queue, and to the others once one drains:
// none is lost, none is answered twice.
func TestDrainLosesNoCall(t *testing.T) {
	r := start(t, fairlead.Options{})
	second := fairlead.New(r.connect(), fairlead.Options{})
	defer second.Close()
	const calls = 400
	var begun atomic.Int64
	half := make(chan struct{})
	work := func(ctx context.Context, _ *fairlead.Call, n int) (int, error) {
		if begun.Add(1) == calls/4 {
			close(half)
		}
		select {
		case <-time.After(2 * time.Millisecond): // a call takes a while
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		return n, nil
	}
	first, err := fairlead.Handle(r.f, "work", work, fairlead.HandleOptions{Concurrency: 4})
	must(t, err)
	_, err = fairlead.Handle(second, "work", work, fairlead.HandleOptions{Concurrency: 4})
	must(t, err)

	inbox := r.other.NewInbox()
	replies := r.listen(inbox + ".*")
	drained := make(chan error, 1)
	go func() {
		<-half
		drained <- first.Drain(context.Background())
	}()
	for n := range calls {
		must(t, r.other.PublishMsg(&nats.Msg{Subject: "fl.call.work", Reply: fmt.Sprint(inbox, ".", n), Data: fmt.Append(nil, n), Header: nats.Header{}}))
	}
	must(t, receive(t, drained))
	for range calls {
		msg := r.next(replies)
		if e := wire.ParseErrorHeader(msg.Header, msg.Data); e != nil {
			t.Fatalf("a call was answered %v", e)
		}
		var n int
		must(t, json.Unmarshal(msg.Data, &n))
		if want := fmt.Sprint(inbox, ".", n); msg.Subject != want {
			t.Fatalf("the answer %d came on %s", n, msg.Subject)
		}
	}
	if n, _, _ := replies.Pending(); n != 0 {
		t.Errorf("%d answers too many", n)
	}
	if begun.Load() != calls {
		t.Errorf("%d calls were worked on, want %d", begun.Load(), calls)
	}
	must(t, first.Drain(context.Background())) // again: nothing left to do
}

func TestDrainThatRunsOutOfTimeEndsTheHandlers(t *testing.T) {
	r := start(t, fairlead.Options{})
	started, end := untilEnd(r, "wait", fairlead.HandleOptions{})
	replies := r.call("wait", `"a"`, nil)
	receive(t, started)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.f.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("drain: %v, want context.Canceled", err)
	}
	if len(end) != 1 {
		t.Error("drain did not wait for the handler")
	}
	if e := failure(t, r.next(replies)); e.Code != wire.Unavailable {
		t.Errorf("answered %v, want UNAVAILABLE", e)
	}
	if _, err := fairlead.Handle(r.f, "more", func(context.Context, *fairlead.Call, raw) (int, error) { return 1, nil }, fairlead.HandleOptions{}); !errors.Is(err, fairlead.ErrClosed) {
		t.Errorf("handle behind drain: %v, want ErrClosed", err)
	}
}

// Nothing stays at the server, nor in the worker, of calls and of a worker that
// has gone.
func TestDrainLeavesNothing(t *testing.T) {
	r := start(t, fairlead.Options{})
	before := r.server.Subscriptions()
	handle(r, "a", fairlead.HandleOptions{}, func(context.Context, *fairlead.Call, raw) (int, error) { return 1, nil })
	handle(r, "b", fairlead.HandleOptions{}, func(context.Context, *fairlead.Call, raw) (int, error) { return 1, nil })
	_, err := r.f.Subscribe("chat.>", func(context.Context, *fairlead.Message) {}, fairlead.SubscribeOptions{})
	must(t, err)
	for range 50 {
		s := r.call("a", `1`, nats.Header{"Fl-Cancel": {"fl.cancel.x"}})
		r.next(s)
		must(t, s.Unsubscribe())
	}
	must(t, r.other.FlushTimeout(patience))
	// Two methods, a topic, and the cancellations of all calls.
	if got := r.server.Subscriptions() - before; got != 4 {
		t.Errorf("%d subscriptions more than before, want 4", got)
	}
	must(t, r.f.Drain(context.Background()))
	eventually(t, "no subscription is left", func() bool { return r.server.Subscriptions() == before })
}

// Answering any subject would lend the worker's permissions to the caller.
func TestACallWithAForeignReplySubjectIsDropped(t *testing.T) {
	r := start(t, fairlead.Options{ReplyPrefixes: []string{"rpc.reply"}})
	var ran atomic.Int64
	handle(r, "m", fairlead.HandleOptions{}, func(context.Context, *fairlead.Call, raw) (int, error) { ran.Add(1); return 1, nil })
	bad := r.listen("orders.>")
	for _, reply := range []string{"orders.purge", "rpc.replyx.a", ""} {
		must(t, r.other.PublishMsg(&nats.Msg{Subject: "fl.call.m", Reply: reply}))
	}
	good := r.listen("rpc.reply.>")
	must(t, r.other.PublishMsg(&nats.Msg{Subject: "fl.call.m", Reply: "rpc.reply.a.b"}))
	r.next(good)
	r.next(r.call("m", `1`, nil))
	if n, _, _ := bad.Pending(); n != 0 || ran.Load() != 2 {
		t.Errorf("%d replies to a foreign subject, %d calls ran; want 0 and 2", n, ran.Load())
	}
}

func TestHandleRefusesNamesThatAreNone(t *testing.T) {
	r := start(t, fairlead.Options{})
	fn := func(context.Context, *fairlead.Call, raw) (int, error) { return 1, nil }
	for _, method := range []string{"", "a b", "a..b", "$JS.x"} {
		_, err := fairlead.Handle(r.f, method, fn, fairlead.HandleOptions{})
		coded(t, err, wire.InvalidArgument)
	}
	bad := fairlead.New(r.nc, fairlead.Options{Namespace: "a.b"})
	_, err := fairlead.Handle(bad, "m", fn, fairlead.HandleOptions{})
	coded(t, err, wire.InvalidArgument)
}
