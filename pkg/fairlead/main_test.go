package fairlead_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, name := range natsdev.Lingering() { // of the embedded NATS server
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

// patience bounds every wait of a test: it only runs out where one fails.
const patience = 20 * time.Second

// rig is a worker under test, and a plain NATS connection that stands for
// Fairlead's side.
type rig struct {
	t      *testing.T
	server *natsdev.Server
	nc     *nats.Conn // of f
	f      *fairlead.Fairlead
	other  *nats.Conn
	log    *record
}

func start(t *testing.T, o fairlead.Options) *rig {
	t.Helper()
	r := &rig{t: t, server: natsdev.Test(t), log: &record{}}
	r.nc, r.other = r.connect(), r.connect()
	o.Log = slog.New(slog.NewTextHandler(r.log, nil))
	r.f = fairlead.New(r.nc, o)
	t.Cleanup(r.f.Close)
	return r
}

func (r *rig) connect() *nats.Conn {
	r.t.Helper()
	nc, err := nats.Connect(r.server.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	must(r.t, err)
	r.t.Cleanup(nc.Close)
	return nc
}

// record is a log that a test can read.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *record) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *record) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// listen subscribes on Fairlead's side.
func (r *rig) listen(subject string) *nats.Subscription {
	r.t.Helper()
	sub, err := r.other.SubscribeSync(subject)
	must(r.t, err)
	must(r.t, r.other.FlushTimeout(patience))
	return sub
}

func (r *rig) next(sub *nats.Subscription) *nats.Msg {
	r.t.Helper()
	msg, err := sub.NextMsg(patience)
	if err != nil {
		r.t.Fatalf("next message on %s: %v", sub.Subject, err)
	}
	return msg
}

// serve answers one subject on Fairlead's side with what fn returns, and passes
// on what was asked.
func (r *rig) serve(subject string, fn func(*nats.Msg) *nats.Msg) <-chan *nats.Msg {
	r.t.Helper()
	asked := make(chan *nats.Msg, 100)
	_, err := r.other.Subscribe(subject, func(msg *nats.Msg) {
		asked <- msg
		if err := msg.RespondMsg(fn(msg)); err != nil {
			r.t.Errorf("respond on %s: %v", subject, err)
		}
	})
	must(r.t, err)
	must(r.t, r.other.FlushTimeout(patience))
	return asked
}

func body(data string) func(*nats.Msg) *nats.Msg {
	return func(*nats.Msg) *nats.Msg { return &nats.Msg{Data: []byte(data)} }
}

func refusal(code, text, data string) func(*nats.Msg) *nats.Msg {
	return func(*nats.Msg) *nats.Msg {
		return &nats.Msg{Data: []byte(data), Header: nats.Header{"Nats-Service-Error-Code": {code}, "Nats-Service-Error": {text}}}
	}
}

// call calls a method as a gateway does, for ann, and returns the inbox on which
// the replies come.
func (r *rig) call(method, data string, header nats.Header) *nats.Subscription {
	r.t.Helper()
	inbox := r.other.NewInbox()
	replies := r.listen(inbox)
	if header == nil {
		header = nats.Header{}
	}
	header["Fl-User"], header["Fl-Conn"] = []string{"ann"}, []string{"c1"}
	must(r.t, r.other.PublishMsg(&nats.Msg{Subject: "fl.call." + method, Reply: inbox, Data: []byte(data), Header: header}))
	must(r.t, r.other.FlushTimeout(patience))
	return replies
}

// failure returns the error of a reply.
func failure(t *testing.T, msg *nats.Msg) *wire.Error {
	t.Helper()
	err := wire.ParseErrorHeader(msg.Header, msg.Data)
	if err == nil {
		t.Fatalf("got %s with %v, want an error", msg.Data, msg.Header)
	}
	return err
}

func coded(t *testing.T, err error, want wire.Code) *wire.Error {
	t.Helper()
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != want {
		t.Fatalf("got the error %v, want %s", err, want)
	}
	return e
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// handle serves a method, or fails the test.
func handle[In, Out any](r *rig, method string, o fairlead.HandleOptions, fn func(context.Context, *fairlead.Call, In) (Out, error)) *fairlead.Handler {
	r.t.Helper()
	h, err := fairlead.Handle(r.f, method, fn, o)
	must(r.t, err)
	return h
}

type order struct {
	Item  string `json:"item"`
	Count int    `json:"count"`
}

type raw = json.RawMessage
