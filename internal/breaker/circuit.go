package breaker

import (
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// newCircuit returns a closed circuit. In probing one call passes at a time, and
// its outcome decides.
func newCircuit(failures uint, delay time.Duration, changed func(from, to State)) circuit {
	return circuitbreaker.NewBuilder[any]().
		WithFailureThreshold(failures).
		WithSuccessThreshold(1).
		WithDelay(delay).
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) { changed(stateOf(e.OldState), stateOf(e.NewState)) }).
		Build()
}

func stateOf(s circuitbreaker.State) State {
	switch s {
	case circuitbreaker.OpenState:
		return Broken
	case circuitbreaker.HalfOpenState:
		return Probing
	}
	return Healthy
}
