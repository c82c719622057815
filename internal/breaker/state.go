package breaker

// State is what a breaker thinks of its backend. As a number it is the value of
// the metrics named breaker_state.
type State int32

// The states of a breaker.
const (
	Healthy State = iota // calls pass
	Probing              // one call passes
	Broken               // none does
)

// String returns the state as events and logs have it.
func (s State) String() string {
	switch s {
	case Healthy:
		return "healthy"
	case Probing:
		return "probing"
	case Broken:
		return "broken"
	}
	return "unknown"
}

// Outcome is what a call says about its backend.
type Outcome uint8

// The outcomes of a call.
const (
	// Success: the backend answered, whatever it said.
	Success Outcome = iota
	// Failure: it did not.
	Failure
	// Neither: the call ended for a reason of the caller's own. As a probe it has
	// to be repeated, after the delay.
	Neither
)
