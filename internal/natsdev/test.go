package natsdev

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// TB is what this package needs of a testing.TB. Naming it here keeps the
// testing package out of the binary, which links natsdev for `fairlead dev`.
type TB interface {
	Helper()
	TempDir() string
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Test starts a server for a test on a free port, with data in a temporary
// directory, and shuts it down when the test ends. Options change the
// configuration before the start.
func Test(t TB, options ...func(*Config)) *Server {
	t.Helper()
	cfg := Config{StoreDir: t.TempDir(), SyncInterval: time.Hour, Name: "test", Port: FreePort(t)}
	chosen := cfg.Port
	for _, o := range options {
		o(&cfg)
	}
	s, err := Start(cfg)
	for tries := 5; errors.Is(err, syscall.EADDRINUSE) && cfg.Port == chosen && tries > 0; tries-- {
		chosen = FreePort(t) // another test was faster
		cfg.Port = chosen
		s, err = Start(cfg)
	}
	if err != nil {
		t.Fatalf("start embedded NATS: %v", err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// ports is how many ports this process has tried, from a place of its own on: no
// two tests of it are given the same one, also while a server is down for the
// moment.
var ports, firstPort = new(atomic.Uint32), rand.Uint32()

// FreePort finds a port that nothing listens on, below those that the system
// hands out by itself: a server that is restarted on it finds it free again.
func FreePort(t TB) int {
	t.Helper()
	const from, to, tries = 12000, 32000, 100
	var err error
	for range tries {
		port := from + int((firstPort%(to-from)+ports.Add(1))%(to-from))
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatalf("find a free port: %v", err)
	return 0
}
