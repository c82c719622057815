package fairleadtest_test

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairleadtest"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// serveOrders is a worker: what the example tests.
func serveOrders(nc *nats.Conn) error {
	_, err := nc.QueueSubscribe("fl.call.orders.create", "orders", func(m *nats.Msg) {
		nc.Publish("fl.topic.orders", []byte(`{"by":"`+m.Header.Get("Fl-User")+`"}`))
		m.Respond([]byte(`{"order":17}`))
	})
	if err != nil {
		return err
	}
	return nc.Flush()
}

// A worker and two clients of it. In a test it is fairleadtest.Start(t), and
// nothing has to be stopped.
func Example() {
	s, stop := fairleadtest.StartMain(fairleadtest.Options{Gateways: 2})
	defer stop()
	ctx := context.Background()
	if err := serveOrders(s.NATS()); err != nil {
		panic(err)
	}

	ann := s.Client("ann")
	bob := s.Client("bob", fairleadtest.On(s.Gateway(1)))
	sub, err := bob.Subscribe(ctx, "orders", client.SubscribeOptions{})
	if err != nil {
		panic(err)
	}
	answer, err := ann.Call(ctx, "orders.create", map[string]string{"item": "tea"}, client.CallOptions{})
	if err != nil {
		panic(err)
	}
	heard, err := sub.Next(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Printf("ann got %s, bob heard %s\n", answer.Data, heard.Data)
	// Output: ann got {"order":17}, bob heard {"by":"ann"}
}

// An answer that is lost: the client can't know whether its message was stored,
// and may send it again because it has a key.
func ExampleLink_Drop() {
	s, stop := fairleadtest.StartMain()
	defer stop()
	link := s.Link(0)
	ann := s.Client("ann", fairleadtest.Through(link), fairleadtest.With(client.Options{RequestTimeout: 200 * time.Millisecond}))
	publish := func() {
		r, err := ann.Publish(context.Background(), "log.orders", "created", 17, client.PublishOptions{Key: "order-17"})
		if err != nil {
			fmt.Println(wire.CodeOf(err))
			return
		}
		fmt.Println("duplicate:", r.Duplicate)
	}
	link.Drop(1, func(f wire.ServerFrame) bool { return f.Kind == wire.KindReply })
	publish()
	publish()
	// Output:
	// DEADLINE_EXCEEDED
	// duplicate: true
}

// The users of a gateway that crashes are offline once its lease is over, two
// seconds here.
func ExampleGateway_Kill() {
	s, stop := fairleadtest.StartMain(fairleadtest.Options{Gateways: 2})
	defer stop()
	s.Client("ann", fairleadtest.On(s.Gateway(1)))
	s.WaitOnline("ann")
	s.Gateway(1).Kill()
	s.WaitOffline("ann")
	fmt.Println("gone")
	// Output: gone
}
