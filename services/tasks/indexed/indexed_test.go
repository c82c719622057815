package indexed

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead-io/fairlead/internal/pgdev"
)

func TestMain(m *testing.M) { os.Exit(pgdev.Main(m).Run()) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Whoever has a connection first, nobody who gets it later waits for another
// transaction longer than a second, and statements go by indexes.
func TestAConnectionIsToldOnce(t *testing.T) {
	t.Parallel()
	cfg, err := pgxpool.ParseConfig(pgdev.Test(t))
	must(t, err)
	cfg.MaxConns = 2
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	must(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), "create table one (id int primary key); insert into one values (1)")
	must(t, err)

	conn, err := Acquire(t.Context(), pool)
	must(t, err)
	var wait, scans string
	must(t, conn.QueryRow(t.Context(), "select current_setting('lock_timeout'), current_setting('enable_seqscan')").Scan(&wait, &scans))
	if wait != "1s" || scans != "off" {
		t.Errorf("lock_timeout is %s and enable_seqscan is %s, want 1s and off", wait, scans)
	}
	other, err := pool.Begin(t.Context())
	must(t, err)
	defer func() { _ = other.Rollback(context.Background()) }() // it is not committed
	_, err = other.Exec(t.Context(), "update one set id = 2")
	must(t, err)
	if _, err = conn.Exec(t.Context(), "update one set id = 3 where id = 1"); !Busy(err) {
		t.Errorf("a row that another transaction has: %v, want one that is busy", err)
	}
	told := conn.Conn()
	conn.Release()
	again, err := Acquire(t.Context(), pool)
	must(t, err)
	defer again.Release()
	if again.Conn() != told {
		t.Error("the connection that was told is not used again")
	}
}
