package archive

import (
	"context"
	"embed"
	"errors"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrationLock is the key of the advisory lock that lets one process at a time
// change the schema.
const migrationLock = 0x666c_6172_6368 // "flarch"

// Migrate brings the tables of the archive to what this version needs. Any
// number of processes may do so at once. They are in the schema fairlead, which
// is made where it is missing.
func (a *Archive) Migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	// The lock has a connection of its own: it is given back with that, however
	// this ends.
	conn, err := pgx.ConnectConfig(ctx, a.pool.Config().ConnConfig)
	if err != nil {
		return away("migrate the archive", err)
	}
	if err = prepare(ctx, conn); err == nil {
		err = a.up(ctx)
	}
	return away("migrate the archive", errors.Join(err, conn.Close(ctx)))
}

// prepare takes the lock and makes the schema: goose keeps its own table there,
// and makes that before anything else.
func prepare(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, `select pg_advisory_lock($1)`, int64(migrationLock)); err != nil {
		return err
	}
	// Who may not make schemas can still use one that is there.
	var there bool
	err := conn.QueryRow(ctx, `select exists (select from pg_namespace where nspname = 'fairlead')`).Scan(&there)
	if err == nil && !there {
		_, err = conn.Exec(ctx, `create schema if not exists fairlead`)
	}
	return err
}

func (a *Archive) up(ctx context.Context) (err error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(a.pool)
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName("fairlead.archive_version"), goose.WithDisableGlobalRegistry(true))
	if err == nil {
		_, err = provider.Up(ctx)
	}
	return err
}
