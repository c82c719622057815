package integration

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// answer is what came of an ask: a body, or an error.
type answer struct {
	body string
	code wire.Code // "" for none
	text string
	took time.Duration
	err  error // of NATS: nobody answered at all
}

func (a answer) String() string {
	return fmt.Sprintf("%q %s %q (%v) after %s", a.body, a.code, a.text, a.err, a.took)
}

// askFor asks a subject, as a worker does, with a deadline, and waits for what
// comes of it.
func askFor(nc *nats.Conn, subject, data string, timeout time.Duration, headers ...string) answer {
	return asking(nc, subject, data, timeout, patience, headers...)
}

// askUntil is askFor by an asker who waits hardly longer than the deadline.
func askUntil(nc *nats.Conn, subject, data string, timeout time.Duration) answer {
	return asking(nc, subject, data, timeout, time.Second)
}

func asking(nc *nats.Conn, subject, data string, timeout, slack time.Duration, headers ...string) answer {
	msg := nats.NewMsg(subject)
	msg.Data = []byte(data)
	msg.Header.Set("Fl-Event", "confirm")
	msg.Header.Set("Fl-Deadline", strconv.FormatInt(time.Now().Add(timeout).UnixMilli(), 10))
	for i := 0; i+1 < len(headers); i += 2 {
		msg.Header.Set(headers[i], headers[i+1])
	}
	began := time.Now()
	reply, err := nc.RequestMsg(msg, timeout+slack)
	a := answer{took: time.Since(began), err: err}
	if err == nil {
		a.body, a.code, a.text = string(reply.Data), wire.Code(reply.Header.Get("Nats-Service-Error-Code")), reply.Header.Get("Nats-Service-Error")
	}
	return a
}

// answers asks a user and expects this body.
func answers(t *testing.T, nc *nats.Conn, user, data, want string, headers ...string) {
	t.Helper()
	if a := askFor(nc, "fl.ask."+user, data, patience, headers...); a.err != nil || a.code != "" || a.body != want {
		t.Errorf("ask %s %s: got %s, want %q", user, data, a, want)
	}
}

// fails asks a subject and expects an error of this code, before half of the
// deadline is over.
func fails(t *testing.T, nc *nats.Conn, subject string, code wire.Code, headers ...string) answer {
	t.Helper()
	a := askFor(nc, subject, "1", patience, headers...)
	if a.err != nil || a.code != code || a.took > patience/2 {
		t.Errorf("ask %s: got %s, want %s at once", subject, a, code)
	}
	return a
}

// offline asks a user and expects that nobody is there.
func offline(t *testing.T, nc *nats.Conn, user string) {
	t.Helper()
	a := fails(t, nc, "fl.ask."+user, wire.NotFound)
	if a.body != "{}" || a.text == "" {
		t.Errorf("ask %s: got %s", user, a)
	}
}

// none says whether a request was answered as NATS does where nobody listens.
func (a answer) none() bool { return errors.Is(a.err, nats.ErrNoResponders) }

// late says whether nobody answered in time.
func (a answer) late() bool { return errors.Is(a.err, nats.ErrTimeout) }
