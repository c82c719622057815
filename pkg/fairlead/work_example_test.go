package fairlead_test

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// attemptOn does what the tasks service does: it hands an attempt to a worker of a
// name and takes the result.
func attemptOn(service *nats.Conn, name, input string) string {
	results := make(chan string, 1)
	id := wire.NewTaskID(time.Now())
	reply := wire.Namespace("fl").TaskReply("replica", id, 1, "token")
	_, err := service.Subscribe(reply, func(msg *nats.Msg) {
		check(msg.Respond([]byte(`{}`)))
		if msg.Header.Get(wire.HeaderTaskProgress) == "" {
			results <- string(msg.Data)
		}
	})
	check(err)
	_, err = service.Subscribe("fl.svc.tasks.step", func(msg *nats.Msg) { // nothing is stored but what this attempt stores
		check(msg.Respond([]byte(`{"done":true,"result":"receipt 17"}`)))
	})
	check(err)
	check(service.PublishMsg(&nats.Msg{Subject: "fl.task." + name, Reply: reply, Data: []byte(input), Header: nats.Header{
		wire.HeaderIdempotencyKey: {"order-1"}, wire.HeaderTaskTimeout: {"60000"},
	}}))
	return <-results
}

func ExampleWork() {
	nc, service, stop := connect()
	defer stop()
	f := fairlead.New(nc, fairlead.Options{})

	type Order struct {
		Item  string `json:"item"`
		Cents int    `json:"cents"`
	}
	charge := func(_ context.Context, cents int, key string) (string, error) {
		fmt.Println("charge", cents, "once for", key)
		return "receipt 17", nil
	}
	_, err := fairlead.Work(f, "order.pay", func(ctx context.Context, a *fairlead.Attempt, in Order) (string, error) {
		// A later attempt has the receipt from the first one that got it.
		receipt, err := fairlead.Step(ctx, "charge", func(ctx context.Context) (string, error) {
			return charge(ctx, in.Cents, a.StepKey("charge"))
		})
		if err != nil {
			return "", err // cancelled, given up, or charge failed: the policy says what follows
		}
		return receipt + " for " + in.Item, a.Progress(map[string]int{"percent": 90})
	}, fairlead.WorkOptions{Concurrency: 8})
	check(err)

	fmt.Println(attemptOn(service, "order.pay", `{"item":"tea","cents":250}`))
	check(f.Drain(context.Background()))
	// Output:
	// charge 250 once for order-1/charge
	// "receipt 17 for tea"
}
