// A worker that applies each message of a channel once and in order, whatever
// is lost, comes twice, or overtakes another. Any number of it may run.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

type message struct {
	Channel string          `json:"channel"`
	Seq     int64           `json:"seq"` // from 1; 0 only asks how far the channel is
	Data    json.RawMessage `json:"data"`
}

type channel struct {
	Seq   int64             `json:"seq"`
	State []json.RawMessage `json:"state"` // what came of it, here simply all of it
}

type worker struct{ channels jetstream.KeyValue }

func (w worker) send(ctx context.Context, call *fairlead.Call, m message) (c channel, _ error) {
	key := wire.EscapeToken(call.User) + "." + wire.EscapeToken(m.Channel) // everybody has channels of their own
	for {
		var revision uint64
		c = channel{}
		entry, err := w.channels.Get(ctx, key)
		if err == nil {
			revision, err = entry.Revision(), json.Unmarshal(entry.Value(), &c)
		}
		if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
			return c, err
		}
		switch {
		case m.Seq <= c.Seq:
			return c, nil // known: acknowledged like the first time
		case m.Seq > c.Seq+1:
			return c, wire.Errorf(wire.FailedPrecondition, "SEQUENCE_GAP").
				With("expectedSeq", c.Seq+1).With("receivedSeq", m.Seq).With("resumeFrom", c.Seq)
		}
		c.Seq, c.State = m.Seq, append(c.State, m.Data)
		value, err := json.Marshal(c)
		if err == nil {
			_, err = w.channels.Update(ctx, key, value, revision)
		}
		if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) { // else another worker was first: look again
			return c, err
		}
	}
}

func main() {
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.MaxReconnects(-1))
	check(err)
	js, err := jetstream.New(nc)
	check(err)
	channels, err := js.CreateOrUpdateKeyValue(stop, jetstream.KeyValueConfig{Bucket: "channels"})
	check(err)
	f := fairlead.New(nc, fairlead.Options{})
	_, err = fairlead.Handle(f, "channel.send", worker{channels}.send, fairlead.HandleOptions{})
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
