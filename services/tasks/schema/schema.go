// Package schema makes the tables of tasks, and of what stands beside them, in
// the Postgres schema fairlead.
//
// Migrations only ever add: a release works with the tables of the next one, and
// with its own while its last migration has not run yet.
package schema

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// lock is the key of the advisory lock that lets one process at a time change
	// the schema.
	lock = 0x666c_7461_736b // "fltask"
	// timeout bounds a migration, and the wait for that of another process.
	timeout = time.Minute
)

// Migrate brings the tables to what this version needs. Any number of processes
// may do so at once. The schema fairlead is made where it is missing; a user who
// may not make it can use one that is there.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	files, err := fs.Sub(migrations, "migrations")
	if err == nil {
		err = migrate(ctx, pool, files)
	}
	if err != nil {
		return fmt.Errorf("migrate the tables of tasks: %w", err)
	}
	return nil
}

func migrate(ctx context.Context, pool *pgxpool.Pool, files fs.FS) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// The lock has a connection of its own: it is given back with that, however
	// this ends.
	conn, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	if err = prepare(ctx, conn); err == nil {
		err = up(ctx, pool, files)
	}
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

// prepare takes the lock and makes the schema: goose keeps its own table there,
// and makes that before anything else.
func prepare(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, `select pg_advisory_lock($1)`, int64(lock)); err != nil {
		return err
	}
	var there bool
	err := conn.QueryRow(ctx, `select exists (select from pg_namespace where nspname = 'fairlead')`).Scan(&there)
	if err == nil && !there {
		_, err = conn.Exec(ctx, `create schema if not exists fairlead`)
	}
	return err
}

func up(ctx context.Context, pool *pgxpool.Pool, files fs.FS) (err error) {
	db := stdlib.OpenDBFromPool(pool)
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName("fairlead.tasks_version"), goose.WithDisableGlobalRegistry(true))
	if err == nil {
		_, err = provider.Up(ctx)
	}
	return err
}
