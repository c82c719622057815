package integration

import "testing"

func TestWorkerInGoDoesTasks(t *testing.T) {
	t.Parallel()
	doesTasks(t, built(t, "../examples/workers/go/tasks"))
}
