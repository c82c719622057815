package bridge

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// session is one connection to Postgres: it has the locks of the channels that it
// listens to. One goroutine has it.
type session struct {
	b       *Bridge
	conn    *pgx.Conn
	pid     int32
	lease   lease
	clock   int64 // ms by the clock of Postgres, as of the last beat
	held    map[string]bool
	want    map[string][]string // patterns by channel, as the rules have it
	next    time.Time           // of the next beat
	watched time.Time           // when it was last looked for sessions that hang
}

var errPooler = errors.New("the session is not its own: the URL leads to a pooler that gives sessions away between statements")

var errOver = errors.New("the session is over")

// session listens until ctx ends or the rules have no channels: nil. Everything
// else is an error, after which no lock is held.
func (b *Bridge) session(ctx context.Context, working func()) error {
	s := &session{b: b, held: map[string]bool{}}
	defer s.cut()
	if err := s.open(ctx); err != nil {
		return wrap("open a session", err)
	}
	// A statement that is cut short would cost the session, and what it has heard:
	// only waiting ends with ctx.
	work := context.WithoutCancel(ctx)
	for {
		if err := s.beat(work); err != nil {
			return wrap("hold the session", err)
		}
		working()
		if len(s.want) == 0 || ctx.Err() != nil {
			return s.handOver(work)
		}
		if err := s.hear(ctx, work); err != nil {
			return wrap("listen", err)
		}
	}
}

func (s *session) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.b.pg.ConnectTimeout+statementTimeout)
	defer cancel()
	// pgx would open another connection to cancel what a lost one was doing, and
	// leave the lost one open meanwhile.
	opened := false
	cfg := s.b.pg.Copy()
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if opened {
			return nil, errOver
		}
		return dial(ctx, network, addr)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	s.conn, opened = conn, true
	var ignored *string
	err = conn.QueryRow(ctx, setup, sessionName, ms(statementTimeout), ms(idleTimeout)).Scan(&ignored, &ignored, &ignored, &s.pid, &ignored)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "listen "+freedChannel)
	return err
}

// beat renews the lease, follows the rules, and takes what locks are free.
func (s *session) beat(ctx context.Context) error {
	s.want = s.b.wanted()
	if err := s.release(ctx); err != nil {
		return err
	}
	var missing []string
	var keys []int32
	for c := range s.want {
		if !s.held[c] {
			missing, keys = append(missing, c), append(keys, lockKey(s.b.cfg.Namespace, c))
		}
	}
	asked := time.Now()
	s.next = asked.Add(beatEvery)
	won, err := s.ask(ctx, keys)
	if err != nil {
		return err
	}
	s.lease.renew(asked)
	for c := range s.held {
		s.b.seen[c] = s.clock
	}
	if err := s.listen(ctx, missing, won); err != nil {
		return err
	}
	if err := s.writeLate(ctx); err != nil {
		return err
	}
	s.losses()
	if len(s.held) < len(s.want) && asked.Sub(s.watched) >= watchEvery {
		s.watched = asked
		return s.watch(ctx, keys)
	}
	return nil
}

// ask is the statement of a beat.
func (s *session) ask(ctx context.Context, keys []int32) (won []bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var pid int32
	if keys == nil {
		keys = []int32{}
	}
	if err := s.conn.QueryRow(ctx, beat, s.b.class, keys).Scan(&pid, &s.clock, &won); err != nil {
		return nil, err
	}
	if pid != s.pid {
		return nil, errPooler
	}
	return won, nil
}

// watch ends sessions that hang with locks which this one wants.
func (s *session) watch(ctx context.Context, keys []int32) error {
	ended, err := s.evict(ctx, keys)
	switch {
	case refusedBy(err, "42501"):
		if _, ok := s.b.said.now("evict", time.Now()); ok {
			s.b.cfg.Log.Warn("bridge may not end a session that hangs: let every replica log in to Postgres as the same role", "err", err)
		}
		return nil
	case err != nil:
		return err
	case ended:
		s.b.counts.evictions.Add(1)
		s.next = time.Now().Add(beatEvery / 10)
	}
	return nil
}

// release lets go of channels that the rules no longer have.
func (s *session) release(ctx context.Context) error {
	for c := range s.held {
		if _, ok := s.want[c]; ok {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, statementTimeout)
		_, err := s.conn.Exec(ctx, "unlisten "+quoted(c))
		if err == nil {
			_, err = s.conn.Exec(ctx, "select pg_advisory_unlock($1, $2)", s.b.class, lockKey(s.b.cfg.Namespace, c))
		}
		cancel()
		if err != nil {
			return err
		}
		delete(s.held, c)
		s.b.counts.listening.Store(int64(len(s.held)))
		s.b.cfg.Log.Info("bridge ended", "channel", c)
	}
	return nil
}

// listen begins with the channels that were won, and announces what was missed.
func (s *session) listen(ctx context.Context, tried []string, won []bool) error {
	var all []string
	for i, c := range tried {
		if i < len(won) && won[i] {
			all = append(all, c)
			continue
		}
		s.b.seen[c] = s.clock
		s.b.mine[c] = false
	}
	if len(all) == 0 {
		return nil
	}
	var sql strings.Builder
	for _, c := range all {
		sql.WriteString("listen " + quoted(c) + ";")
	}
	limit, cancel := context.WithTimeout(ctx, statementTimeout)
	_, err := s.conn.Exec(limit, sql.String())
	cancel()
	if err != nil {
		return err
	}
	for _, c := range all {
		s.held[c] = true
		if err := s.recall(ctx, c); err != nil {
			return err
		}
		why := "start"
		switch seen := s.b.seen[c]; {
		case seen != 0 && s.b.mine[c]:
			why = "reconnect"
		case seen != 0:
			why = "takeover"
		}
		s.b.channels[c].lost.Store(false)
		s.announce(c, why, s.b.seen[c], false)
		s.b.seen[c], s.b.mine[c] = s.clock, true
		s.b.counts.takeovers.Add(1)
		s.b.cfg.Log.Info("bridge listens", "channel", c, "after", why)
	}
	s.b.counts.listening.Store(int64(len(s.held)))
	return nil
}

// hear takes notifications until the next beat, or until ctx ends.
func (s *session) hear(ctx, work context.Context) error {
	wait, cancel := context.WithDeadline(ctx, s.next)
	defer cancel()
	for {
		n, err := s.conn.WaitForNotification(wait)
		switch {
		case n != nil:
			if err := s.take(work, n); err != nil {
				return err
			}
		case wait.Err() == nil || s.conn.IsClosed():
			return err
		}
		if ctx.Err() != nil || !time.Now().Before(s.next) {
			return nil
		}
	}
}

// take publishes what a notification asks for.
func (s *session) take(ctx context.Context, n *pgconn.Notification) error {
	if n.Channel == freedChannel {
		if n.Payload == string(s.b.cfg.Namespace) {
			s.next = time.Time{}
		}
		return nil
	}
	patterns, ok := s.want[n.Channel]
	if !ok || !s.held[n.Channel] {
		return nil // let go a moment ago
	}
	s.b.counts.received.Add(1)
	if len(n.Payload) > largePayload {
		if times, ok := s.b.said.now(n.Channel+" large", time.Now()); ok {
			s.b.cfg.Log.Warn("bridge: payloads are near the 8000 bytes that Postgres refuses", "channel", n.Channel, "bytes", len(n.Payload), "times", times)
		}
	}
	c, why := parseChange(n.Payload, patterns)
	if why != fine {
		s.b.drop(n.Channel, why, nil)
		return nil
	}
	if err := s.remember(ctx, n.Channel, c.topic, patterns); err != nil {
		return err
	}
	return s.push(n.Channel, c)
}

func (s *session) push(channel string, c change) error {
	subject, err := s.b.cfg.Namespace.Topic(c.topic)
	if err != nil {
		return err // parseChange has seen that it is one
	}
	header := nats.Header{}
	if c.event != "" {
		header[wire.HeaderEvent] = []string{c.event}
	}
	state := s.b.channels[channel]
	e := entry{msg: &nats.Msg{Subject: subject, Header: header, Data: c.data}, topic: c.topic, channel: state, lease: &s.lease}
	if !s.b.outlet.push(e) {
		state.lost.Store(true)
		s.b.drop(channel, full, nil)
	}
	return nil
}

// handOver publishes what has come and frees the locks; another replica is told.
func (s *session) handOver(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	asked := time.Now()
	if _, err := s.conn.Exec(limit, "unlisten *"); err != nil {
		return nil // the locks go with the session
	}
	s.lease.renew(asked)
	ended, end := context.WithCancel(ctx)
	end()
	for { // what came before
		n, _ := s.conn.WaitForNotification(ended)
		if n == nil {
			break
		}
		if err := s.take(limit, n); err != nil {
			return nil // likewise
		}
	}
	s.b.outlet.empty(limit)
	_ = s.b.cfg.NATS.FlushWithContext(limit) // what another publishes comes behind it, if NATS is there
	s.lease.end()
	limit, cancel2 := context.WithTimeout(ctx, handOver)
	defer cancel2()
	_, _ = s.conn.Exec(limit, "select pg_advisory_unlock_all()")
	_, _ = s.conn.Exec(limit, "select pg_notify('"+freedChannel+"', $1)", string(s.b.cfg.Namespace))
	_ = s.conn.Close(limit)
	return nil
}

// cut ends the session at once; nothing that it has heard is published any more.
func (s *session) cut() {
	s.lease.end()
	s.b.counts.listening.Store(0)
	if s.conn == nil {
		return
	}
	// Who hangs would not answer a farewell. Postgres frees the locks when it sees
	// the end of the connection, if it does.
	_ = s.conn.PgConn().Conn().Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.conn.Close(ctx)
	<-s.conn.PgConn().CleanupDone()
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

func quoted(channel string) string { return pgx.Identifier{channel}.Sanitize() }
