package streams

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
)

func TestMain(m *testing.M) {
	var ofTheServer []goleak.Option
	for _, name := range natsdev.Lingering() {
		ofTheServer = append(ofTheServer, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ofTheServer...)
}

// parse returns a set of topic rules, each written as it stands in a file.
func parse(t *testing.T, topics ...string) *rules.Set {
	t.Helper()
	file := "topics:\n"
	for _, topic := range topics {
		file += "  - " + topic + "\n"
	}
	set, err := rules.Parse([]byte(file), rules.Dev)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return set
}

func rule(t *testing.T, topic string) *rules.Topic {
	t.Helper()
	return parse(t, topic).Topics[0]
}

func connect(t *testing.T, server *natsdev.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
