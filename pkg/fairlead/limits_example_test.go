package fairlead_test

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
)

func ExampleFairlead_Limits() {
	nc, clients, stop := connect()
	defer stop()
	f := fairlead.New(nc, fairlead.Options{})
	defer f.Close()

	left := 1
	_, err := clients.Subscribe("fl.svc.ratelimit.consume", func(msg *nats.Msg) { // as the ratelimit service answers
		answer := `{"allowed":true,"remaining":0,"limit":1,"resetMs":60000}`
		if left == 0 {
			answer = `{"allowed":false,"remaining":0,"limit":1,"resetMs":60000,"retryAfterMs":60000}`
		}
		left = 0
		check(msg.Respond([]byte(answer)))
	})
	check(err)
	check(clients.Flush())

	_, err = fairlead.Handle(f, "orders.create", func(ctx context.Context, call *fairlead.Call, item string) (string, error) {
		verdict, err := f.Limits().Consume(ctx, "orders", call.User, 1)
		if err != nil {
			return "", err // nobody counts: fail closed
		}
		if err := verdict.Err(); err != nil {
			return "", err // with retryAfterMs: the client can wait
		}
		return "ordered: " + item, nil
	}, fairlead.HandleOptions{})
	check(err)

	fmt.Println(callAs(clients, "ann", "orders.create", `"tea"`))
	fmt.Println(callAs(clients, "ann", "orders.create", `"tea"`))
	// Output:
	// "ordered: tea"
	// RESOURCE_EXHAUSTED: too many requests
}
