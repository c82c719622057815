package fairleadtest

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/fairlead"
)

// database is the Postgres of a stack, with the way of the services to it.
type database struct {
	url  string // straight to it
	link *Link
}

// newDatabase uses the database at a URL, or starts a server for the test.
func newDatabase(t testing.TB, at string) (*database, error) {
	if at == "" {
		at = pgdev.TestServer(t).URL()
	}
	u, err := url.Parse(at)
	if err != nil || u.Port() == "" {
		return nil, fmt.Errorf("Options.PostgresURL: not a postgres:// URL with a host and a port")
	}
	link, err := newLink(u.Host, false)
	if err != nil {
		return nil, err
	}
	return &database{url: at, link: link}, nil
}

// through returns the URL by which the services reach the database.
func (d *database) through() string {
	u, err := url.Parse(d.url)
	if err != nil {
		return d.url // it was read before
	}
	u.Host = d.link.Addr()
	return u.String()
}

// PostgresURL returns where the stack's Postgres is, for workers that share it:
// straight to the server, so that no cut of this package concerns them. It fails
// the test where the stack has none.
func (s *Stack) PostgresURL() string { s.t.Helper(); return s.postgres().url }

// CutPostgres takes Postgres away from the services, as an outage of it does:
// connections are reset and new ones refused.
func (s *Stack) CutPostgres() { s.t.Helper(); s.postgres().link.Cut() }

// RestorePostgres is the end of [Stack.CutPostgres].
func (s *Stack) RestorePostgres() { s.t.Helper(); s.postgres().link.Restore() }

func (s *Stack) postgres() *database {
	s.t.Helper()
	if s.database == nil {
		s.t.Fatal("fairleadtest: the stack has no Postgres: set Options.Tasks")
	}
	return s.database
}

// Fairlead returns the backend's side, over a connection as of [Stack.NATS]: for
// workers, and to ask the services. It is closed with the test.
func (s *Stack) Fairlead() *fairlead.Fairlead {
	s.t.Helper()
	f := fairlead.New(s.NATS(), fairlead.Options{Timeout: Patience, Log: s.log.logger})
	s.t.Cleanup(f.Close)
	return f
}
