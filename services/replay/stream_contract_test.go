package replay

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

func TestContractOnStream(t *testing.T) {
	testLog(t, func(t *testing.T, r Retention, now func() time.Time) Log {
		return openStream(t, natsdev.Test(t), r, now)
	})
}
