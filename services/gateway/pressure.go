package gateway

import "github.com/fairlead-io/fairlead/internal/rules"

// load is how a gateway is at one moment.
type load struct {
	Memory      float64 // share of the limit that is in use; 0 where there is no limit
	Published   float64 // messages that its clients published, or wanted to, per second
	Subscribed  float64 // subscriptions for each connection
	Connections int
}

// aloneConnections is how many connections there have to be for their
// subscriptions to count: a few that subscribe to much are no pressure.
const aloneConnections = 100

// over returns the thresholds that the load has come to.
func (l load) over(t Pressure) (over pressures) {
	if t.Memory > 0 && l.Memory >= t.Memory {
		over = over.with(rules.Memory)
	}
	if t.PublishRate > 0 && l.Published >= float64(t.PublishRate) {
		over = over.with(rules.PublishRate)
	}
	if t.Subscribers > 0 && l.Connections >= aloneConnections && l.Subscribed >= float64(t.Subscribers) {
		over = over.with(rules.Subscribers)
	}
	return over
}

// pressures is a set of reasons.
type pressures uint32

func (p pressures) with(r rules.Pressure) pressures { return p | 1<<r }

func (p pressures) has(r rules.Pressure) bool { return p&(1<<r) != 0 }

// everyPressure is in the order in which one is the reason before another.
var everyPressure = [...]rules.Pressure{rules.Memory, rules.PublishRate, rules.Subscribers}

// noReason stands for a set that is empty.
const noReason = "NONE"

// reason returns the one of the set that is said of it.
func (p pressures) reason() string {
	for _, r := range everyPressure {
		if p.has(r) {
			return r.String()
		}
	}
	return noReason
}

// calm is how many samples in a row have to be below a threshold until it no
// longer counts: a load right at the threshold does not come and go.
const calm = 2

// barometer turns samples into the reasons that count.
type barometer struct {
	active pressures
	below  [len(everyPressure)]int // samples in a row
}

// take takes the next sample.
func (b *barometer) take(over pressures) {
	for i, r := range everyPressure {
		if over.has(r) {
			b.below[i] = 0
			b.active = b.active.with(r)
			continue
		}
		if b.below[i] = min(b.below[i]+1, calm); b.below[i] == calm {
			b.active &^= 1 << r
		}
	}
}
