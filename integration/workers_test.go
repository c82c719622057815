package integration

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The workers of docs/workers.md are run as they stand there. Each is a program
// on NATS that a client knows by what it does only.

func TestWorkersInGoAnswerCalls(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"go", "plain"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			answersCalls(t, built(t, "../examples/workers/"+kind+"/calls"))
		})
	}
}

func TestWorkersInGoReachClients(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"go", "plain"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			reachesClients(t, built(t, "../examples/workers/"+kind+"/reach"))
		})
	}
}

// built builds a program and returns how to run it.
func built(t *testing.T, dir string) []string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "worker.exe")
	if out, err := exec.Command("go", "build", "-o", program, dir).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", dir, err, out)
	}
	return []string{program}
}

// startWorker runs a worker on the stack and returns when it listens.
func (s *stack) startWorker(command []string) *process {
	s.t.Helper()
	p := startProgram(s.t, "worker", []string{"NATS_URL=" + s.nats}, command[0], command[1:]...)
	p.line(p.stdout, "ready")
	return p
}

// answersCalls is what a client has of a worker that serves orders.create and
// report.build.
func answersCalls(t *testing.T, command []string) {
	s := anyStack(t, 1)
	worker := s.startWorker(command)
	ann := s.as(0, "ann")

	answer, err := ann.Call(within(t), "orders.create", json.RawMessage(`{"item":"tea"}`), client.CallOptions{})
	must(t, err)
	var receipt struct {
		Order int
		For   string
	}
	if err := json.Unmarshal(answer.Data, &receipt); err != nil || receipt.Order != 17 || receipt.For != "ann" {
		t.Errorf("orders.create answered %s, want order 17 for ann", answer.Data)
	}
	for _, in := range []string{`{}`, `null`, `{"item":""}`} {
		_, err = ann.Call(within(t), "orders.create", json.RawMessage(in), client.CallOptions{})
		if e := wire.AsError(err); err == nil || e.Code != wire.InvalidArgument || e.Message != "item: is required" {
			t.Errorf("an order of %s: %v, want INVALID_ARGUMENT of item", in, err)
		}
	}

	var progress []int
	answer, err = ann.Call(within(t), "report.build", json.RawMessage(`{"pages":3}`), client.CallOptions{
		Timeout: time.Minute,
		OnProgress: func(p json.RawMessage) {
			var at struct{ Page int }
			if err := json.Unmarshal(p, &at); err != nil {
				t.Errorf("progress %s: %v", p, err)
			}
			progress = append(progress, at.Page)
		},
	})
	must(t, err)
	if want := []int{1, 2, 3}; !slices.Equal(progress, want) {
		t.Errorf("progress: got the pages %v, want %v", progress, want)
	}
	var report struct{ Pages int }
	if err := json.Unmarshal(answer.Data, &report); err != nil || report.Pages != 3 {
		t.Errorf("report.build answered %s, want 3 pages", answer.Data)
	}

	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	_, err = ann.Call(ctx, "report.build", json.RawMessage(`{"pages":500}`), client.CallOptions{
		Timeout:    time.Minute,
		OnProgress: func(json.RawMessage) { cancel() }, // once the work has begun
	})
	if wire.CodeOf(err) != wire.Cancelled {
		t.Errorf("the call that was cancelled: %v", err)
	}
	worker.line(worker.stdout, "ann does not wait any more")
}

// reachesClients is what clients have of a worker that listens to chat.
func reachesClients(t *testing.T, command []string) {
	s := newStack(t, 2)
	startPresence(t, s.nats)
	s.startWorker(command)
	const user = "ann@example.com"
	ann, bob := s.as(0, user), s.as(1, "bob")
	yes := make(chan bool, 1)
	ann.Serve("confirm", func(_ context.Context, r client.Request) (any, error) {
		var question struct{ Text string }
		if err := json.Unmarshal(r.Data, &question); err != nil || question.Text != "Clear chat.lobby?" {
			t.Errorf("ann was asked %s", r.Data)
		}
		return map[string]bool{"yes": <-yes}, nil
	})
	direct := make(chan client.Message, 10)
	ann.Inbox(func(m client.Message) { direct <- m })
	room, err := bob.Subscribe(within(t), "chat.lobby", client.SubscribeOptions{})
	must(t, err)
	text := func(data []byte) string {
		var m struct{ Text string }
		must(t, json.Unmarshal(data, &m))
		return m.Text
	}
	for _, want := range []struct {
		yes         bool
		event, text string
	}{{false, "sorry", "not cleared"}, {true, "cleared", "by " + user}} {
		yes <- want.yes
		_, err := ann.Publish(within(t), "chat.lobby", "clear", nil, client.PublishOptions{})
		must(t, err)
		m, err := room.Next(within(t)) // what ann published
		must(t, err)
		if m.Event != "clear" {
			t.Errorf("bob got %s, want ann's message", m.Event)
		}
		if want.yes {
			m, err = room.Next(within(t))
			must(t, err)
		} else {
			m = receive(t, direct)
		}
		if m.Event != want.event || text(m.Data) != want.text || m.Topic != "chat.lobby" || m.Direct == want.yes {
			t.Errorf("yes %v: got %+v, want %s: %s", want.yes, m, want.event, want.text)
		}
	}
	// The error of the client is told, and what is no `clear` is left alone.
	ann.Serve("confirm", nil)
	_, err = ann.Publish(within(t), "chat.lobby", "say", "hello", client.PublishOptions{})
	must(t, err)
	_, err = ann.Publish(within(t), "chat.lobby", "clear", nil, client.PublishOptions{})
	must(t, err)
	if m := receive(t, direct); m.Event != "sorry" || text(m.Data) != "UNIMPLEMENTED" {
		t.Errorf("got %s %s, want sorry UNIMPLEMENTED", m.Event, m.Data)
	}
	if len(direct) != 0 {
		t.Errorf("ann got %d messages too many", len(direct))
	}
}
