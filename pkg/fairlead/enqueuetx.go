package fairlead

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Tx is a transaction, or a connection, of pgx: a pgx.Tx, a *pgx.Conn, a
// *pgxpool.Pool.
type Tx[R Row] interface {
	QueryRow(ctx context.Context, query string, args ...any) R
}

// Row is what a [Tx] answers with.
type Row interface{ Scan(dest ...any) error }

// SQLTx is a transaction, or a connection, of database/sql with a driver of
// Postgres: a *sql.Tx, a *sql.Conn, a *sql.DB.
type SQLTx interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// The SQLSTATEs with which fairlead.complete refuses.
const (
	fenceLostState = "FL001"
	committedState = "FL002"
)

const (
	enqueueSQL = `select fairlead.enqueue(name => $1::text, input => $2::text::json, idempotency_key => nullif($3::text, ''), ` +
		`unique_key => nullif($4::text, ''), run_at => case when $5::text <> '' then $5::text::timestamptz ` +
		`when $6::bigint > 0 then clock_timestamp() + $6::bigint * interval '1 millisecond' end, ` +
		`priority => $7::integer, timeout_ms => nullif($8::bigint, 0), metadata => nullif($9::text, '')::json)::text`
	completeSQL = `select 1 from fairlead.complete($1::text::uuid, $2::bigint, $3::text::json)`
)

// EnqueueTx stores a task in a transaction of one's own, for those who share the
// database with the tasks service: it is there if and only if the transaction
// commits. tx is a pgx.Tx, or what else of pgx has its QueryRow. It returns the id
// of the task, or that of the one which a key makes it.
//
// It needs neither NATS nor the service, only the right to execute the function
// fairlead.enqueue. What it refuses ends the transaction, as every error of
// Postgres does. IdempotencyKey has no default here, and TraceParent is ignored.
func EnqueueTx[R Row](ctx context.Context, tx Tx[R], name string, in any, o EnqueueOptions) (id string, err error) {
	args, err := enqueueArgs(name, in, o)
	if err != nil {
		return "", fmt.Errorf("enqueue %s: %w", name, err)
	}
	return scanID(name, tx.QueryRow(ctx, enqueueSQL, args...))
}

// EnqueueSQLTx is [EnqueueTx] for database/sql.
func EnqueueSQLTx(ctx context.Context, tx SQLTx, name string, in any, o EnqueueOptions) (id string, err error) {
	args, err := enqueueArgs(name, in, o)
	if err != nil {
		return "", fmt.Errorf("enqueue %s: %w", name, err)
	}
	return scanID(name, tx.QueryRowContext(ctx, enqueueSQL, args...))
}

// CompleteTx commits a task's result in the transaction of its effect, for those
// who share the database with the tasks service: both happen, and once, or
// neither. The worker's function returns the same result when the transaction has
// committed, and an error when it has not. It is [ErrFenceLost] where the attempt
// was given up, and ALREADY_EXISTS where it was committed before, by a commit of
// which one has not heard: this transaction can't commit any more then.
func CompleteTx[R Row](ctx context.Context, tx Tx[R], a *Attempt, result any) error {
	data, err := encodeResult(result)
	if err != nil {
		return fmt.Errorf("complete %s: %w", a.ID(), err)
	}
	return a.scanCompleted(tx.QueryRow(ctx, completeSQL, uuidOf(a.id), a.fence, string(data)))
}

// CompleteSQLTx is [CompleteTx] for database/sql.
func CompleteSQLTx(ctx context.Context, tx SQLTx, a *Attempt, result any) error {
	data, err := encodeResult(result)
	if err != nil {
		return fmt.Errorf("complete %s: %w", a.ID(), err)
	}
	return a.scanCompleted(tx.QueryRowContext(ctx, completeSQL, uuidOf(a.id), a.fence, string(data)))
}

func enqueueArgs(name string, in any, o EnqueueOptions) ([]any, error) {
	if err := wire.CheckTaskName("name", name); err != nil {
		return nil, err
	}
	input, err := wire.EncodeData("input", in)
	if err != nil {
		return nil, err
	}
	meta, err := metadata(o.Metadata)
	if err != nil {
		return nil, err
	}
	for field, d := range map[string]time.Duration{"delay": o.Delay, "timeout": o.Timeout} {
		if d < 0 {
			return nil, wire.InvalidField(field, "must not be below 0")
		}
	}
	runAt := ""
	if !o.RunAt.IsZero() {
		if o.Delay != 0 {
			return nil, wire.InvalidField("runAt", "not beside delay")
		}
		runAt = o.RunAt.UTC().Format(time.RFC3339Nano)
	}
	return []any{name, string(input), o.IdempotencyKey, o.UniqueKey, runAt, wholeMs(o.Delay), o.Priority, wholeMs(o.Timeout), string(meta)}, nil
}

// wholeMs is a duration in ms, rounded up: 0 stands for none.
func wholeMs(d time.Duration) int64 { return (d + time.Millisecond - 1).Milliseconds() }

func scanID(name string, row Row) (string, error) {
	var text string
	if err := row.Scan(&text); err != nil {
		return "", fmt.Errorf("enqueue %s: %w", name, err)
	}
	var id wire.TaskID
	if n, err := hex.Decode(id[:], []byte(strings.ReplaceAll(text, "-", ""))); err != nil || n != len(id) {
		return "", fmt.Errorf("enqueue %s: the id is %q", name, text)
	}
	return id.String(), nil
}

func (a *Attempt) scanCompleted(row Row) error {
	var one int
	err := row.Scan(&one)
	var state interface{ SQLState() string }
	switch {
	case !errors.As(err, &state):
	case state.SQLState() == fenceLostState:
		a.lose(true)
		err = ErrFenceLost
	case state.SQLState() == committedState:
		err = wire.Errorf(wire.AlreadyExists, "the attempt was committed before")
	}
	if err != nil {
		return fmt.Errorf("complete %s: %w", a.ID(), err)
	}
	return nil
}

// uuidOf writes a task's id as Postgres has it.
func uuidOf(id wire.TaskID) string { return hex.EncodeToString(id[:]) }
