package fairleadtest

import (
	"fmt"
	"os"
	"testing"
)

// StartMain starts a stack where there is no test: for examples, and for
// TestMain, whose tests share it by [Stack.In]. What would fail a test panics.
// stop ends everything.
func StartMain(o ...Options) (s *Stack, stop func()) {
	t := &outside{}
	return Start(t, o...), t.end
}

// outside is a test that is none.
type outside struct {
	testing.TB // nil: what is used of it is below
	cleanups   []func()
}

func (t *outside) Helper() {}

func (t *outside) Failed() bool { return false }

func (t *outside) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func (t *outside) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (t *outside) Cleanup(fn func()) { t.cleanups = append(t.cleanups, fn) }

func (t *outside) TempDir() string {
	dir, err := os.MkdirTemp("", "fairleadtest-")
	if err != nil {
		t.Fatalf("fairleadtest: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (t *outside) end() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
	t.cleanups = nil
}
