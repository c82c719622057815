package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// promptly bounds what is to happen in less than 100 ms where the machine has
// nothing else to do; the deadlines that must not be waited for are far behind.
const promptly = 5 * time.Second

// backend is a worker in Go on the stack.
func (s *stack) backend() *fairlead.Fairlead {
	s.t.Helper()
	f := fairlead.New(s.worker(), fairlead.Options{Timeout: patience, Log: slog.New(slog.DiscardHandler)})
	s.t.Cleanup(f.Close)
	return f
}

func handle[In, Out any](t *testing.T, f *fairlead.Fairlead, method string, fn func(context.Context, *fairlead.Call, In) (Out, error)) *fairlead.Handler {
	t.Helper()
	h, err := fairlead.Handle(f, method, fn, fairlead.HandleOptions{})
	must(t, err)
	return h
}

type orderIn struct {
	Item  string `json:"item"`
	Count int    `json:"count"`
}

func TestAGoWorkerAnswersCalls(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	create := unique("orders.create")
	f := s.backend()
	calls := make(chan *fairlead.Call, 10)
	handle(t, f, create, func(ctx context.Context, c *fairlead.Call, in orderIn) (map[string]any, error) {
		calls <- c
		if in.Item == "none" {
			return nil, wire.Errorf(wire.NotFound, "no such item").With("item", in.Item)
		}
		if in.Item == "secret" {
			return nil, errors.New("the password is tea")
		}
		for i := range in.Count {
			if err := c.Progress(map[string]int{"packed": i + 1}); err != nil {
				return nil, err
			}
		}
		deadline, _ := ctx.Deadline()
		return map[string]any{"for": c.User, "left": time.Until(deadline).Milliseconds()}, nil
	})
	for i := range 2 {
		ann := dial(t, s.url(i), client.Options{Token: token("ann", map[string]any{"attributes": map[string]string{"role": "admin"}})})
		var progress []string
		answer, err := ann.Call(within(t), create, orderIn{"tea", 3}, client.CallOptions{
			Timeout: 50 * time.Second, OnProgress: func(p json.RawMessage) { progress = append(progress, string(p)) },
		})
		must(t, err)
		if want := []string{`{"packed":1}`, `{"packed":2}`, `{"packed":3}`}; !slices.Equal(progress, want) {
			t.Errorf("progress: got %v, want %v", progress, want)
		}
		var got struct {
			For  string
			Left int64
		}
		must(t, json.Unmarshal(answer.Data, &got))
		if got.For != "ann" || got.Left < 50_000-patience.Milliseconds() || got.Left > 50_000 {
			t.Errorf("answered %s, want one for ann with nearly 50 s left", answer.Data)
		}
		c := receive(t, calls)
		if c.Conn != ann.Welcome().Conn || c.Attributes["role"] != "admin" {
			t.Errorf("the call was of %q with %v, want %q, an admin", c.Conn, c.Attributes, ann.Welcome().Conn)
		}
		for _, test := range []struct {
			in, text string
			code     wire.Code
		}{
			{`{"item":"none"}`, "no such item", wire.NotFound},
			{`{"item":"secret"}`, "internal error", wire.Internal},
			{`{"count":"two"}`, "count: can't be a JSON string", wire.InvalidArgument},
		} {
			_, err := ann.Call(within(t), create, json.RawMessage(test.in), client.CallOptions{})
			var e *wire.Error
			if !errors.As(err, &e) || e.Code != test.code || e.Message != test.text {
				t.Errorf("%s: got %v, want %s: %s", test.in, err, test.code, test.text)
			}
			if test.code == wire.NotFound && e.Details["item"] != "none" {
				t.Errorf("the error's details are %v, want the worker's", e.Details)
			}
		}
		for range 2 { // of the two that reached it
			receive(t, calls)
		}
	}
}

// waiting is a method that waits for the end of its context.
func waiting(t *testing.T, f *fairlead.Fairlead, method string) (began chan string, ended chan time.Time) {
	t.Helper()
	began, ended = make(chan string, 100), make(chan time.Time, 100)
	handle(t, f, method, func(ctx context.Context, c *fairlead.Call, _ any) (any, error) {
		began <- c.Conn
		<-ctx.Done()
		ended <- time.Now()
		if !errors.Is(context.Cause(ctx), wire.ErrCancelled) {
			return nil, fmt.Errorf("the context ended with %w", context.Cause(ctx))
		}
		return nil, ctx.Err()
	})
	return began, ended
}

// The client's cancel frame, and its leaving, end the handler's context long
// before the deadline.
func TestCancelReachesTheWorker(t *testing.T) {
	t.Parallel()
	s := openStack(t, 1)
	wait := unique("wait")
	f := s.backend()
	began, ended := waiting(t, f, wait)
	const deadline = time.Minute
	prompt := func(what string, from time.Time) {
		t.Helper()
		took := receive(t, ended).Sub(from)
		if took > promptly {
			t.Errorf("%s reached the worker after %s, want %s", what, took, promptly)
		}
		t.Logf("%s reached the worker after %s", what, took)
	}

	ann := s.as(0, "ann")
	ctx, cancel := context.WithCancel(within(t))
	failed := make(chan error, 1)
	go func() {
		_, err := ann.Call(ctx, wait, 1, client.CallOptions{Timeout: deadline})
		failed <- err
	}()
	receive(t, began)
	at := time.Now()
	cancel()
	prompt("cancel", at)
	if err := receive(t, failed); wire.CodeOf(err) != wire.Cancelled {
		t.Errorf("the call: %v, want CANCELLED", err)
	}

	// A connection's end cancels all of its calls, and no other's.
	bob := s.as(0, "bob")
	for _, c := range []*client.Client{ann, bob, bob} {
		go func() {
			_, err := c.Call(context.Background(), wait, 1, client.CallOptions{Timeout: deadline})
			failed <- err
		}()
		receive(t, began)
	}
	at = time.Now()
	bob.Abort()
	for range 2 {
		prompt("the lost connection", at)
		receive(t, failed)
	}
	at = time.Now()
	ann.Close(1000)
	prompt("the clean close", at)
	receive(t, failed)
}

// The deadline is the client's, else the rule's, and ends both sides.
func TestTheDeadlineIsTheCallersOrTheRules(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, `
topics: [{match: ">"}]
calls: [{match: ">", allow: user, timeout: 700ms}]
`))
	f := s.backend()
	left := make(chan time.Duration, 10)
	handle(t, f, "wait", func(ctx context.Context, _ *fairlead.Call, _ any) (any, error) {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ann := s.as(0, "ann")
	for asked, want := range map[time.Duration]time.Duration{0: 700 * time.Millisecond, 1500 * time.Millisecond: 1500 * time.Millisecond} {
		began := time.Now()
		_, err := ann.Call(within(t), "wait", 1, client.CallOptions{Timeout: asked})
		if wire.CodeOf(err) != wire.DeadlineExceeded {
			t.Errorf("timeout %s: %v, want DEADLINE_EXCEEDED", asked, err)
		}
		if took := time.Since(began); took < want-50*time.Millisecond {
			t.Errorf("timeout %s: the call ended after %s, want %s", asked, took, want)
		}
		if got := receive(t, left); got > want || got < want-promptly {
			t.Errorf("timeout %s: the worker had %s, want nearly %s", asked, got, want)
		}
	}
}

// Two workers of a method, one of which drains while calls come: each call is
// answered once.
func TestAWorkerThatDrainsLosesNoCall(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	old, young := s.backend(), s.backend()
	var worked atomic.Int64
	half := make(chan struct{})
	const calls = 300
	work := func(ctx context.Context, _ *fairlead.Call, n int) (int, error) {
		if worked.Add(1) == calls/4 {
			close(half)
		}
		select {
		case <-time.After(5 * time.Millisecond): // the work
		case <-ctx.Done():
		}
		return n, nil
	}
	method := unique("work")
	handle(t, old, method, work)
	handle(t, young, method, work)
	users := []*client.Client{s.as(0, "ann"), s.as(1, "bob")}
	outcome := make(chan error, calls)
	for n := range calls {
		go func() {
			answer, err := users[n%2].Call(within(t), method, n, client.CallOptions{Timeout: 50 * time.Second})
			if err == nil && string(answer.Data) != fmt.Sprint(n) {
				err = fmt.Errorf("call %d was answered %s", n, answer.Data)
			}
			outcome <- err
		}()
	}
	receive(t, half)
	must(t, old.Drain(within(t)))
	for range calls {
		must(t, receive(t, outcome))
	}
	if got := worked.Load(); got != calls {
		t.Errorf("%d calls were worked on, want %d", got, calls)
	}
}

// A Go worker reaches users by name and by attribute, asks them, sees who is
// there, and does what operators do.
func TestAGoWorkerReachesUsers(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	announcements := unique("announcements")
	if !existing() {
		startPresence(t, s.nats)
	}
	f := fairlead.New(s.operator(), fairlead.Options{Timeout: patience, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(f.Close)
	admin := map[string]any{"attributes": map[string]string{"role": "admin"}}
	messages := make(chan string, 100)
	var all []*client.Client
	for i, who := range []string{"ann", "ann", "bob"} {
		claims := admin
		if who == "bob" {
			claims = nil
		}
		c := dial(t, s.url(i), client.Options{Token: token(who, claims)})
		name := fmt.Sprint(who, i)
		c.Inbox(func(m client.Message) { messages <- name + " " + m.Event + " " + string(m.Data) })
		c.Serve("who", func(context.Context, client.Request) (any, error) { return name, nil })
		all = append(all, c)
	}
	bob := all[2]

	eventually(t, "ann has two connections", func() (any, bool) {
		connections, err := f.Presence().Lookup(within(t), "ann")
		return fmt.Sprint(connections, err), len(connections) == 2
	})
	online, err := f.Presence().Online(within(t), "ann", "cyd")
	if err != nil || !online["ann"] || online["cyd"] {
		t.Errorf("online: %v, %v, want ann alone", online, err)
	}
	n, err := f.Match(within(t), map[string]string{"role": "admin"}, "news", 1, fairlead.MatchOptions{Gateways: s.size(), Window: patience})
	if n != 2 || err != nil {
		t.Errorf("admins reached: %d, %v, want 2", n, err)
	}
	got := []string{receive(t, messages), receive(t, messages)}
	slices.Sort(got)
	if want := []string{"ann0 news 1", "ann1 news 1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}

	answer, err := f.Ask(within(t), "ann", "who", nil, fairlead.AskOptions{Conn: all[0].Welcome().Conn})
	if err != nil || string(answer) != `"ann0"` {
		t.Errorf("ann's first connection says %s, %v", answer, err)
	}
	if _, err = f.Ask(within(t), "cyd", "who", nil, fairlead.AskOptions{}); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("asked cyd, who is not there: %v, want NOT_FOUND", err)
	}

	if n, err := f.OfConn(bob.Welcome().Conn).Subscribe(within(t), announcements); n != 1 || err != nil {
		t.Errorf("bob subscribed: %d, %v, want 1", n, err)
	}
	heard := make(chan string, 10)
	bob.OnMessage(func(m client.Message) { heard <- m.Topic + " " + string(m.Data) })
	must(t, f.Publish(within(t), announcements, "", 2, fairlead.PublishOptions{}))
	if got := receive(t, heard); got != announcements+" 2" {
		t.Errorf("bob got %s", got)
	}
	if n, err := f.OfUser("bob").Disconnect(within(t), 0, "bye"); n != 1 || err != nil {
		t.Errorf("bob disconnected: %d, %v, want 1", n, err)
	}
	receive(t, bob.Done())
	if e := bob.CloseError(); e == nil || e.Code != 4403 {
		t.Errorf("bob was closed with %v, want 4403", e)
	}
}

// What a Go worker stores is stored once per key, delivered, and there to read.
func TestAGoWorkerStoresAndReads(t *testing.T) {
	t.Parallel()
	s := anyReplayed(t, 100, 1)
	lobby := unique("chat")
	plain := unique("plain")
	f := s.backend()
	room, err := s.as(0, "ann").Subscribe(within(t), lobby, client.SubscribeOptions{})
	must(t, err)
	record := fairlead.Record{Topic: lobby, Event: "say", Data: 1, Key: "k"}
	first, err := f.Store(within(t), record)
	must(t, err)
	again, err := f.Store(within(t), record)
	if err != nil || first.Duplicate || !again.Duplicate || again.Seq != first.Seq {
		t.Errorf("stored %+v, then %+v, %v; want a duplicate", first, again, err)
	}
	results, err := f.StoreBatch(within(t), []fairlead.Record{{Topic: lobby, Data: 2}, {Topic: lobby, Data: 3}}, true)
	must(t, err)
	if len(results) != 2 || results[0].Err != nil || results[1].Seq != results[0].Seq+1 {
		t.Errorf("the batch was stored as %+v", results)
	}
	for n := range 3 {
		m, err := room.Next(within(t))
		must(t, err)
		if string(m.Data) != fmt.Sprint(n+1) {
			t.Errorf("ann got %s, want %d", m.Data, n+1)
		}
	}
	page, err := f.History(within(t), lobby, fairlead.HistoryOptions{Limit: 1})
	if err != nil || len(page.Messages) != 1 || string(page.Messages[0].Payload) != "1" || page.Messages[0].Event != "say" || !page.More {
		t.Fatalf("the first page is %+v, %v", page, err)
	}
	page, err = f.History(within(t), lobby, fairlead.HistoryOptions{After: page.Messages[0].Position})
	if err != nil || len(page.Messages) != 2 || page.More || page.Truncated {
		t.Errorf("the second page is %+v, %v", page, err)
	}
	if _, err = f.Store(within(t), fairlead.Record{Topic: plain, Data: 1}); wire.CodeOf(err) != wire.FailedPrecondition {
		t.Errorf("stored on a topic without replay: %v, want FAILED_PRECONDITION", err)
	}
}

// What a Go worker publishes and sends arrives, and what clients publish
// reaches it.
func TestAGoWorkerPublishesAndHears(t *testing.T) {
	t.Parallel()
	s := openStack(t, 2)
	lobby := unique("chat")
	f := s.backend()
	heard := make(chan *fairlead.Message, 100)
	_, err := f.Subscribe(lent("chat.>"), func(_ context.Context, m *fairlead.Message) {
		if m.User != "" {
			heard <- m
		}
	}, fairlead.SubscribeOptions{})
	must(t, err)
	opened := make(chan fairlead.Lifecycle, 100)
	_, err = f.Events("connection.opened", func(_ context.Context, e fairlead.Lifecycle) { opened <- e }, fairlead.SubscribeOptions{})
	must(t, err)

	ann := s.as(0, "ann")
	direct := make(chan client.Message, 10)
	ann.Inbox(func(m client.Message) { direct <- m })
	e := receive(t, opened)
	for existing() && e.User != "ann" { // others may come too
		e = receive(t, opened)
	}
	if e.User != "ann" || e.Conn != ann.Welcome().Conn {
		t.Errorf("opened: %+v, want ann's connection", e)
	}
	bob := s.as(1, "bob")
	room, err := bob.Subscribe(within(t), lobby, client.SubscribeOptions{})
	must(t, err)
	_, err = ann.Publish(within(t), lobby, "say", "hi", client.PublishOptions{})
	must(t, err)
	if m := receive(t, heard); m.Topic != lobby || m.Event != "say" || m.User != "ann" || m.Conn != ann.Welcome().Conn || string(m.Data) != `"hi"` {
		t.Errorf("the worker heard %+v", m)
	}
	must(t, f.Publish(within(t), lobby, "notice", "for nobody", fairlead.PublishOptions{Exclude: bob.Welcome().Conn}))
	must(t, f.Publish(within(t), lobby, "notice", "for all", fairlead.PublishOptions{}))
	for _, want := range []string{`"hi"`, `"for all"`} {
		m, err := room.Next(within(t))
		must(t, err)
		if string(m.Data) != want {
			t.Errorf("bob got %s, want %s", m.Data, want)
		}
	}
	whispered := func(want string) {
		t.Helper()
		if m := receive(t, direct); string(m.Data) != want || m.Event != "whisper" {
			t.Errorf("ann got %s %s, want whisper %s", m.Event, m.Data, want)
		}
	}
	must(t, f.Send(within(t), "ann", "whisper", "psst", fairlead.SendOptions{Topic: lobby}))
	whispered(`"psst"`)
	must(t, f.SendConn(within(t), ann.Welcome().Conn, "whisper", "psst again", fairlead.SendOptions{}))
	whispered(`"psst again"`)
	ann.Serve("confirm", func(_ context.Context, r client.Request) (any, error) {
		if string(r.Data) != `"sure?"` {
			return nil, wire.Errorf(wire.FailedPrecondition, "not now")
		}
		return map[string]bool{"yes": true}, nil
	})
	answer, err := f.AskConn(within(t), ann.Welcome().Conn, "confirm", "sure?")
	if err != nil || string(answer) != `{"yes":true}` {
		t.Errorf("asked ann: %s, %v", answer, err)
	}
	_, err = f.AskConn(within(t), ann.Welcome().Conn, "confirm", "really?")
	if e := wire.AsError(err); e.Code != wire.FailedPrecondition || e.Message != "not now" {
		t.Errorf("asked ann what she refuses: %v", err)
	}
	if _, err = f.AskConn(within(t), "nobody", "confirm", 1); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("asked a connection that is not there: %v, want NOT_FOUND", err)
	}
}
