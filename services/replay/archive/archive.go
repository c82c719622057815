package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// connectTimeout and readTimeout together are less than who asks for
	// messages waits.
	connectTimeout = 2 * time.Second
	readTimeout    = 2 * time.Second
	writeTimeout   = 30 * time.Second

	// maxConnections bounds the pool where the URL does not (pool_max_conns).
	// Writers hold half of them at most: readers don't wait for copiers.
	maxConnections = 16
)

// Archive is the copy of replayed streams in Postgres. Its methods may be called
// concurrently and by several processes at once. While Postgres is away they
// return a *wire.Error UNAVAILABLE, which wraps the cause.
type Archive struct {
	pool    *pgxpool.Pool
	writers chan struct{} // one for each transaction under way
	wrote   func()        // nil: nobody hears
}

// OnWrite has wrote called whenever something was stored. It is called before
// anything else is done with the archive.
func (a *Archive) OnWrite(wrote func()) { a.wrote = wrote }

// CheckURL returns an error where [Open] would. It does not repeat the URL,
// which may hold a password.
func CheckURL(url string) error {
	_, err := parse(url)
	return err
}

func parse(url string) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("not a postgres:// URL that can be used")
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = connectTimeout
	}
	if !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = maxConnections
	}
	cfg.MinConns, cfg.MinIdleConns = 0, 0
	return cfg, nil
}

// Open returns the archive in the database of a postgres:// URL. It connects
// when it is first used: only a URL that can't be read is an error.
func Open(ctx context.Context, url string) (*Archive, error) {
	cfg, err := parse(url)
	if err != nil {
		return nil, fmt.Errorf("open the archive: %w", err)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the archive: %w", err)
	}
	return &Archive{pool: pool, writers: make(chan struct{}, max(cfg.MaxConns/2, 1))}, nil
}

// Close closes all connections and waits for those in use.
func (a *Archive) Close() { a.pool.Close() }

// tx runs f in a transaction.
func (a *Archive) tx(ctx context.Context, f func(pgx.Tx) error) error {
	select {
	case a.writers <- struct{}{}:
		defer func() { <-a.writers }()
	case <-ctx.Done():
		return ctx.Err()
	}
	err := pgx.BeginFunc(ctx, a.pool, f)
	if err == nil && a.wrote != nil {
		a.wrote()
	}
	return err
}

// SQLSTATEs, and beginnings of them, after which the same may work later.
var passing = []string{
	"08",           // connection
	"40001", "40P", // lost against another transaction
	"53",          // out of disk, memory, connections
	"55P03", "57", // lock not to be had, shut down, cancelled
	"25006",          // a standby that is to become the primary
	"3F000", "42P01", // no schema, no table: migrations have not run yet
}

// away gives an error of Postgres its code, where it has one for the caller.
func away(operation string, err error) error {
	var coded *wire.Error
	var state *pgconn.PgError
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &coded):
		return err
	case errors.Is(err, context.Canceled):
		return wrap(operation, wire.Errorf(wire.Cancelled, "cancelled"), err)
	case errors.Is(err, context.DeadlineExceeded):
		return wrap(operation, wire.Errorf(wire.Unavailable, "the archive did not answer in time"), err)
	case errors.As(err, &connect), errors.As(err, &network), pgconn.SafeToRetry(err),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return wrap(operation, wire.Errorf(wire.Unavailable, "the archive is away"), err)
	case errors.As(err, &state):
		for _, p := range passing {
			if strings.HasPrefix(state.Code, p) {
				return wrap(operation, wire.Errorf(wire.Unavailable, "the archive is away"), err)
			}
		}
	}
	return fmt.Errorf("%s: %w", operation, err)
}

func wrap(operation string, coded *wire.Error, cause error) error {
	return fmt.Errorf("%s: %w: %w", operation, coded, cause)
}
