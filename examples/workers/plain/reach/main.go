// A worker that listens to what clients publish below chat. When somebody asks
// there to clear the room it asks them whether they mean it: if so everybody
// hears of it, else they alone do.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// token makes a subject token of an id: all but [A-Za-z0-9_-] is escaped.
func token(id string) string {
	var b strings.Builder
	for _, c := range []byte(id) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

func message(subject, event, text string) *nats.Msg {
	data, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		log.Fatal(err)
	}
	return &nats.Msg{Subject: subject, Data: data, Header: nats.Header{"Fl-Event": {event}}}
}

func clearRoom(nc *nats.Conn, user, topic string) error {
	const patience = 30 * time.Second
	question := message("fl.ask."+token(user), "confirm", "Clear "+topic+"?")
	question.Header.Set("Fl-Deadline", strconv.FormatInt(time.Now().Add(patience).UnixMilli(), 10))
	answer, err := nc.RequestMsg(question, patience)
	if err != nil {
		return err // nats.ErrNoResponders: no presence service is there
	}
	sorry := "not cleared"
	switch code := answer.Header.Get("Nats-Service-Error-Code"); code {
	case "":
		var said struct{ Yes bool }
		if json.Unmarshal(answer.Data, &said) == nil && said.Yes {
			return nc.PublishMsg(message("fl.topic."+topic, "cleared", "by "+user))
		}
	case "NOT_FOUND":
		return nil // gone meanwhile
	default:
		sorry = code
	}
	reply := message("fl.user."+token(user), "sorry", sorry)
	reply.Header.Set("Fl-Topic", topic)
	return nc.PublishMsg(reply)
}

func main() {
	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	// Of the workers in a queue group one gets each message.
	_, err = nc.QueueSubscribe("fl.topic.chat.>", "workers", func(m *nats.Msg) {
		user := m.Header.Get("Fl-User")
		if user == "" || m.Header.Get("Fl-Event") != "clear" {
			return // of a worker, or something else
		}
		go func() { // the next message does not wait for an answer
			if err := clearRoom(nc, user, strings.TrimPrefix(m.Subject, "fl.topic.")); err != nil {
				log.Print(err)
			}
		}()
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	select {}
}
