package bus

import (
	"net"
	"time"
)

// A host that is cut off says nothing, and NATS' own pings notice after 20 s. The
// operating system notices sooner: what was sent is not acknowledged, or the peer of
// a silent connection does not answer its probes.
const (
	ackTimeout   = 6 * time.Second // of what was sent; only Linux has it
	probeAfter   = 3 * time.Second
	probeEvery   = time.Second
	probesMissed = 3
)

// dialer connects within timeout, to peers that are given up when they are cut off.
func dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:         timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probeAfter, Interval: probeEvery, Count: probesMissed},
		Control:         impatient,
	}
}
