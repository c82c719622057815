// A worker that listens to what clients publish below chat. When somebody asks
// there to clear the room it asks them whether they mean it: if so everybody
// hears of it, else they alone do.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

type text struct {
	Text string `json:"text"`
}

func clearRoom(f *fairlead.Fairlead, user, topic string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	answer, err := f.Ask(ctx, user, "confirm", text{"Clear " + topic + "?"}, fairlead.AskOptions{})
	switch {
	case errors.Is(err, wire.ErrNotFound):
		return nil // gone meanwhile
	case err != nil:
		return f.Send(ctx, user, "sorry", text{string(wire.CodeOf(err))}, fairlead.SendOptions{Topic: topic})
	}
	var said struct{ Yes bool }
	if err := json.Unmarshal(answer, &said); err != nil || !said.Yes {
		return f.Send(ctx, user, "sorry", text{"not cleared"}, fairlead.SendOptions{Topic: topic})
	}
	return f.Publish(ctx, topic, "cleared", text{"by " + user}, fairlead.PublishOptions{})
}

func main() {
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	f := fairlead.New(nc, fairlead.Options{})
	// Of the workers in a queue group one gets each message.
	_, err = f.Subscribe("chat.>", func(_ context.Context, m *fairlead.Message) {
		if m.User == "" || m.Event != "clear" {
			return // of a worker, or something else
		}
		go func() { // the next message does not wait for an answer
			if err := clearRoom(f, m.User, m.Topic); err != nil {
				log.Print(err)
			}
		}()
	}, fairlead.SubscribeOptions{Queue: "workers"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	select {}
}
