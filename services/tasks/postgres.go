package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/indexed"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// connectTimeout bounds one connection; the URL may say otherwise.
const connectTimeout = 2 * time.Second

// postgres is the way to the database: refused at once while it is away, and
// before its tables are there.
type postgres struct {
	breaker *breaker.Breaker
	there   atomic.Bool   // the tables are
	look    chan struct{} // of capacity 1: they may not be there any more
}

func newPostgres(changed func(from, to breaker.State)) *postgres {
	return &postgres{breaker: breaker.New(breaker.Config{Name: "postgres", OnChange: changed}), look: make(chan struct{}, 1)}
}

// openPool returns a pool that connects when it is first used.
func openPool(ctx context.Context, cfg *Config) (*pgxpool.Pool, error) {
	parsed, err := pgxpool.ParseConfig(cfg.PostgresURL)
	if err != nil {
		return nil, errors.New("open postgres: not a postgres:// URL that can be used") // a secret: its value is not repeated
	}
	if parsed.ConnConfig.ConnectTimeout == 0 {
		parsed.ConnConfig.ConnectTimeout = connectTimeout
	}
	switch {
	case cfg.Pool > 0:
		parsed.MaxConns = int32(cfg.Pool)
	case !strings.Contains(cfg.PostgresURL, "pool_max_conns"):
		parsed.MaxConns = defaultPool
	}
	parsed.MinConns, parsed.MinIdleConns = 0, 0
	pool, err := pgxpool.NewWithConfig(ctx, parsed)
	if err != nil {
		return nil, fmt.Errorf("open postgres: %w", err)
	}
	return pool, nil
}

// do calls fn of the store, for at most so long, unless Postgres is known to be
// away. Where its tables are gone they are looked for.
func (p *postgres) do(ctx context.Context, wait time.Duration, fn func(context.Context) error) error {
	err := p.ask(ctx, wait, fn)
	if gone(err) {
		p.lost()
	}
	return err
}

// ask is do for the parts with statements and tables of their own, which another
// release may have yet to make.
func (p *postgres) ask(ctx context.Context, wait time.Duration, fn func(context.Context) error) error {
	if !p.there.Load() {
		return missing()
	}
	pass, err := p.breaker.Allow()
	if err != nil {
		return err
	}
	how := breaker.Failure
	defer func() { pass.Done(how) }() // also of a panic
	how, err = p.call(ctx, wait, fn)
	return err
}

// try is do for who asks whatever the breaker says, which hears of the answer.
func (p *postgres) try(ctx context.Context, wait time.Duration, fn func(context.Context) error) error {
	if !p.there.Load() {
		return missing()
	}
	how, err := p.call(ctx, wait, fn)
	if gone(err) {
		p.lost()
	}
	if how == breaker.Success {
		p.breaker.Heal()
	} else if pass, refused := p.breaker.Allow(); refused == nil {
		pass.Done(how)
	}
	return err
}

// call calls fn and judges what it says.
func (p *postgres) call(ctx context.Context, wait time.Duration, fn func(context.Context) error) (breaker.Outcome, error) {
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := fn(bounded)
	if err == nil {
		return breaker.Success, nil
	}
	if ctx.Err() != nil { // whoever asked waits no longer: nothing is known of Postgres
		return breaker.Neither, err
	}
	if gone(err) {
		return breaker.Success, fmt.Errorf("%w: %w", missing(), err)
	}
	if coded := (*wire.Error)(nil); indexed.Busy(err) && !errors.As(err, &coded) {
		return breaker.Success, fmt.Errorf("%w: %w", wire.Errorf(wire.Aborted, "another transaction has it and has not ended"), err)
	}
	if answered(err) {
		return breaker.Success, err
	}
	return breaker.Failure, fmt.Errorf("%w: %w", away(), err)
}

// lost has the tables looked for again.
func (p *postgres) lost() {
	p.there.Store(false)
	select {
	case p.look <- struct{}{}:
	default:
	}
}

// missing is what is said before the tables are there.
func missing() *wire.Error {
	return (&wire.Error{Code: wire.Unavailable, Message: "the tables in postgres are not there yet", RetryAfter: time.Second}).
		With("what", "postgres").With("outcome", "none")
}

// away is what is said of an answer that did not come.
func away() *wire.Error {
	return (&wire.Error{Code: wire.Unavailable, Message: "postgres does not answer", RetryAfter: breaker.Delay}).
		With("what", "postgres").With("outcome", "unknown")
}

// passing are beginnings of SQLSTATEs with which Postgres answers that it can't.
var passing = []string{
	"08",        // connection
	"53",        // out of disk, memory, connections
	"57P", "3D", // shut down, starting, no such database
	"57014",       // cancelled, by the bound on the time of a statement
	"25006",       // a standby that is to become the primary
	"28", "42501", // no right to: somebody is to give it
}

// gone reports whether an error says that the tables are not there.
func gone(err error) bool {
	var state *pgconn.PgError
	return errors.As(err, &state) && (state.Code == "3F000" || state.Code == "42P01")
}

// answered reports whether an error is an answer of Postgres, or of the store, to
// what was asked.
func answered(err error) bool {
	var coded *wire.Error
	if errors.As(err, &coded) {
		return coded.Code != wire.Unavailable && coded.Code != wire.DeadlineExceeded
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrState) || errors.Is(err, store.ErrOwner) {
		return true
	}
	var state *pgconn.PgError
	if !errors.As(err, &state) {
		return false
	}
	for _, p := range passing {
		if strings.HasPrefix(state.Code, p) {
			return false
		}
	}
	return true
}

// keepTables waits until the tables are there, and again should they go: prepare
// makes them, or looks for them. ready is called once, the first time.
func (p *postgres) keepTables(ctx context.Context, log *slog.Logger, prepare func(context.Context) error) {
	said := ""
	for ctx.Err() == nil {
		err := prepare(ctx)
		if err == nil {
			said = ""
			p.there.Store(true)
			p.breaker.Heal()
			log.Info("the tables in postgres are there")
			select {
			case <-p.look:
			case <-ctx.Done():
			}
			continue
		}
		if err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			log.Warn("the tables in postgres are not there yet", "err", err)
		}
		_ = clock.Sleep(ctx, retryPause) // it ends with ctx, as the loop does
	}
}

// watch tells of the breaker's states until ctx is done, and asks Postgres whether
// it is there where it was away and nobody else asks.
func (p *postgres) watch(ctx context.Context, ping func(context.Context) error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.breaker.Run(ctx)
	}()
	for clock.Sleep(ctx, breaker.Delay/4) == nil {
		if p.breaker.State() != breaker.Healthy {
			_ = p.do(ctx, askWait, ping) // the breaker takes what it says
		}
	}
	<-done
}

// postgresChanged tells of the breaker.
func (s *Service) postgresChanged(from, to breaker.State) {
	level := slog.LevelDebug // that it is looked for again and again is no news
	if from == breaker.Healthy || to == breaker.Healthy {
		level = slog.LevelInfo
	}
	s.slog.Log(context.Background(), level, "dependency", "what", "postgres", "state", to.String(), "was", from.String())
	subject, err := s.cfg.Namespace.Event("breaker."+to.String(), "")
	if err == nil {
		// A hint, at most once: whoever misses it finds the state in the metrics.
		err = s.requests.Publish(subject, fmt.Appendf(nil, `{"at":%d,"what":"postgres"}`, time.Now().UnixMilli()))
	}
	if err != nil {
		s.slog.Debug("nobody hears of the breaker", "err", err)
	}
}
