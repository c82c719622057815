package fairlead_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func echo(s *taskService, name string) {
	work(s, name, fairlead.WorkOptions{}, func(_ context.Context, _ *fairlead.Attempt, in raw) (raw, error) {
		if string(in) == `"fail"` {
			return nil, fairlead.NonRetryable(wire.Errorf(wire.Aborted, "no").With("why", 1))
		}
		return in, nil
	})
}

// Who supervised the attempt is gone: whoever answers for the service gets the
// result, until it has it.
func TestAResultIsSentAgain(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	echo(s, "echo")
	s.answer(acknowledged, refusal("UNAVAILABLE", "no lease", `{}`))
	var tries int
	completed := s.serve("fl.svc.tasks.complete", func(msg *nats.Msg) *nats.Msg {
		if tries++; tries < 3 {
			return refusal("UNAVAILABLE", "postgres is away", `{}`)(msg)
		}
		return acknowledged(msg)
	})
	failed := s.serve("fl.svc.tasks.fail", acknowledged)
	d := s.dispatch("echo", attempt(`{"a":1}`))
	for range 3 {
		if got, want := string(receive(t, completed).Data), `{"id":"`+d.id.String()+`","fence":1,"token":"token","result":{"a":1}}`; got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
	}
	d = s.dispatch("echo", attempt(`"fail"`))
	if got, want := string(receive(t, failed).Data), `{"id":"`+d.id.String()+`","fence":1,"token":"token","error":{"code":"ABORTED","message":"no","retryable":false,"details":{"why":1}}}`; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	must(t, s.f.Drain(t.Context()))
	if len(completed) > 0 || len(failed) > 0 {
		t.Errorf("sent %d times more behind the acknowledgement", len(completed)+len(failed))
	}
}

func TestARefusedResult(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	echo(s, "echo")
	completed := s.serve("fl.svc.tasks.complete", acknowledged)
	s.answer(acknowledged, fenceLost)
	s.dispatch("echo", attempt(`1`))
	receive(t, s.results)
	eventually(t, "the log says that the result was refused", func() bool { return strings.Contains(s.log.String(), "had been given up") })

	// The service takes no such result: the task is to fail with that.
	s.answer(acknowledged, refusal("INVALID_ARGUMENT", "result: no", `{}`))
	failed := s.serve("fl.svc.tasks.fail", acknowledged)
	s.dispatch("echo", attempt(`1`))
	var fail wire.TaskFail
	must(t, json.Unmarshal(receive(t, failed).Data, &fail))
	if fail.Error.Code != wire.InvalidArgument || fail.Error.Message != "the result was refused: result: no" {
		t.Errorf("failed with %+v", fail.Error)
	}

	// A transaction of the worker's own has committed it.
	s.answer(acknowledged, refusal("FAILED_PRECONDITION", "the attempt was given up", `{"details":{"fence":1,"state":"committed"}}`))
	must(t, s.f.Drain(t.Context()))
	if len(completed) > 0 {
		t.Errorf("a result that was refused was sent again: %s", (<-completed).Data)
	}
}

// NATS is restarted while an attempt runs, and after its result was sent.
func TestAResultOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	s := startTasks(t)
	hellos := s.listen("fl.svc.tasks.hello")
	finish := make(chan bool)
	work(s, "echo", fairlead.WorkOptions{}, func(_ context.Context, _ *fairlead.Attempt, in raw) (raw, error) {
		<-finish
		return in, nil
	})
	s.next(hellos)
	s.answer(acknowledged, nil) // the acknowledgement is lost with the connection
	completed := s.serve("fl.svc.tasks.complete", acknowledged)
	d := s.dispatch("echo", attempt(`5`))
	close(finish)
	of(t, s.results, d)
	must(t, s.server.Restart())
	if got := receive(t, completed); !strings.Contains(string(got.Data), d.id.String()) {
		t.Errorf("asked %s", got.Data)
	}
	s.next(hellos) // it says that it is there again
	must(t, s.f.Drain(t.Context()))
}
