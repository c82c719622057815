package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Our defaults for a connection. Reconnecting is quick and never given up: the
// process lives without NATS and says so in its readiness.
const (
	connectTimeout  = 2 * time.Second
	reconnectWait   = 100 * time.Millisecond
	reconnectJitter = 100 * time.Millisecond
	pingInterval    = 10 * time.Second
	pingsOutside    = 2
	drainTimeout    = time.Minute // the context of Drain ends it earlier
	// writeTimeout is how long the socket may take nothing before the connection
	// is made anew. Meanwhile every publish waits, and every ping.
	writeTimeout = 5 * time.Second
)

// Hooks are called for what happens to a connection, one at a time, from a
// goroutine of the connection. They must not block. Each may be nil.
type Hooks struct {
	// OnDisconnect is called when an established connection is lost. It is not
	// called for a server that was away from the beginning (ask
	// nats.Conn.IsConnected after Connect), nor when we close.
	OnDisconnect func(err error)
	// OnReconnect is called when the connection is there again with all its
	// subscriptions, and also for a first connection that came late.
	OnReconnect func()
	// OnSlowConsumer is called once per episode in which messages of a
	// subscription are dropped; sub.Dropped counts them. Dropped messages are
	// not only those of this subject where subscriptions share a channel.
	OnSlowConsumer func(sub *nats.Subscription)
	// OnError is called for every other asynchronous error, such as a
	// permission violation. subject is empty where none is concerned.
	OnError func(subject string, err error)
	// OnClosed is called last, once: nothing comes after it.
	OnClosed func()
}

// Connect returns a connection with our defaults. A server that is away is no
// error: the connection keeps trying and subscriptions made meanwhile come
// alive with it. An invalid configuration is an error that joins one
// *[ConfigError] per problem.
//
// Publishing while disconnected fails at once instead of replaying stale
// messages later. Connect blocks for at most two seconds per server address,
// less if ctx has an earlier deadline. The caller closes the connection, best
// with [Drain].
func Connect(ctx context.Context, cfg Config, hooks Hooks) (*nats.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	opts, err := cfg.options()
	if err != nil {
		return nil, err
	}
	timeout := connectTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(deadline), time.Millisecond))
	}
	opts = append(opts,
		nats.Name(cfg.Name),
		nats.Timeout(timeout),
		nats.SkipHostLookup(), // the dialer does, with the same deadline
		nats.Dialer(dialer(timeout)),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, 5*reconnectJitter),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(pingsOutside),
		nats.IgnoreAuthErrorAbort(),
		nats.DrainTimeout(drainTimeout),
		nats.FlusherTimeout(writeTimeout),
		nats.ReconnectOnFlusherError(), // what was to be written is lost, subscriptions with it
	)
	opts = append(opts, hooks.options()...)
	nc, err := nats.Connect(cfg.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

func (h Hooks) options() []nats.Option {
	opts := []nats.Option{
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) { h.onError(sub, err) }),
	}
	if h.OnDisconnect != nil {
		opts = append(opts, nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() {
				h.OnDisconnect(err)
			}
		}))
	}
	if h.OnReconnect != nil {
		opts = append(opts,
			nats.ReconnectHandler(func(*nats.Conn) { h.OnReconnect() }),
			// Also called for a connection that was there at once, which
			// nobody has missed; a late one counts as a reconnect.
			nats.ConnectHandler(func(nc *nats.Conn) {
				if nc.Stats().Reconnects > 0 {
					h.OnReconnect()
				}
			}))
	}
	if h.OnClosed != nil {
		opts = append(opts, nats.ClosedHandler(func(*nats.Conn) { h.OnClosed() }))
	}
	return opts
}

func (h Hooks) onError(sub *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) && sub != nil {
		if h.OnSlowConsumer != nil {
			h.OnSlowConsumer(sub)
		}
		return
	}
	if h.OnError == nil {
		return
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	h.OnError(subject, err)
}

// Drain ends a connection in order: no new messages, those that arrived are
// handled, what was published is flushed, then it closes. It returns when the
// connection is closed and OnClosed has been called. When ctx ends first the
// connection is closed at once, and the error says so. A connection that is
// away, or closed already, has nothing to drain: no error.
func Drain(ctx context.Context, nc *nats.Conn) error {
	closed := make(chan struct{})
	before := nc.ClosedHandler()
	nc.SetClosedHandler(func(nc *nats.Conn) {
		if before != nil {
			before(nc)
		}
		close(closed)
	})
	if nc.IsClosed() {
		return nil // the handlers have been picked already: ours may never be called
	}
	switch err := nc.Drain(); {
	case errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrConnectionClosed):
		// Drain has closed it.
	case err != nil:
		nc.Close()
		return fmt.Errorf("drain the NATS connection: %w", err)
	}
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
	}
	nc.Close()
	<-closed // Close has queued it: nothing but our own hooks comes before it
	return fmt.Errorf("drain the NATS connection: %w", context.Cause(ctx))
}
