package demo

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// call calls a method as a gateway does for Ann.
func call(t *testing.T, nc *nats.Conn, method, data string) (string, string) {
	t.Helper()
	msg := &nats.Msg{Subject: "fl.call." + method, Data: []byte(data), Header: nats.Header{wire.HeaderUser: {"ann"}}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return string(reply.Data), reply.Header.Get("Nats-Service-Error-Code")
}

func TestTheWorkerAsksAndKicks(t *testing.T) {
	server := natsdev.Test(t)
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	w, err := StartWorker(nc, fairlead.Options{}, TaskOptions{Off: "off: no database"})
	if err != nil {
		t.Fatal(err)
	}

	// What the presence service and a gateway answer.
	asked := make(chan *nats.Msg, 1)
	if _, err := nc.Subscribe("fl.ask.bob", func(m *nats.Msg) { asked <- m; _ = m.Respond([]byte(`{"answer":"yes"}`)) }); err != nil {
		t.Fatal(err)
	}
	told := make(chan *nats.Msg, 1)
	if _, err := nc.Subscribe("fl.control.user.bob", func(m *nats.Msg) { told <- m; _ = m.Respond([]byte(`{"reached":2}`)) }); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}

	got, code := call(t, nc, "demo.ask", `{"user":"bob","question":"Deploy now?"}`)
	if want := `{"answer":"yes"}`; got != want || code != "" {
		t.Errorf("demo.ask: got %s, %s, want %s", got, code, want)
	}
	m := <-asked
	if got, want := m.Header.Get(wire.HeaderEvent), "confirm"; got != want {
		t.Errorf("Bob is asked %q, want %q", got, want)
	}
	var q map[string]string
	if err := json.Unmarshal(m.Data, &q); err != nil || q["question"] != "Deploy now?" || q["from"] != "ann" {
		t.Errorf("Bob is asked %s, %v", m.Data, err)
	}

	got, code = call(t, nc, "demo.kick", `{"user":"bob"}`)
	if want := `{"reached":2}`; got != want || code != "" {
		t.Errorf("demo.kick: got %s, %s, want %s", got, code, want)
	}
	var control wire.Control
	if err := json.Unmarshal((<-told).Data, &control); err != nil || control.Action != wire.ControlDisconnect || control.Reason != "kicked by ann" {
		t.Errorf("a gateway is told %+v, %v", control, err)
	}

	for _, method := range []string{"demo.ask", "demo.kick"} {
		if _, code := call(t, nc, method, `{"user":""}`); code != "INVALID_ARGUMENT" {
			t.Errorf("%s of nobody: code %q, want INVALID_ARGUMENT", method, code)
		}
	}

	w.Close()
	if _, err := nc.Request("fl.call.demo.ask", nil, 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("after Close: %v, want no responders", err)
	}
}
