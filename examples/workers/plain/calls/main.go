// A worker that answers calls: orders.create at once, report.build with
// progress until nobody waits.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

func main() {
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	// Workers of one method share a queue group: each call reaches one of them.
	_, err = nc.QueueSubscribe("fl.call.orders.create", "workers", createOrder)
	if err != nil {
		log.Fatal(err)
	}
	// nats.go runs the function of a subscription for one message at a time.
	_, err = nc.QueueSubscribe("fl.call.report.build", "workers", func(m *nats.Msg) { go buildReport(nc, m) })
	if err != nil {
		log.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	select {}
}

func createOrder(m *nats.Msg) {
	var order struct{ Item string }
	if json.Unmarshal(m.Data, &order) != nil || order.Item == "" {
		respond(m, nil, nats.Header{
			"Nats-Service-Error-Code": {"INVALID_ARGUMENT"}, "Nats-Service-Error": {"item: is required"},
		})
		return
	}
	respond(m, map[string]any{"order": 17, "for": m.Header.Get("Fl-User")}, nil)
}

func buildReport(nc *nats.Conn, m *nats.Msg) {
	var in struct {
		Pages int `json:"pages"`
	}
	if json.Unmarshal(m.Data, &in) != nil {
		respond(m, nil, nats.Header{
			"Nats-Service-Error-Code": {"INVALID_ARGUMENT"}, "Nats-Service-Error": {"pages: must be a number"},
		})
		return
	}
	cancelled := make(chan *nats.Msg, 1)
	if subject := m.Header.Get("Fl-Cancel"); subject != "" {
		sub, err := nc.ChanSubscribe(subject, cancelled)
		if err != nil {
			log.Print(err)
			return
		}
		defer sub.Unsubscribe()
	}
	for page := 1; page <= in.Pages; page++ {
		select {
		case <-time.After(100 * time.Millisecond): // the work
		case <-cancelled:
			fmt.Println(m.Header.Get("Fl-User"), "does not wait any more")
			return
		}
		respond(m, map[string]int{"page": page}, nats.Header{"Fl-Progress": {"1"}})
	}
	respond(m, in, nil)
}

func respond(m *nats.Msg, data any, header nats.Header) {
	body, err := json.Marshal(data)
	if err == nil {
		err = m.RespondMsg(&nats.Msg{Data: body, Header: header})
	}
	if err != nil {
		log.Print(err)
	}
}
