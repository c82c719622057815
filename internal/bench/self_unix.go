//go:build unix

package bench

import (
	"time"

	"golang.org/x/sys/unix"
)

// ownCPU returns what this process has used; 0 where it can't be learned.
func ownCPU() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
