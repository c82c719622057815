// A worker that answers calls: orders.create at once, report.build with
// progress until nobody waits.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

type order struct {
	Item string `json:"item"`
}

type receipt struct {
	Order int    `json:"order"`
	For   string `json:"for"`
}

type pages struct {
	Pages int `json:"pages"`
}

func createOrder(_ context.Context, call *fairlead.Call, in order) (receipt, error) {
	if in.Item == "" {
		return receipt{}, wire.InvalidField("item", "is required")
	}
	return receipt{Order: 17, For: call.User}, nil
}

func buildReport(ctx context.Context, call *fairlead.Call, in pages) (pages, error) {
	for page := 1; page <= in.Pages; page++ {
		select {
		case <-time.After(100 * time.Millisecond): // the work
		case <-ctx.Done(): // cancelled, gone, or out of time
			fmt.Println(call.User, "does not wait any more")
			return pages{}, ctx.Err()
		}
		if err := call.Progress(map[string]int{"page": page}); err != nil {
			return pages{}, err
		}
	}
	return in, nil
}

func main() {
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	f := fairlead.New(nc, fairlead.Options{})
	if _, err := fairlead.Handle(f, "orders.create", createOrder, fairlead.HandleOptions{}); err != nil {
		log.Fatal(err)
	}
	if _, err := fairlead.Handle(f, "report.build", buildReport, fairlead.HandleOptions{Concurrency: 100}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	<-stop.Done()
	if err := f.Drain(context.Background()); err != nil { // what has been called is answered
		log.Fatal(err)
	}
}
