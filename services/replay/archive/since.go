package archive

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// sinceSQL reads evidence and messages from one snapshot. There is one row with
// the evidence alone where there are no messages.
//
// $1 stream, $2 topic, $3 after.Seq, $4 after.Ts, $5 before, $6 limit, $7 bytes
const sinceSQL = `
with log as materialized (
	select id, created, first, position,
		case when $5::bigint > 0 then $5::bigint - 1 else last end as upto,
		greatest(
			(select max(seq) from fairlead.archive_message where log = l.id and topic = $2 and marker),
			(select max(upto) from fairlead.archive_clear where log = l.id and topic in ($2, '')),
			0) as cleared
	from fairlead.archive_log l where stream = $1 order by id desc limit 1
), evidence as materialized (
	select id, upto, greatest(cleared, first - 1, $3::bigint) as after,
		cleared <= $3::bigint
		and position >= upto
		and $3::bigint >= first - 1
		and coalesce((select h.first > upto from fairlead.archive_hole h where h.log = id and h.last > $3::bigint order by h.last limit 1), true)
		and case
			when $4::bigint > 0 then exists (select from fairlead.archive_message where log = id and seq = $3::bigint and topic = $2 and ts / 1000000 = $4::bigint)
			when $4::bigint < 0 then created / 1000000 <= -$4::bigint and coalesce(
				(select ts / 1000000 <= -$4::bigint from fairlead.archive_message where log = id and seq <= $3::bigint order by seq desc limit 1), true)
			else true
		end as whole
	from log
)
select e.whole, m.seq, m.ts, m.prev, m.event, m.payload, m.sender, m.exclude, m.more
from evidence e left join lateral (
	select seq, ts, event, payload, sender, exclude,
		coalesce(lag(seq) over (order by seq),
			(select max(p.seq) from fairlead.archive_message p where p.log = e.id and p.topic = $2 and p.seq < page.seq), 0) as prev,
		n = least($6::bigint, fit) and n < total as more
	from (
		select *, count(*) over () as total, greatest(count(*) filter (where sofar - size < $7::bigint) over (), 1) as fit
		from (
			select seq, ts, event, payload, sender, exclude, octet_length(payload) as size,
				row_number() over (order by seq) as n, sum(octet_length(payload)) over (order by seq) as sofar
			from (
				select * from fairlead.archive_message
				where log = e.id and topic = $2 and seq > e.after and seq <= e.upto and not marker
				order by seq limit $6::bigint + 1) as found) as summed) as page
	where n <= least($6::bigint, fit)
) m on true
order by m.seq`

// Since returns archived messages of a topic behind a position and before a
// sequence (0: up to the last one), oldest first: at most limit and about bytes
// bytes of payload, but one if there is any. More says that others follow in
// that range. Of a topic that was cleared there is only what came later.
//
// Whole says that no message of the topic between the position and before was
// ever published that is not in the archive; it is false where that can't be
// proven: the position's message is not there with that time, sequences in
// between were gone before they were copied or are not copied yet, the topic was
// cleared or the archive cleaned behind the position. A position that was taken
// on an empty topic has its time compared with what the archive has before it;
// without a time only sequences count. Position 0 is the beginning of the
// archive, which is always whole.
func (a *Archive) Since(ctx context.Context, stream, topic string, after wire.Position, before int64, limit, bytes int) (messages []wire.ReplayMessage, whole, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	beginning := after.Seq == 0 && after.Ts >= 0
	found, err := a.pool.Query(ctx, sinceSQL, stream, topic, after.Seq, after.Ts, before, limit, bytes)
	if err != nil {
		return nil, false, false, away("read messages of "+topic, err)
	}
	defer found.Close()
	for found.Next() {
		var seq, ts, prev *int64
		var event, user, exclude *string
		var last *bool
		var payload []byte
		if err := found.Scan(&whole, &seq, &ts, &prev, &event, &payload, &user, &exclude, &last); err != nil {
			return nil, false, false, away("read messages of "+topic, err)
		}
		if seq == nil {
			break
		}
		messages = append(messages, wire.ReplayMessage{
			Position: wire.Position{Seq: *seq, Ts: time.Unix(0, *ts).UnixMilli()}, Prev: *prev,
			Event: *event, Payload: payload, User: *user, Exclude: *exclude,
		})
		more = *last
	}
	found.Close()
	if err := found.Err(); err != nil {
		return nil, false, false, away("read messages of "+topic, err)
	}
	return messages, whole || beginning, more, nil
}

// Copied returns the sequence up to which a stream is copied: everything up to
// it is archived, or known to be gone. 0 where nothing is.
func (a *Archive) Copied(ctx context.Context, stream string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var position int64
	err := a.pool.QueryRow(ctx, `select position from fairlead.archive_log where stream = $1 order by id desc limit 1`, stream).Scan(&position)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return position, away("read the position of "+stream, err)
}
