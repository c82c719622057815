//go:build unix

package integration

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A replica that stops answers those who wait, with nothing.
func TestJobsWaitEndsWithReplica(t *testing.T) {
	t.Parallel()
	s := bareTasks(t, 1)
	inbox := s.nc.NewInbox()
	answers := make(chan *nats.Msg, 1)
	sub, err := s.nc.ChanSubscribe(inbox, answers)
	must(t, err)
	defer func() { must(t, sub.Unsubscribe()) }()
	must(t, s.nc.PublishRequest("fl.svc.tasks.job.claim", inbox, []byte(`{"queue":"q","wait":"5m"}`)))
	askTasks[wire.JobCount](s, "job.pending", `{}`) // it came before
	s.replicas[0].signal()
	if m := receive(t, answers); string(m.Data) != `{"jobs":[]}` {
		t.Errorf("answer %q, want no jobs", m.Data)
	}
	if code := s.replicas[0].exit(patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}
