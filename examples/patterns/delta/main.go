// A worker that keeps documents: it applies an edit, and publishes what changed
// under the document's new revision. Any number of it may run.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"os/signal"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

type edit struct {
	Doc string         `json:"doc"`
	Set map[string]any `json:"set"` // nothing: only reads
}

type snapshot struct {
	Rev   int64          `json:"rev"`
	State map[string]any `json:"state"`
}

type worker struct {
	f    *fairlead.Fairlead
	docs jetstream.KeyValue
}

func (w worker) edit(ctx context.Context, _ *fairlead.Call, e edit) (s snapshot, _ error) {
	for {
		var revision uint64
		s = snapshot{State: map[string]any{}}
		entry, err := w.docs.Get(ctx, wire.EscapeToken(e.Doc))
		if err == nil {
			revision, err = entry.Revision(), json.Unmarshal(entry.Value(), &s)
		}
		if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
			return s, err
		}
		if len(e.Set) == 0 {
			return s, nil
		}
		s.Rev++
		maps.Copy(s.State, e.Set)
		value, err := json.Marshal(s)
		if err == nil {
			_, err = w.docs.Update(ctx, wire.EscapeToken(e.Doc), value, revision)
		}
		switch {
		case errors.Is(err, jetstream.ErrKeyRevisionMismatch):
			continue // another worker was first
		case err != nil:
			return s, err
		}
		// If this is lost, those who follow see a gap at the next one, and read the document.
		_, err = w.f.Store(ctx, fairlead.Record{Topic: "doc." + e.Doc, Event: "delta", Data: delta{s.Rev, e.Set}, Key: fmt.Sprint(s.Rev)})
		return s, err
	}
}

type delta struct {
	Rev int64          `json:"rev"`
	Set map[string]any `json:"set"`
}

func main() {
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.MaxReconnects(-1))
	check(err)
	js, err := jetstream.New(nc)
	check(err)
	docs, err := js.CreateOrUpdateKeyValue(stop, jetstream.KeyValueConfig{Bucket: "docs"})
	check(err)
	f := fairlead.New(nc, fairlead.Options{})
	_, err = fairlead.Handle(f, "doc.edit", worker{f, docs}.edit, fairlead.HandleOptions{})
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
