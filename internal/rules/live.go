package rules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// DefaultRefresh is how often the bucket is read besides being watched: a
	// watcher goes silent when its stream was made anew.
	DefaultRefresh = 30 * time.Second

	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// Options say where rules come from.
type Options struct {
	Store
	Mode       Mode
	File       []byte        // what FAIRLEAD_TOPICS_FILE names; nil where it is unset
	PutBuiltin bool          // put the built-in rules into a bucket that has none
	By         string        // who puts, for people: the program and host
	Refresh    time.Duration // 0 is DefaultRefresh
	Log        *slog.Logger
}

// Live is the set of rules that counts now. Its methods may be called
// concurrently.
type Live struct {
	o       Options
	nc      *nats.Conn
	file    *Set // nil without a file
	current atomic.Pointer[Set]
	loaded  chan struct{}

	mu      sync.Mutex    // guards the three below
	changed chan struct{} // closed and replaced at a change
	away    error         // why the bucket cannot be followed
	bad     error         // what is wrong with its value

	// Owned by Run.
	last    position // of the newest entry seen
	deleted bool     // that entry says that the rules were deleted
	held    bool     // the bucket held rules, which count until others do
	placed  bool     // the file was compared with the bucket
	said    string   // the last failure that was logged
}

// position is where in the bucket's log an entry is. A bucket that was made
// anew begins at revision 1 again, later.
type position struct {
	revision uint64
	created  time.Time
}

// newer reports whether p is past q. A read from a replica that lags is neither
// of a higher revision nor of a later time.
func (p position) newer(q position) bool {
	return p.revision > q.revision || p.created.After(q.created)
}

// Follow returns the rules of the file, otherwise the built-in ones, which
// [Live.Run] replaces by what the bucket holds. A file with problems is
// [Problems]. Nothing is started and NATS may be away.
func Follow(o Options) (*Live, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Refresh == 0 {
		o.Refresh = DefaultRefresh
	}
	l := &Live{o: o, nc: o.JetStream.Conn(), loaded: make(chan struct{}), changed: make(chan struct{})}
	if o.File == nil {
		l.current.Store(Builtin(o.Mode))
		return l, nil
	}
	set, err := Parse(o.File, o.Mode)
	if err != nil {
		return nil, err
	}
	l.file = set
	l.current.Store(set)
	return l, nil
}

// Current returns the set that counts now. It is never nil.
func (l *Live) Current() *Set { return l.current.Load() }

// Changed returns a channel that is closed when Current changes next. Take it
// before Current, so that no change is missed.
func (l *Live) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Loaded returns a channel that is closed once the bucket was read, or the
// server was found to have no JetStream. Before that the process must not take
// clients: the rules of the bucket may be stricter.
func (l *Live) Loaded() <-chan struct{} { return l.loaded }

// Ready reports whether Loaded is closed.
func (l *Live) Ready() bool {
	select {
	case <-l.loaded:
		return true
	default:
		return false
	}
}

// Err says why the bucket does not count at this moment, nil when it does. It
// may be set while the process is ready: then the last good rules count.
func (l *Live) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad != nil {
		return fmt.Errorf("the rules in the bucket are bad: %w", l.bad)
	}
	return l.away
}

// Run follows the bucket until ctx ends, and then returns nil. It survives a
// NATS that is away, a bucket that vanishes and values that are bad. It returns
// an error only if the connection was closed for good.
func (l *Live) Run(ctx context.Context) error {
	connected := l.nc.StatusChanged(nats.CONNECTED)
	defer l.nc.RemoveStatusListener(connected)
	backoff := minBackoff
	for {
		if l.nc.IsClosed() {
			return fmt.Errorf("follow the rules: %w", nats.ErrConnectionClosed)
		}
		before := time.Now()
		err := error(nats.ErrDisconnected)
		if l.nc.IsConnected() {
			err = l.session(ctx, connected)
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errStale) || errors.Is(err, errFirst) || errors.Is(err, errBack) {
			l.o.Log.Info("rules are read anew", "reason", err.Error())
			continue
		}
		l.report(err)
		if time.Since(before) > maxBackoff {
			backoff = minBackoff
		}
		pause := time.NewTimer(backoff/2 + rand.N(backoff/2))
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-connected:
			pause.Stop()
			backoff = minBackoff
		case <-pause.C:
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// report keeps why the bucket is not followed, and logs it once however often
// it comes back. That NATS is away is for the connection's owner to log.
func (l *Live) report(err error) {
	off := JetStreamOff(l.nc, err)
	if off {
		l.markReady()
	}
	l.mu.Lock()
	l.away = err
	l.mu.Unlock()
	if !l.nc.IsConnected() || err.Error() == l.said {
		return
	}
	l.said = err.Error()
	if off {
		l.o.Log.Warn("the NATS server has no JetStream: rules are neither shared nor reloaded, this process keeps its own",
			"source", l.source(), "digest", l.Current().Digest(), "err", err)
		return
	}
	l.o.Log.Warn("rules bucket away, retrying", "ready", l.Ready(), "digest", l.Current().Digest(), "err", err)
}

// source says where the rules come from as long as the bucket was not read.
func (l *Live) source() string {
	if l.file != nil {
		return "file"
	}
	return "built-in"
}

func (l *Live) markReady() {
	if !l.Ready() {
		close(l.loaded)
	}
}

// use makes set the current one.
func (l *Live) use(set *Set, source string) {
	old := l.current.Swap(set)
	if old.Digest() == set.Digest() {
		return
	}
	l.mu.Lock()
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	l.o.Log.Info("rules changed", "source", source, "old", old.Digest(), "new", set.Digest())
}

func positionOf(e jetstream.KeyValueEntry) position { return position{e.Revision(), e.Created()} }
