// A worker that lets nobody guess passwords: each attempt takes from a limit of
// who asks and from one of the account, from both or from neither.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

type attempt struct {
	Account  string `json:"account"`
	Password string `json:"password"`
}

type worker struct{ limits fairlead.Limits }

func (w worker) login(ctx context.Context, call *fairlead.Call, a attempt) (string, error) {
	if a.Account == "" || len(a.Account) > 200 {
		return "", wire.InvalidField("account", "1 to 200 bytes")
	}
	asker := fairlead.Take{Policy: "login-asker", Key: call.User, Cost: 1}
	account := fairlead.Take{Policy: "login-account", Key: a.Account, Cost: 1}
	both, _, err := w.limits.ConsumeAll(ctx, asker, account)
	if err != nil {
		return "", err // while nobody counts, nobody logs in
	}
	if err := both.Err(); err != nil {
		return "", err // with retryAfterMs: the client waits
	}
	if !known(a) {
		return "", wire.Errorf(wire.PermissionDenied, "wrong account or password")
	}
	// Only wrong ones count. Where this fails the bucket fills by itself.
	for _, t := range []fairlead.Take{asker, account} {
		if _, err := w.limits.Refund(ctx, t.Policy, t.Key, t.Cost, ""); err != nil {
			log.Printf("refund %s: %v", t.Policy, err)
		}
	}
	return "welcome, " + a.Account, nil
}

// known stands for a look at the hash of the password.
func known(a attempt) bool { return a.Password == "secret of "+a.Account }

func main() {
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.MaxReconnects(-1))
	check(err)
	f := fairlead.New(nc, fairlead.Options{})
	_, err = fairlead.Handle(f, "auth.login", worker{f.Limits()}.login, fairlead.HandleOptions{})
	check(err)
	fmt.Println("ready")
	<-stop.Done()
	check(f.Drain(context.Background()))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
