//go:build unix

package integration

import (
	"os"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A replica that is stopped under load refuses nobody, and hands over what it has:
// what its workers say afterwards counts.
func TestTasksWhileAReplicaStops(t *testing.T) {
	t.Parallel()
	s := bareTasks(t, 2)
	slow := s.attempts("slow")
	s.serves("quick", func(*nats.Msg) string { return `1` })
	var ids []string
	var attempts []*nats.Msg
	for range 20 { // of both replicas
		ids = append(ids, s.enqueue(`{"name":"slow"}`))
		attempts = append(attempts, receive(t, slow))
	}
	stop := make(chan struct{})
	var loading sync.WaitGroup
	var mu sync.Mutex
	for range 4 {
		loading.Go(func() {
			for {
				var got wire.Task
				if err := s.raw("run", `{"name":"quick","wait":"20s"}`, &got); err != nil || got.ID == "" {
					t.Errorf("run while a replica stops: %+v, %v", got, err)
					return
				}
				mu.Lock()
				ids = append(ids, got.ID)
				mu.Unlock()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	some := func(n int) {
		t.Helper()
		eventually(t, "tasks are run", func() (any, bool) {
			mu.Lock()
			defer mu.Unlock()
			return len(ids), len(ids) >= n
		})
	}
	some(100)
	must(t, s.replicas[0].cmd.Process.Signal(os.Interrupt))
	if code := s.replicas[0].exit(patience); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	mu.Lock()
	n := len(ids)
	mu.Unlock()
	some(n + 50)
	close(stop)
	loading.Wait()
	for _, m := range attempts {
		must(t, m.Respond([]byte(`"said to who is gone"`)))
	}
	for i, id := range ids {
		got := s.wants(id, wire.TaskCommitted)
		if i < len(attempts) && (got.Attempt != 1 || got.Crashes != 0) {
			t.Errorf("what was handed over took %d attempts, %d crashes", got.Attempt, got.Crashes)
		}
	}
}
