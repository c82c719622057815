//go:build !linux && !darwin

package natsdev

import "os"

// lockFile does nothing here: the port is what keeps a second server out.
func lockFile(*os.File) error { return nil }
