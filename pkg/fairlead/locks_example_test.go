package fairlead_test

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
)

func ExampleFairlead_WithLock() {
	nc, service, stop := connect()
	defer stop()
	f := fairlead.New(nc, fairlead.Options{})
	defer f.Close()

	for endpoint, answer := range map[string]string{ // as the tasks service answers
		"acquire": `{"fence":4711,"token":"t","expiresMs":30000}`, "release": `{}`,
	} {
		_, err := service.Subscribe("fl.svc.tasks.lock."+endpoint, func(msg *nats.Msg) { check(msg.Respond([]byte(answer))) })
		check(err)
	}
	check(service.Flush())

	stored := uint64(0) // the greatest fence that what the lock protects has seen
	err := f.WithLock(context.Background(), "report", fairlead.LockOptions{TTL: 30 * time.Second}, func(ctx context.Context) error {
		fence := fairlead.LockFence(ctx)
		if fence < stored {
			return fairlead.ErrLockLost // somebody else has been here since
		}
		stored = fence
		fmt.Println("written with fence", fence)
		return ctx.Err()
	})
	check(err)
	// Output: written with fence 4711
}
