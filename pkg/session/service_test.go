package session

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, name := range natsdev.Lingering() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

const patience = 20 * time.Second

// service is a NATS worker that answers as docs/sessions.md says the service
// does; what the service itself does is tested in integration.
type service struct {
	t  *testing.T
	nc *nats.Conn // the application's

	mu      sync.Mutex
	held    map[string]string // data by token
	asked   []string          // endpoints
	ttls    []string
	refuse  map[string]*wire.Error // by endpoint: what it answers, after it did what was asked
	stalled chan struct{}          // nothing is answered before it is closed; nil: at once
}

func startService(t *testing.T) *service {
	t.Helper()
	url := natsdev.Test(t).ClientURL()
	connect := func() *nats.Conn {
		nc, err := nats.Connect(url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	s := &service{t: t, nc: connect(), held: map[string]string{}, refuse: map[string]*wire.Error{}}
	worker := connect()
	const prefix = "fl.svc.presence.session."
	_, err := worker.Subscribe(prefix+"*", func(m *nats.Msg) { s.answer(strings.TrimPrefix(m.Subject, prefix), m) })
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Flush(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) answer(endpoint string, m *nats.Msg) {
	var req wire.SessionRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		s.t.Errorf("%s: %v in %s", endpoint, err, m.Data)
	}
	if m.Header.Get(wire.HeaderDeadline) == "" {
		s.t.Errorf("%s: no deadline", endpoint)
	}
	s.mu.Lock()
	stalled := s.stalled
	s.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, endpoint)
	reply := nats.NewMsg(m.Reply)
	var body any = struct{}{}
	data, found := s.held[req.Token]
	failure := s.refuse[endpoint]
	switch endpoint {
	case "set":
		s.ttls = append(s.ttls, req.TTL)
		if req.Existing && !found {
			failure = wire.ErrNotFound
			break
		}
		s.held[req.Token] = string(req.Data)
	case "get":
		if !found {
			failure = wire.ErrNotFound
		}
		body = wire.SessionData{Data: json.RawMessage(data)}
	case "delete":
		delete(s.held, req.Token)
		body = wire.SessionOK{OK: found}
	default:
		failure = wire.ErrUnimplemented
	}
	if failure != nil {
		wire.ErrorHeader(reply.Header, failure)
	} else if reply.Data, _ = json.Marshal(body); reply.Data == nil {
		s.t.Errorf("%s: no answer", endpoint)
	}
	if err := m.RespondMsg(reply); err != nil {
		s.t.Errorf("%s: %v", endpoint, err)
	}
}

// took returns the endpoints that were asked since the last call.
func (s *service) took() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	took := strings.Join(s.asked, " ")
	s.asked = nil
	return took
}

// fail makes an endpoint answer with an error; nil ends that.
func (s *service) fail(endpoint string, err *wire.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse[endpoint] = err
}

// sessions returns what is held, by token.
func (s *service) sessions() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := map[string]string{}
	for token, data := range s.held {
		held[token] = data
	}
	return held
}

func (s *service) hold(token, data string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[token] = data
}

func (s *service) drop(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, token)
}

// stall makes the service answer nothing until the function that it returns is
// called.
func (s *service) stall() (resume func()) {
	stalled := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalled = stalled
	return func() { close(stalled) }
}
