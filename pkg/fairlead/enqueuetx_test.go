package fairlead_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// asker keeps what Postgres would be asked.
type asker struct{ args []any }

func (a *asker) QueryRow(_ context.Context, _ string, args ...any) *asker {
	a.args = args
	return a
}

func (a *asker) Scan(...any) error { return errors.New("no row") }

// What is shorter than a millisecond is not none, which it is for Postgres.
func TestEnqueueTxDurations(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{0: "0", 1: "1", time.Millisecond: "1", 1500 * time.Microsecond: "2"} {
		var asked asker
		_, _ = fairlead.EnqueueTx(t.Context(), &asked, "mail", 1, fairlead.EnqueueOptions{Delay: d, Timeout: d}) // there is no row
		if got := fmt.Sprint(asked.args[5], " ", asked.args[7]); got != want+" "+want {
			t.Errorf("%v is %s ms, want %s", d, got, want)
		}
	}
	for _, o := range []fairlead.EnqueueOptions{{Delay: -1}, {Timeout: -1}} {
		_, err := fairlead.EnqueueTx(t.Context(), &asker{}, "mail", 1, o)
		coded(t, err, wire.InvalidArgument)
	}
}
