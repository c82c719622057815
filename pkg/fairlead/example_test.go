package fairlead_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// connect stands for nats.Connect(url): it starts a NATS server for the example,
// and a client of Fairlead's that calls, is asked and listens. stop ends them.
func connect() (nc, clients *nats.Conn, stop func()) {
	dir, err := os.MkdirTemp("", "fairlead-example-")
	check(err)
	server, err := natsdev.Start(natsdev.Config{StoreDir: filepath.Join(dir, "nats")})
	check(err)
	nc, err = nats.Connect(server.ClientURL())
	check(err)
	clients, err = nats.Connect(server.ClientURL())
	check(err)
	return nc, clients, func() {
		nc.Close()
		clients.Close()
		server.Shutdown()
		os.RemoveAll(dir)
	}
}

// callAs calls a method as a gateway does for a user's client, and returns what
// its client gets.
func callAs(clients *nats.Conn, user, method, data string) string {
	reply, err := clients.RequestMsg(&nats.Msg{
		Subject: "fl.call." + method, Data: []byte(data), Header: nats.Header{"Fl-User": {user}},
	}, 10*time.Second)
	check(err)
	if e := wire.ParseErrorHeader(reply.Header, reply.Data); e != nil {
		return e.Error()
	}
	return string(reply.Data)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleHandle() {
	nc, clients, stop := connect()
	defer stop()
	f := fairlead.New(nc, fairlead.Options{})
	defer f.Close()

	type Order struct {
		Item  string `json:"item"`
		Count int    `json:"count"`
	}
	type Receipt struct {
		Number int    `json:"number"`
		For    string `json:"for"`
	}
	_, err := fairlead.Handle(f, "orders.create", func(_ context.Context, call *fairlead.Call, in Order) (Receipt, error) {
		if in.Item == "" {
			return Receipt{}, wire.InvalidField("item", "is required")
		}
		return Receipt{Number: 17, For: call.User}, nil
	}, fairlead.HandleOptions{})
	check(err)

	fmt.Println(callAs(clients, "ann", "orders.create", `{"item":"tea","count":2}`))
	fmt.Println(callAs(clients, "ann", "orders.create", `{"count":2}`))
	fmt.Println(callAs(clients, "ann", "orders.create", `{"count":"two"}`))
	// Output:
	// {"number":17,"for":"ann"}
	// INVALID_ARGUMENT: item: is required
	// INVALID_ARGUMENT: count: can't be a JSON string
}

func ExampleCall_Progress() {
	nc, clients, stop := connect()
	defer stop()
	f := fairlead.New(nc, fairlead.Options{})
	defer f.Close()

	type Step struct {
		Done int `json:"done"`
	}
	_, err := fairlead.Handle(f, "report.build", func(ctx context.Context, call *fairlead.Call, pages int) (string, error) {
		for page := range pages {
			if ctx.Err() != nil { // the client has cancelled, or is gone
				return "", ctx.Err()
			}
			if err := call.Progress(Step{page + 1}); err != nil {
				return "", err
			}
		}
		return "built", nil
	}, fairlead.HandleOptions{})
	check(err)

	replies, err := clients.SubscribeSync(clients.NewInbox())
	check(err)
	check(clients.PublishRequest("fl.call.report.build", replies.Subject, []byte(`2`)))
	for range 3 {
		msg, err := replies.NextMsg(10 * time.Second)
		check(err)
		fmt.Println(msg.Header.Get("Fl-Progress"), string(msg.Data))
	}
	// Output:
	// 1 {"done":1}
	// 1 {"done":2}
	//  "built"
}

func ExampleFairlead_Publish() {
	nc, clients, stop := connect()
	defer stop()
	f := fairlead.New(nc, fairlead.Options{})
	defer f.Close()

	everybody, err := clients.SubscribeSync("fl.topic.chat.lobby")
	check(err)
	check(clients.Flush())

	type Text struct {
		Text string `json:"text"`
	}
	err = f.Publish(context.Background(), "chat.lobby", "notice", Text{"The shop closes"}, fairlead.PublishOptions{})
	check(err)

	msg, err := everybody.NextMsg(10 * time.Second)
	check(err)
	fmt.Println(msg.Header.Get("Fl-Event"), string(msg.Data))
	// Output: notice {"text":"The shop closes"}
}

func ExampleFairlead_Ask() {
	nc, clients, stop := connect()
	defer stop()
	f := fairlead.New(nc, fairlead.Options{})
	defer f.Close()

	_, err := clients.Subscribe("fl.ask.ann", func(msg *nats.Msg) { // as ann's browser answers
		check(msg.Respond([]byte(`{"yes":true}`)))
	})
	check(err)
	_, err = clients.Subscribe("fl.ask.bob", func(msg *nats.Msg) { // as it is where nobody is
		check(msg.RespondMsg(&nats.Msg{Header: nats.Header{"Nats-Service-Error-Code": {"NOT_FOUND"}, "Nats-Service-Error": {"bob is not connected"}}}))
	})
	check(err)
	check(clients.Flush())

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, user := range []string{"ann", "bob"} {
		answer, err := f.Ask(ctx, user, "confirm", map[string]string{"text": "Delete it?"}, fairlead.AskOptions{})
		switch {
		case errors.Is(err, wire.ErrNotFound):
			fmt.Println(user, "is away")
		case err != nil:
			fmt.Println(err)
		default:
			fmt.Println(user, "says", string(answer))
		}
	}
	// Output:
	// ann says {"yes":true}
	// bob is away
}

func ExampleFairlead_Subscribe() {
	nc, clients, stop := connect()
	defer stop()
	f := fairlead.New(nc, fairlead.Options{})

	_, err := f.Subscribe("chat.>", func(_ context.Context, m *fairlead.Message) {
		var said struct{ Text string }
		if m.User == "" || m.Decode(&said) != nil {
			return // of a worker, or none of ours
		}
		fmt.Printf("%s on %s: %s\n", m.User, m.Topic, said.Text)
	}, fairlead.SubscribeOptions{Queue: "audit"})
	check(err)

	check(clients.PublishMsg(&nats.Msg{ // as a gateway does for ann's client
		Subject: "fl.topic.chat.lobby", Header: nats.Header{"Fl-User": {"ann"}}, Data: []byte(`{"text":"hi"}`),
	}))
	check(clients.Flush())
	check(f.Drain(context.Background()))
	// Output: ann on chat.lobby: hi
}
