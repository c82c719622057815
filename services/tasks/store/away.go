package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// lockNotHad is the SQLSTATE of a wait for a lock that took too long.
const lockNotHad = "55P03"

// passing are SQLSTATEs, and beginnings of them, after which the same may work
// later.
var passing = []string{
	"08",           // connection
	"40001", "40P", // lost against others again and again
	"53",             // out of disk, memory, connections
	"57",             // shut down, cancelled
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
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrState), errors.Is(err, ErrOwner), errors.As(err, &coded):
		return err
	case errors.Is(err, context.Canceled):
		return wrap(operation, wire.Errorf(wire.Cancelled, "cancelled"), err)
	case errors.Is(err, context.DeadlineExceeded):
		return wrap(operation, unavailable("postgres did not answer in time"), err)
	case errors.As(err, &state):
		if state.Code == lockNotHad {
			return wrap(operation, wire.Errorf(wire.Aborted, "another transaction has it and has not ended"), err)
		}
		for _, p := range passing {
			if strings.HasPrefix(state.Code, p) {
				return wrap(operation, unavailable("postgres is away"), err)
			}
		}
	case errors.As(err, &connect), errors.As(err, &network), pgconn.SafeToRetry(err),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return wrap(operation, unavailable("postgres is away"), err)
	}
	return fmt.Errorf("%s: %w", operation, err)
}

func unavailable(message string) *wire.Error {
	return wire.Errorf(wire.Unavailable, "%s", message).With("what", "postgres")
}

func wrap(operation string, coded *wire.Error, cause error) error {
	return fmt.Errorf("%s: %w: %w", operation, coded, cause)
}
