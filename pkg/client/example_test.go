package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairleadtest"
)

// check keeps the examples short.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// Publish and subscribe. The stack stands for a gateway that runs somewhere.
func Example() {
	s, stop := fairleadtest.StartMain()
	defer stop()
	ctx := context.Background()

	c, err := client.Dial(ctx, s.URL(), client.Options{Token: s.Token("ann")})
	check(err)
	defer c.Close(1000)
	sub, err := c.Subscribe(ctx, "chat.lobby", client.SubscribeOptions{})
	check(err)
	_, err = c.Publish(ctx, "chat.lobby", "message", map[string]string{"text": "hi"}, client.PublishOptions{})
	check(err)
	m, err := sub.Next(ctx)
	check(err)
	fmt.Printf("%s: %s\n", m.From, m.Data)
	// Output: ann: {"text":"hi"}
}

// A call to a worker that reports its progress.
func ExampleClient_Call() {
	s, stop := fairleadtest.StartMain()
	defer stop()
	ctx := context.Background()
	nc := s.NATS() // the worker's
	_, err := nc.Subscribe("fl.call.report", func(m *nats.Msg) {
		for _, percent := range []string{"50", "100"} {
			nc.PublishMsg(&nats.Msg{Subject: m.Reply, Data: []byte(percent), Header: nats.Header{"Fl-Progress": {"1"}}})
		}
		m.Respond([]byte(`{"pages":3}`))
	})
	check(err)
	check(nc.Flush())

	c, err := client.Dial(ctx, s.URL(), client.Options{Token: s.Token("ann")})
	check(err)
	defer c.Close(1000)
	answer, err := c.Call(ctx, "report", nil, client.CallOptions{
		OnProgress: func(p json.RawMessage) { fmt.Printf("%s %%\n", p) },
	})
	check(err)
	fmt.Printf("%s\n", answer.Data)
	// Output:
	// 50 %
	// 100 %
	// {"pages":3}
}

// A worker asks this client.
func ExampleClient_Serve() {
	s, stop := fairleadtest.StartMain()
	defer stop()
	ctx := context.Background()

	c, err := client.Dial(ctx, s.URL(), client.Options{Token: s.Token("ann")})
	check(err)
	defer c.Close(1000)
	c.Serve("confirm", func(_ context.Context, r client.Request) (any, error) {
		return map[string]bool{"yes": string(r.Data) == `"Delete it?"`}, nil
	})

	reply, err := s.NATS().RequestMsg(&nats.Msg{
		Subject: "fl.conn." + c.Welcome().Conn, Data: []byte(`"Delete it?"`), Header: nats.Header{"Fl-Event": {"confirm"}},
	}, fairleadtest.Patience)
	check(err)
	fmt.Printf("%s\n", reply.Data)
	// Output: {"yes":true}
}

// What is sent to a user reaches every connection of hers.
func ExampleClient_Inbox() {
	s, stop := fairleadtest.StartMain()
	defer stop()
	ctx := context.Background()

	c, err := client.Dial(ctx, s.URL(), client.Options{Token: s.Token("ann")})
	check(err)
	defer c.Close(1000)
	got := make(chan client.Message)
	c.Inbox(func(m client.Message) { got <- m })

	check(s.NATS().PublishMsg(&nats.Msg{Subject: "fl.user.ann", Data: []byte(`"psst"`), Header: nats.Header{"Fl-Event": {"whisper"}}}))
	m := <-got
	fmt.Printf("%s %s\n", m.Event, m.Data)
	// Output: whisper "psst"
}

// Who is on a topic, kept up to date.
func ExamplePresence() {
	s, stop := fairleadtest.StartMain()
	defer stop()
	ctx := context.Background()

	ann, bob := s.Client("ann"), s.Client("bob")
	view := client.NewPresence()
	_, err := ann.Subscribe(ctx, "chat.lobby", client.SubscribeOptions{Presence: "watch", OnPresence: view.Apply})
	check(err)
	_, err = bob.Subscribe(ctx, "chat.lobby", client.SubscribeOptions{Presence: "join", Data: map[string]string{"status": "new"}})
	check(err)
	check(view.Wait(ctx, func(now client.Members) bool { return now.Has("bob") }))
	fmt.Printf("%s\n", view.Now().Users["bob"].Data)
	// Output: {"status":"new"}
}

// Go on behind the last message that was handled: what came meanwhile is
// delivered first. A position is a seq with its ts.
func ExampleClient_Subscribe_resume() {
	s, stop := fairleadtest.StartMain()
	defer stop()
	ctx := context.Background()
	publish := func(n int) {
		_, err := s.Client("bob").Publish(ctx, "log.orders", "message", n, client.PublishOptions{})
		check(err)
	}

	first := s.Client("ann")
	sub, err := first.Subscribe(ctx, "log.orders", client.SubscribeOptions{})
	check(err)
	publish(1)
	last, err := sub.Next(ctx)
	check(err)
	first.Abort() // the connection is lost
	publish(2)
	publish(3)

	second := s.Client("ann")
	sub, err = second.Subscribe(ctx, "log.orders", client.SubscribeOptions{After: &last.Seq, Ts: last.Ts})
	check(err)
	fmt.Println("nothing is missing:", *sub.Position().Recovered)
	for range 2 {
		m, err := sub.Next(ctx)
		check(err)
		fmt.Printf("%s\n", m.Data)
	}
	// Output:
	// nothing is missing: true
	// 2
	// 3
}

// Members of a group hear each other, and who comes and goes.
func ExampleClient_JoinGroup() {
	s, stop := fairleadtest.StartMain()
	defer stop()
	ctx := context.Background()
	var heard sync.WaitGroup
	heard.Add(1)

	bob, err := s.Client("bob").JoinGroup(ctx, "table", client.GroupOptions{
		OnMessage: func(m client.Message) {
			fmt.Printf("%s %s\n", m.Event, m.Data)
			heard.Done()
		},
	})
	check(err)
	ann, err := s.Client("ann").JoinGroup(ctx, "table", client.GroupOptions{})
	check(err)
	members, err := ann.Members(ctx)
	check(err)
	fmt.Println(members.Count, "at the table")
	check(ann.Send(ctx, bob.Member(), "deal", []int{7, 8}))
	heard.Wait()
	// Output:
	// 2 at the table
	// deal [7,8]
}

// Several messages in one frame, each with an answer of its own.
func ExampleClient_PublishBatch() {
	s, stop := fairleadtest.StartMain()
	defer stop()

	results, err := s.Client("ann").PublishBatch(context.Background(), []client.BatchMessage{
		{Topic: "log.orders", Data: 1, Key: "order-1"},
		{Topic: "task.t_1", Data: 2}, // where no client may publish
		{Topic: "log.orders", Data: 1, Key: "order-1"},
	}, client.BatchOptions{})
	check(err)
	for _, r := range results {
		if r.Err != nil {
			fmt.Println(r.Err.Code)
		} else {
			fmt.Println("duplicate:", r.Duplicate)
		}
	}
	// Output:
	// duplicate: false
	// PERMISSION_DENIED
	// duplicate: true
}

// A session goes on over all connections; here over a gateway that dies.
func ExampleSession() {
	s, stop := fairleadtest.StartMain(fairleadtest.Options{Gateways: 2})
	defer stop()
	ctx := context.Background()

	session := client.OpenSession(s.Gateway(1).URL()+","+s.URL(), client.SessionOptions{
		Options: client.Options{TokenSource: func(context.Context) (string, error) { return s.Token("ann"), nil }},
	})
	defer session.Wait()
	defer session.Close()
	got, live := make(chan string, 2), make(chan client.Start, 2)
	_, err := session.Follow("log.orders", client.FollowOptions{
		OnMessage: func(m client.Message) { got <- string(m.Data) },
		OnStart:   func(s client.Start) { live <- s },
	})
	check(err)
	<-live

	bob := s.Client("bob")
	for n := range 2 {
		_, err := bob.Publish(ctx, "log.orders", "message", n, client.PublishOptions{})
		check(err)
		fmt.Println("got", <-got)
		if n == 0 {
			s.Gateway(1).Kill()
		}
	}
	fmt.Println("nothing was missed:", (<-live).Recovered)
	// Output:
	// got 0
	// got 1
	// nothing was missed: true
}
