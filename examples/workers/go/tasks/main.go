// A worker that does the tasks images.resize: it says how far it is, and a later
// attempt goes on where an earlier one has stopped.
package main

import (
	"cmp"
	"context"
	"errors"
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

type resize struct {
	Image string `json:"image"`
	Sizes []int  `json:"sizes"`
}

type resized struct {
	Image string `json:"image"`
	Sizes int    `json:"sizes"`
}

func resizeImage(ctx context.Context, a *fairlead.Attempt, in resize) (resized, error) {
	if len(in.Sizes) == 0 {
		return resized{}, wire.InvalidField("sizes", "must be a list") // no other attempt mends it
	}
	for done, size := range in.Sizes {
		if err := a.Progress(map[string]int{"done": done, "total": len(in.Sizes)}); err != nil {
			return resized{}, err
		}
		// What a step has done is stored: a later attempt has its result from there.
		step := fmt.Sprintf("size %d: %d", done, size)
		_, err := fairlead.Step(ctx, step, func(ctx context.Context) (string, error) {
			return resizeTo(ctx, in.Image, size, a.StepKey(step))
		})
		switch {
		case errors.Is(err, wire.ErrCancelled):
			fmt.Println(a.ID(), "cancelled")
			return resized{}, err
		case errors.Is(err, fairlead.ErrFenceLost):
			fmt.Println(a.ID(), "given up") // somebody else has it: what this returns is not heard
			return resized{}, err
		case err != nil:
			return resized{}, err // the policy of the name says whether another attempt follows
		}
	}
	return resized{in.Image, len(in.Sizes)}, nil
}

// resizeTo gives the key to whoever stores the image, who stores it once however
// often an attempt tries.
func resizeTo(ctx context.Context, image string, size int, key string) (string, error) {
	select {
	case <-time.After(100 * time.Millisecond): // the work
		return fmt.Sprintf("%s-%d", image, size), nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
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
	// Heartbeats are sent by themselves; the result is sent until it is stored.
	if _, err := fairlead.Work(f, "images.resize", resizeImage, fairlead.WorkOptions{Concurrency: 4}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	<-stop.Done()
	if err := f.Drain(context.Background()); err != nil { // what has come is worked on
		log.Fatal(err)
	}
}
