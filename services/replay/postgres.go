package replay

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/fairlead-io/fairlead/internal/breaker"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/replay/archive"
)

// postgres is the archive as reads and clears see it: while Postgres is away
// they are refused at once. Copiers go by the archive itself: they have nothing
// to lose by trying, and know better when to try again.
type postgres struct {
	archive *archive.Archive
	breaker *breaker.Breaker
}

// newPostgres returns an archive behind a breaker; changed hears of its states
// while watch runs.
func newPostgres(a *archive.Archive, changed func(from, to breaker.State)) *postgres {
	p := &postgres{archive: a, breaker: breaker.New(breaker.Config{Name: "postgres", OnChange: changed})}
	a.OnWrite(p.breaker.Heal)
	return p
}

// healthy reports whether what nobody waits for is to be asked.
func (p *postgres) healthy() bool { return p.breaker.State() == breaker.Healthy }

// asked says what a question tells about Postgres.
func asked(err error) breaker.Outcome {
	switch wire.CodeOf(err) {
	case wire.Unavailable, wire.DeadlineExceeded:
		return breaker.Failure
	case wire.Cancelled:
		return breaker.Neither
	}
	return breaker.Success
}

func (p *postgres) do(fn func() error) error { return p.breaker.Do(fn, asked) }

// Since is [archive.Archive.Since].
func (p *postgres) Since(ctx context.Context, q archive.Query) (page *archive.Page, err error) {
	err = p.do(func() error { page, err = p.archive.Since(ctx, q); return err })
	return page, err
}

// Copied is [archive.Archive.Copied].
func (p *postgres) Copied(ctx context.Context, stream string) (seq int64, err error) {
	err = p.do(func() error { seq, err = p.archive.Copied(ctx, stream); return err })
	return seq, err
}

// Clear is [archive.Archive.Clear].
func (p *postgres) Clear(ctx context.Context, stream, topic string, upTo int64) error {
	return p.do(func() error { return p.archive.Clear(ctx, stream, topic, upTo) })
}

// watch tells of the breaker's states until ctx is done, and asks Postgres for
// something where it is away and nobody else does.
func (p *postgres) watch(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.breaker.Run(ctx)
	}()
	for clock.Sleep(ctx, breaker.Delay/4) == nil {
		if !p.healthy() {
			_, _ = p.Copied(ctx, "") // the breaker takes what it says
		}
	}
	<-done
}

// postgresChanged tells of the breaker of the archive.
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
		s.slog.Debug("nobody hears of the archive's breaker", "err", err)
	}
}
