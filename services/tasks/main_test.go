package tasks

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgdev.Main(m), ofTheServer()...) }

// ofTheServer ignores what the embedded NATS server leaves behind.
func ofTheServer() (ignored []goleak.Option) {
	for _, name := range natsdev.Lingering() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	return ignored
}
