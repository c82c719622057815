package demo

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if says := os.Getenv(childEnv); says != "" {
		serveAsChild(says)
		return
	}
	goleak.VerifyTestMain(m)
}
