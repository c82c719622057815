package natsdev

import (
	"errors"
	"os"
	"path/filepath"
)

// errInUse is the cause of a StoreError when another server holds the directory.
var errInUse = errors.New("in use by another server")

// dirLock keeps two servers off one directory, where they would destroy each
// other's streams. It dies with the process, so a killed server leaves nothing
// to clean up.
type dirLock struct{ f *os.File }

// openStore makes the directory, proves that it can be written and locks it.
func openStore(dir string) (*dirLock, error) {
	if dir == "" {
		return nil, &StoreError{Dir: `""`, Err: errors.New("must be named")}
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, &StoreError{Dir: dir, Err: err}
	}
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return nil, &StoreError{Dir: dir, Err: err}
	}
	_, err = probe.WriteString("fairlead")
	err = errors.Join(err, probe.Close(), os.Remove(probe.Name()))
	if err != nil {
		return nil, &StoreError{Dir: dir, Err: err}
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &StoreError{Dir: dir, Err: err}
	}
	if err := lockFile(f); err != nil {
		_ = f.Close() // the lock's error is the one that matters
		return nil, &StoreError{Dir: dir, Err: err}
	}
	return &dirLock{f: f}, nil
}

func (l *dirLock) release() { _ = l.f.Close() } // closing gives the lock back
