package pgdev

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(Main(m)) }

func ask(t *testing.T, url, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var answer string
	if err := conn.QueryRow(ctx, sql).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestEachTestHasItsDatabase(t *testing.T) {
	const there = "select count(*)::text from pg_tables where tablename = 'mine'"
	a, b := Test(t), Test(t)
	ask(t, a, "with made as (select set_config('x.y', 'z', false)) select 'z' from made")
	ask(t, a, "select coalesce(max(oid)::text, '') from lo_create(0) as oid")
	if got := ask(t, b, "select count(*)::text from pg_largeobject_metadata"); got != "0" {
		t.Errorf("large objects in the other database: got %s, want 0", got)
	}
	if got := ask(t, a, there); got != "0" {
		t.Errorf("tables in a fresh database: got %s, want 0", got)
	}
	var gone string
	t.Run("dropped at the end", func(t *testing.T) { gone = Test(t) })
	name := gone[strings.LastIndex(gone, "/")+1 : strings.Index(gone, "?")]
	if got := ask(t, a, "select count(*)::text from pg_database where datname = '"+name+"'"); got != "0" {
		t.Errorf("database %s after its test: got %s, want 0", name, got)
	}
}

func TestOutage(t *testing.T) {
	s := TestServer(t)
	url := s.URL()
	ask(t, url, "select lo_create(4711)::text")
	s.Stop()
	s.Stop()
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		_ = conn.Close(t.Context())
		t.Fatal("connect to a stopped server: got nil, want an error")
	}
	for range 2 {
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
		if got := s.URL(); got != url {
			t.Errorf("URL after a restart: got %s, want %s", got, url)
		}
		if got := ask(t, url, "select count(*)::text from pg_largeobject_metadata where oid = 4711"); got != "1" {
			t.Errorf("what was stored before: got %s, want 1", got)
		}
	}
}

func TestStartOnWhatIsThere(t *testing.T) {
	dir, err := os.MkdirTemp("", "fl-pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for want := range 2 {
		s, err := Start(t.Context(), Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, s.URL(), "select count(*)::text from pg_largeobject_metadata"); got != string(rune('0'+want)) {
			t.Errorf("stored by runs before: got %s, want %d", got, want)
		}
		ask(t, s.URL(), "select lo_create(0)::text")
		if got := ask(t, s.URL(), "show fsync"); got != "on" {
			t.Errorf("fsync: got %s, want on", got)
		}
		_, err = Start(t.Context(), Config{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "lock file") {
			t.Errorf("a second server on the directory: got %v, want an error that names the lock file", err)
		}
		s.Stop()
	}
}

func TestDirectoryThatNobodyCanEnter(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root has to hand the cluster to somebody else
	}
	dir := filepath.Join(t.TempDir(), "cluster")
	_, err := Start(t.Context(), Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("Start: got %v, want an error that says who has no way in", err)
	}
}

func TestNoPostgres(t *testing.T) {
	t.Setenv("FAIRLEAD_PGBIN", t.TempDir())
	_, err := Start(t.Context(), Config{Dir: t.TempDir()})
	var missing *MissingError
	if !errors.As(err, &missing) {
		t.Fatalf("Start: got %v, want a *MissingError", err)
	}
	for _, e := range []*MissingError{missing, {}, {Version: "13"}} {
		if got := e.Error(); !strings.Contains(got, "FAIRLEAD_PGBIN") || strings.Contains(got, "\n") {
			t.Errorf("message: got %q, want one line that names FAIRLEAD_PGBIN", got)
		}
	}
	if _, err := find("", "999"); !errors.As(err, &missing) || missing.Version != "999" {
		t.Errorf("find a version that there isn't: got %v, want a *MissingError that names it", err)
	}
}

func TestNewestFirst(t *testing.T) {
	for dir, want := range map[string]float64{
		"/usr/lib/postgresql/15/bin": 15, "/usr/lib/postgresql/9.6/bin": 9.6,
		"/opt/homebrew/opt/postgresql@17/bin": 17, "/usr/pgsql-16/bin": 16, "/somewhere": 0,
	} {
		if got := release(dir); got != want {
			t.Errorf("release(%s) = %v, want %v", dir, got, want)
		}
	}
}
