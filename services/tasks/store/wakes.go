package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/internal/clock"
)

const (
	wakeChannel = "fairlead_task"
	// wakeRetry is the wait between two tries to listen; wakePause is without news
	// asked whether the connection is there, within wakeTimeout.
	wakeRetry   = time.Second
	wakePause   = 15 * time.Second
	wakeTimeout = 5 * time.Second
)

// Wakes calls wake with the name of each task that SQL stores, until ctx ends,
// and with "" whenever it begins to listen: whatever was stored before may have
// gone unheard. It has a connection of its own, which it makes again whenever it
// is lost. It returns nil when ctx ends.
func (p *Postgres) Wakes(ctx context.Context, wake func(name string)) error {
	for ctx.Err() == nil {
		// Why is said by whoever works with the tables meanwhile; wake tells when it
		// is over.
		_ = p.listen(ctx, wake)
		_ = clock.Sleep(ctx, wakeRetry) // it ends with ctx, as the loop does
	}
	return nil
}

// listen returns when the connection is lost, or ctx ends.
func (p *Postgres) listen(ctx context.Context, wake func(name string)) (err error) {
	begin, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(begin, p.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		err = errors.Join(err, conn.Close(last))
	}()
	if _, err := conn.Exec(begin, "listen "+wakeChannel); err != nil {
		return err
	}
	wake("")
	for {
		quiet, stop := context.WithTimeout(ctx, wakePause)
		n, err := conn.WaitForNotification(quiet)
		stop()
		switch {
		case err == nil:
			wake(n.Payload)
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		default:
			there, stop := context.WithTimeout(ctx, wakeTimeout)
			err := conn.Ping(there)
			stop()
			if err != nil {
				return fmt.Errorf("nothing was heard: %w", err)
			}
		}
	}
}
