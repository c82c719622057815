package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/internal/pgdev"
)

// devPostgres is the database of dev: one of its own, one that is there, or none.
type devPostgres struct {
	said   string // where tasks are, for the welcome
	server *pgdev.Server
	cancel context.CancelFunc
	done   chan struct{} // closed when the start is over
}

// postgres finds the database of dev: that of the environment, else the PostgreSQL
// that is installed, for which the data directory has a place.
func (c *DevCmd) postgres(cfg *config) *devPostgres {
	if cfg.Postgres != "" {
		return &devPostgres{said: "in the Postgres of FAIRLEAD_POSTGRES_URL"}
	}
	dir := filepath.Join(c.Data, "postgres")
	server, err := pgdev.Find(pgdev.Config{Dir: dir})
	if err != nil {
		return &devPostgres{said: "off: " + err.Error()}
	}
	cfg.Postgres = server.URL()
	cfg.Tasks.PostgresURL = cfg.Postgres
	cfg.Tasks.Late = true
	return &devPostgres{said: cfg.Postgres, server: server}
}

// launch starts the Postgres that dev has found, if it is one of its own, and waits
// for nothing: until that answers, tasks do as with any Postgres that is away. The
// data directory is this process's by then.
func (d *devPostgres) launch(ctx context.Context, env *Env) {
	if d.server == nil {
		return
	}
	ctx, d.cancel = context.WithCancel(ctx)
	d.done = make(chan struct{})
	go func() {
		defer close(d.done)
		err := d.server.Launch(ctx)
		if err == nil {
			err = openPublic(ctx, d.server.URL())
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(env.Stderr, "tasks are off: %v\n", err)
		}
	}()
}

// openPublic has tables that are made by hand stand in the schema public: by
// default they would stand in the one that is named like the role, among
// Fairlead's.
func openPublic(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `alter role current_user set search_path = public`)
	return err
}

// String says where tasks are.
func (d *devPostgres) String() string { return d.said }

// stop stops a Postgres that dev has started, and waits for its end.
func (d *devPostgres) stop() {
	if d.cancel == nil {
		return // nothing was launched
	}
	d.cancel()
	<-d.done
	d.server.Stop()
}
