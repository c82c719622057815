package fairlead_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// taskService stands for a replica of the tasks service: it dispatches attempts and
// hears what their workers say.
type taskService struct {
	*rig
	beats   chan *nats.Msg // signs of life
	results chan *nats.Msg // ends of attempts, as replies

	mu     sync.Mutex
	beat   func(*nats.Msg) *nats.Msg // answers; nil: not at all
	result func(*nats.Msg) *nats.Msg
}

var acknowledged = body(`{}`)

// fenceLost is how the service refuses what an attempt says that was given up.
var fenceLost = refusal("FAILED_PRECONDITION", "the attempt was given up", `{"details":{"fence":9,"state":"running"}}`)

func startTasks(t *testing.T) *taskService {
	t.Helper()
	s := &taskService{rig: start(t, fairlead.Options{}), beats: make(chan *nats.Msg, 10_000), results: make(chan *nats.Msg, 1000), beat: acknowledged, result: acknowledged}
	_, err := s.other.Subscribe("fl.svc.tasks.reply.r1.*.*.*", func(msg *nats.Msg) {
		s.mu.Lock()
		heard, answer := s.results, s.result
		if msg.Header.Get("Fl-Task-Progress") == "1" {
			heard, answer = s.beats, s.beat
		}
		s.mu.Unlock()
		heard <- msg
		if answer != nil && msg.Reply != "" {
			if err := msg.RespondMsg(answer(msg)); err != nil {
				t.Errorf("answer a worker: %v", err)
			}
		}
	})
	must(t, err)
	must(t, s.other.FlushTimeout(patience))
	return s
}

// answer sets how signs of life and results are answered; nil: not at all.
func (s *taskService) answer(beat, result func(*nats.Msg) *nats.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beat, s.result = beat, result
}

// dispatched is an attempt as the service gives it to a worker.
type dispatched struct {
	id      wire.TaskID
	fence   int64
	number  int
	timeout time.Duration
	header  nats.Header
	input   string
}

func attempt(input string) dispatched {
	return dispatched{id: wire.NewTaskID(time.Now()), fence: 1, number: 1, timeout: time.Minute, input: input}
}

func (d dispatched) cancelSubject() string { return wire.Namespace("fl").TaskCancel(d.id, d.fence) }

// dispatch sends an attempt to the workers of a name.
func (s *taskService) dispatch(name string, d dispatched) dispatched {
	s.t.Helper()
	msg := &nats.Msg{Subject: "fl.task." + name, Reply: wire.Namespace("fl").TaskReply("r1", d.id, d.fence, "token"), Data: []byte(d.input), Header: nats.Header{
		"Fl-Task-Id": {d.id.String()}, "Fl-Task-Attempt": {strconv.Itoa(d.number)}, "Fl-Task-Fence": {strconv.FormatInt(d.fence, 10)},
		"Fl-Task-Token": {"token"}, "Fl-Task-Timeout-Ms": {strconv.FormatInt(d.timeout.Milliseconds(), 10)}, "Fl-Task-Cancel": {d.cancelSubject()},
		"Fl-Idempotency-Key": {d.id.String()},
	}}
	for k, v := range d.header {
		msg.Header[k] = v
	}
	must(s.t, s.other.PublishMsg(msg))
	must(s.t, s.other.FlushTimeout(patience))
	return d
}

// of waits for what is said of an attempt.
func of(t *testing.T, from <-chan *nats.Msg, d dispatched) *nats.Msg {
	t.Helper()
	for {
		msg := receive(t, from)
		if _, id, fence, token, ok := wire.Namespace("fl").ParseTaskReply(msg.Subject); ok && id == d.id && fence == d.fence && token == "token" {
			return msg
		}
	}
}

// work begins a worker, or fails the test.
func work[In, Out any](s *taskService, name string, o fairlead.WorkOptions, fn func(context.Context, *fairlead.Attempt, In) (Out, error)) *fairlead.Worker {
	s.t.Helper()
	w, err := fairlead.Work(s.f, name, fn, o)
	must(s.t, err)
	return w
}

// until works until its context ends, and passes on why.
func until(s *taskService, name string, o fairlead.WorkOptions) (began chan *fairlead.Attempt, why chan error) {
	s.t.Helper()
	began, why = make(chan *fairlead.Attempt, 100), make(chan error, 100)
	work(s, name, o, func(ctx context.Context, a *fairlead.Attempt, _ raw) (any, error) {
		began <- a
		<-ctx.Done()
		why <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	return began, why
}

// said is an end as the service is told of it: what a result or an error says.
func said(msg *nats.Msg) string {
	e := wire.ParseErrorHeader(msg.Header, msg.Data)
	if e == nil {
		return string(msg.Data)
	}
	text := fmt.Sprint(e.Code, ": ", e.Message)
	if retryable := msg.Header.Get("Fl-Task-Retryable"); retryable != "" {
		text += " retryable=" + retryable
	}
	if string(msg.Data) != "{}" {
		text += " " + string(msg.Data)
	}
	return text
}

// hello reads what a worker says of itself.
func hello(t *testing.T, msg *nats.Msg) (h wire.TaskHello) {
	t.Helper()
	must(t, json.Unmarshal(msg.Data, &h))
	return h
}

// shortLease is one that tests can wait for.
const shortLease = 1500 * time.Millisecond
