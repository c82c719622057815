package pgdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// TB is what this package needs of a testing.TB. Naming it here keeps the
// testing package out of the binary, which links pgdev for `fairlead dev`.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// cluster is the one of a test binary: [Main] owns it, the first [Test] starts
// it. It is the only way from a test to what TestMain holds.
var cluster struct {
	sync.Mutex
	main      bool // Main runs
	server    *Server
	dir       string
	err       error // of the start: each test fails with it
	databases int
}

// Suite runs the tests of a package around one cluster.
type Suite struct{ tests interface{ Run() int } }

// Main lets the tests of a package use [Test]. It takes the *testing.M and
// stands in its place:
//
//	func TestMain(m *testing.M) { os.Exit(pgdev.Main(m).Run()) }
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(pgdev.Main(m)) }
func Main(tests interface{ Run() int }) *Suite { return &Suite{tests: tests} }

// Run runs the tests, then stops the cluster if one of them needed it, and
// returns the exit code.
func (s *Suite) Run() int {
	cluster.Lock()
	cluster.main = true
	cluster.Unlock()
	code := s.tests.Run()
	cluster.Lock()
	defer cluster.Unlock()
	if cluster.server != nil {
		cluster.server.Stop()
	}
	if cluster.dir != "" {
		if err := os.RemoveAll(cluster.dir); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, "remove the cluster:", err)
			code = 1
		}
	}
	return code
}

// Test returns the URL of a fresh database, which is dropped when the test
// ends. All tests of a package share one cluster (see [Main]); one that stops
// the server takes its own with [TestServer]. Without an installed PostgreSQL
// the test fails.
func Test(t TB) string {
	t.Helper()
	s, name, err := shared()
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := s.exec("create database " + name); err != nil {
		t.Fatalf("make a database: %v", err)
	}
	t.Cleanup(func() {
		if err := s.exec("drop database " + name + " with (force)"); err != nil {
			t.Fatalf("drop the database: %v", err)
		}
	})
	return s.urlOf(name)
}

func shared() (s *Server, database string, err error) {
	cluster.Lock()
	defer cluster.Unlock()
	if !cluster.main {
		return nil, "", errors.New("pgdev.Test needs pgdev.Main in TestMain")
	}
	if cluster.server == nil && cluster.err == nil {
		if cluster.dir, cluster.err = os.MkdirTemp("", "fl-pg"); cluster.err == nil {
			cluster.server, cluster.err = Start(context.Background(), Config{Dir: cluster.dir, Unsafe: true})
		}
	}
	cluster.databases++
	return cluster.server, fmt.Sprintf("test_%d", cluster.databases), cluster.err
}

func (s *Server) exec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// TestServer starts a server for one test, which may stop and restart it, and
// stops it when the test ends. It takes about a second.
func TestServer(t TB) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl-pg") // a test's own has parents that are closed to nobody
	if err != nil {
		t.Fatalf("make a directory for postgres: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left is in the system's temporary directory
	s, err := Start(context.Background(), Config{Dir: dir, Unsafe: true})
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(s.Stop)
	return s
}
