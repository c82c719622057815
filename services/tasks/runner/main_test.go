package runner

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, name := range natsdev.Lingering() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}
