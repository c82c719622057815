package fairleadtest_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairleadtest"
)

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, f := range natsdev.Lingering() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(f))
	}
	goleak.VerifyTestMain(m, ignored...)
}

func TestStartIsFast(t *testing.T) {
	before := time.Now()
	s := fairleadtest.Start(t)
	t.Logf("started in %v", time.Since(before))
	ann := s.Client("ann")
	if _, err := ann.Publish(t.Context(), "chat.lobby", "message", 1, client.PublishOptions{}); err != nil {
		t.Fatal(err)
	}
	s.WaitOnline("ann")
}
