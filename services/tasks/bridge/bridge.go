package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	connectTimeout = 2 * time.Second
	retryFrom      = 100 * time.Millisecond
	retryTo        = 2 * time.Second
	// handOver bounds each step of a planned stop.
	handOver = 2 * time.Second
)

// Config says where a [Bridge] listens and publishes. All fields but Log are
// needed.
type Config struct {
	// PostgresURL is a postgres:// URL of a session of its own: not of a pooler that
	// gives sessions away between statements.
	PostgresURL string
	NATS        *nats.Conn // reconnects by itself and does not buffer meanwhile
	Namespace   wire.Namespace
	Rules       Rules        // such as a *rules.Live, run by whoever made it
	Log         *slog.Logger // nothing is logged when nil
}

// Rules are the rules that count now; a *[rules.Live] is some.
type Rules interface {
	Loaded() <-chan struct{}  // closed once they are known
	Changed() <-chan struct{} // closed when Current changes next
	Current() *rules.Set
}

// Bridge is one replica's part in bridging: it listens to the channels that no
// other replica listens to.
type Bridge struct {
	cfg    Config
	pg     *pgx.ConnConfig
	class  int32 // of the advisory locks
	grace  time.Duration
	run    string // tells this life of the process from others
	stored atomic.Uint64
	counts counts
	said   said
	outlet *outlet

	// Owned by listen.
	channels   map[string]*channelState // of the rules
	seen       map[string]int64         // ms by the clock of Postgres: when a channel was last listened to
	mine       map[string]bool          // it was by this replica
	topics     topics
	noTable    time.Time // since when there is no table of topics; zero: there is
	unwritten  bool      // there may be topics that are not in the table
	reconnects uint64    // of NATS, that were noticed
	back       time.Time // when the last of them was; zero: it was announced
}

// New returns a bridge that does nothing yet. Only a URL that can't be read is an
// error; it is not repeated, since it may hold a password.
func New(cfg Config) (*Bridge, error) {
	pool, err := pgxpool.ParseConfig(cfg.PostgresURL) // knows the options of a pool, which pgx would send to the server
	if err != nil {
		return nil, errors.New("make a bridge: not a postgres:// URL that can be used")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if pool.ConnConfig.ConnectTimeout == 0 {
		pool.ConnConfig.ConnectTimeout = connectTimeout
	}
	return &Bridge{
		cfg: cfg, pg: pool.ConnConfig, class: lockClass, grace: tableGrace, run: nuid.Next(), outlet: newOutlet(),
		channels: map[string]*channelState{}, seen: map[string]int64{}, mine: map[string]bool{}, topics: topics{},
	}, nil
}

// Run bridges until ctx ends. Then it publishes what it has heard, lets another
// replica have its channels and returns nil. Nothing else ends it: while
// Postgres or NATS is away it tries again.
func (b *Bridge) Run(ctx context.Context) error {
	publishing, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives listening: what was heard is published
	var group errgroup.Group
	for i := range b.outlet.lines {
		group.Go(func() error { b.outlet.run(publishing, &b.outlet.lines[i], b.send); return nil })
	}
	b.listen(ctx)
	stop()
	return group.Wait()
}

func (b *Bridge) listen(ctx context.Context) {
	select {
	case <-b.cfg.Rules.Loaded():
	case <-ctx.Done():
		return
	}
	wait, interrupted := retryFrom, false
	working := func() {
		wait = retryFrom
		if interrupted {
			b.cfg.Log.Info("bridge goes on")
			interrupted = false
		}
	}
	for ctx.Err() == nil {
		changed := b.cfg.Rules.Changed()
		if len(b.cfg.Rules.Current().Bridges) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		err := b.session(ctx, working)
		if err == nil || ctx.Err() != nil {
			continue
		}
		b.counts.reconnects.Add(1)
		if !interrupted {
			b.cfg.Log.Warn("bridge interrupted", "err", err)
			interrupted = true
		}
		_ = clock.Sleep(ctx, wait/2+rand.N(wait/2)) // ended: the loop ends
		wait = min(2*wait, retryTo)
	}
}

// wanted returns the channels of the rules, and forgets what is kept of others.
func (b *Bridge) wanted() map[string][]string {
	want := map[string][]string{}
	for _, r := range b.cfg.Rules.Current().Bridges {
		want[r.Channel] = r.Topics
		if b.channels[r.Channel] == nil {
			b.channels[r.Channel] = &channelState{name: r.Channel}
		}
	}
	for c := range b.channels {
		if _, ok := want[c]; !ok {
			delete(b.channels, c)
			delete(b.seen, c)
			delete(b.mine, c)
			delete(b.topics, c)
		}
	}
	return want
}

// drop counts a change that is not published, and says so now and then: never
// what was in it.
func (b *Bridge) drop(channel string, why reason, err error) {
	b.counts.dropped[why].Add(1)
	if times, ok := b.said.now(channel+" "+why.String(), time.Now()); ok {
		attrs := []any{"channel", channel, "reason", why.String(), "times", times}
		if err != nil {
			attrs = append(attrs, "err", err)
		}
		b.cfg.Log.Warn("bridge dropped notifications", attrs...)
	}
}

func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", operation, err)
}
