//go:build unix

package bench

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// checkFiles says so before connections fail for want of descriptors. (The
// runtime has raised the soft limit already.)
func checkFiles(n int) error {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return nil // unknown: the kernel will tell
	}
	const others = 64
	if uint64(n)+others > uint64(r.Cur) {
		return fmt.Errorf("%d connections: the limit of open files is %d (ulimit -n)", n, r.Cur)
	}
	return nil
}
