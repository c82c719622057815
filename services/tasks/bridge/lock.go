package bridge

import (
	"context"
	"errors"
	"hash/fnv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// lockClass is the first key of the advisory locks of listeners, "flbr".
	lockClass int32 = 0x666c6272
	// sessionName is the application_name of the sessions: only those that bear it
	// are ever ended.
	sessionName = "fairlead bridge"
	// freedChannel is where a replica that stops notifies that its locks are free.
	freedChannel = "fairlead_bridge_free"
)

// lockKey is the second key of a channel's lock. Two channels of one key are
// merely listened to by the same replica: a session may have a lock twice.
func lockKey(n wire.Namespace, channel string) int32 {
	h := fnv.New32a()
	h.Write([]byte(string(n) + "\x00" + channel))
	return int32(h.Sum32())
}

// setup makes a session one that Postgres ends by itself when it hears nothing
// of it: while the network is a hole no end of the connection comes.
const setup = `select set_config('application_name', $1, false), set_config('statement_timeout', $2, false),
	set_config('tcp_user_timeout', $3, false), pg_backend_pid(),
	case when current_setting('server_version_num')::int >= 140000 then set_config('idle_session_timeout', $3, false) end`

// beat tries the locks of the channels that the session has not; of one that it
// has it would count a second time. It answers in the order of the keys.
const beat = `select pg_backend_pid(), floor(extract(epoch from clock_timestamp()) * 1000)::bigint,
	array(select pg_try_advisory_lock($1, key) from unnest($2::int4[]) with ordinality as k (key, n) order by n)`

// evict ends sessions that hold a lock and that Postgres has not heard for too
// long: hung, or cut off. It sees those of its own role, or of any where the role
// may see statistics.
const evict = `select pg_terminate_backend(a.pid)
	from (select distinct pid from pg_locks
		where locktype = 'advisory' and granted and objsubid = 2 and classid = ($1::int4::bigint & 4294967295)::oid
			and objid = any (array(select (k::bigint & 4294967295)::oid from unnest($2::int4[]) as k))
			and database = (select oid from pg_database where datname = current_database())) l
	join pg_stat_activity a on a.pid = l.pid
	where a.application_name = $3 and a.pid <> pg_backend_pid()
		and a.state_change < clock_timestamp() - $4::int8 * interval '1 millisecond'`

// evict reports whether it has ended a session.
func (s *session) evict(ctx context.Context, keys []int32) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	rows, err := s.conn.Query(ctx, evict, s.b.class, keys, sessionName, staleAfter.Milliseconds())
	if err != nil {
		return false, err
	}
	ended, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	return len(ended) > 0, err
}

// refusedBy reports whether Postgres has refused a statement and the session goes
// on; everything else ends it.
func refusedBy(err error, codes ...string) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.Code == code {
			return true
		}
	}
	return false
}
