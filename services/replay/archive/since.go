package archive

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Query is what [Archive.Since] is asked.
type Query struct {
	Stream string
	Topic  string
	After  wire.Position
	Last   int   // > 0: the newest so many in the range
	Before int64 // the range ends before it; 0: with the last message archived

	// Created is when the stream was made: an archive of another life of it has
	// nothing. Zero: the newest one, whatever stream it is of.
	Created time.Time
	// Cleared is where the whole stream was cleared, as it says itself; 0: never.
	Cleared int64
	// Alive is when the oldest messages that have not expired were stored; zero:
	// none ever does.
	Alive time.Time

	Limit int // most messages; > 0
	Bytes int // bound of their payloads together
}

// Page is what [Archive.Since] answers.
type Page struct {
	Messages []wire.ReplayMessage // oldest first
	More     bool                 // others follow in the range
	// Whole says that every message of the topic between the position and the
	// end of the range is in Messages, or follows them.
	Whole bool
	// Copied is the sequence up to which the stream is archived, or known to be
	// gone; -1 where there is no archive of it.
	Copied int64
}

// skew is by how much a message may be older than one before it, where the
// clock of a stream's leader was set back.
const skew = time.Minute

// sinceSQL reads evidence and messages from one snapshot. There is one row with
// the evidence alone where there are no messages.
//
// Expired messages are not read to be left out: bound finds, by halving, a
// sequence up to which all are.
const sinceSQL = `
with recursive log as materialized (
	select id, created, first, position, upto,
		greatest(
			(select max(seq) from fairlead.archive_message where log = l.id and topic = @topic and marker),
			(select max(upto) from fairlead.archive_clear where log = l.id and topic in (@topic, '')),
			@cleared::bigint) as cleared
	from (
		select *, case when @before::bigint > 0 then @before::bigint - 1 else last end as upto
		from fairlead.archive_log where stream = @stream order by id desc limit 1) l
	where @created::bigint = 0 or created = @created::bigint
), bound (lo, hi) as (
	select greatest(first - 1, cleared, @seq::bigint), upto + 1 from log where @dead::bigint > 0
	union all
	select case when p.seq is null or p.ts < @dead::bigint then mid else lo end,
		case when p.seq is null or p.ts < @dead::bigint then hi else p.seq end
	from (select lo, hi, lo + (hi - lo) / 2 as mid from bound where hi - lo > 1) half left join lateral (
		select seq, ts from fairlead.archive_message
		where log = (select id from log) and seq > half.lo and seq <= half.mid order by seq desc limit 1) p on true
), evidence as materialized (
	select id, upto, position,
		greatest(cleared, first - 1, @seq::bigint, (select max(lo) from bound),
			(select last from fairlead.archive_hole h where h.log = l.id and h.first <= upto order by last desc limit 1)) as after,
		cleared <= @seq::bigint
		and position >= upto
		and @seq::bigint >= first - 1
		and coalesce((select h.first > upto from fairlead.archive_hole h where h.log = id and h.last > @seq::bigint order by h.last limit 1), true)
		and coalesce((select ts >= @alive::bigint from fairlead.archive_message
			where log = id and topic = @topic and seq > @seq::bigint and seq <= upto and not marker order by seq limit 1), true)
		and case
			when @ts::bigint > 0 then exists (select from fairlead.archive_message where log = id and seq = @seq::bigint and topic = @topic
				and ts / 1000000 = @ts::bigint and (marker or seq > cleared))
			when @ts::bigint < 0 then created / 1000000 <= -@ts::bigint and coalesce(
				(select ts / 1000000 <= -@ts::bigint from fairlead.archive_message where log = id and seq <= @seq::bigint order by seq desc limit 1), true)
			else true
		end as whole
	from log l
), range as materialized (
	select id, upto, position, whole, case when @last::bigint = 0 then after else greatest(after, (
		select min(seq) - 1 from (
			select seq from fairlead.archive_message
			where log = e.id and topic = @topic and seq > e.after and seq <= e.upto and not marker and ts >= @alive::bigint
			order by seq desc limit @last::bigint) newest)) end as after
	from evidence e
)
select e.position, e.whole, m.seq, m.ts, m.prev, m.event, m.payload, m.sender, m.exclude, m.more
from range e left join lateral (
	select seq, ts, event, payload, sender, exclude,
		coalesce(lag(seq) over (order by seq),
			(select max(p.seq) from fairlead.archive_message p where p.log = e.id and p.topic = @topic and p.seq < page.seq), 0) as prev,
		n = least(@limit::bigint, fit) and n < total as more
	from (
		select *, count(*) over () as total, greatest(count(*) filter (where sofar - size < @bytes::bigint) over (), 1) as fit
		from (
			select seq, ts, event, payload, sender, exclude, octet_length(payload) as size,
				row_number() over (order by seq) as n, sum(octet_length(payload)) over (order by seq) as sofar
			from (
				select * from fairlead.archive_message
				where log = e.id and topic = @topic and seq > e.after and seq <= e.upto and not marker and ts >= @alive::bigint
				order by seq limit @limit::bigint + 1) as found) as summed) as page
	where n <= least(@limit::bigint, fit)
) m on true
order by m.seq`

// Since returns archived messages of a topic behind a position and before a
// sequence, oldest first: at most q.Limit and about q.Bytes bytes of payload,
// but one if there is any. It returns none that expired or was cleared, and none
// before a hole: they are an unbroken run up to the end of the range.
//
// Page.Whole is false where it can't be proven: the position's message is not
// there with that time, sequences in between were gone before they were copied
// or are not copied yet, a message behind the position expired, the topic was
// cleared or the archive cleaned there. A position that was taken on an empty
// topic has its time compared with what the archive has before it; without a
// time only sequences count. Position 0 is the beginning of the unbroken run,
// which is always whole.
func (a *Archive) Since(ctx context.Context, q Query) (*Page, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var alive, dead, created int64
	if !q.Alive.IsZero() {
		alive, dead = q.Alive.UnixNano(), q.Alive.Add(-skew).UnixNano()
	}
	if !q.Created.IsZero() {
		created = q.Created.UnixNano()
	}
	page := &Page{Copied: -1, Whole: q.After.Seq == 0 && q.After.Ts >= 0}
	found, err := a.pool.Query(ctx, sinceSQL, pgx.NamedArgs{
		"stream": q.Stream, "topic": q.Topic, "seq": q.After.Seq, "ts": q.After.Ts, "before": q.Before, "last": q.Last,
		"created": created, "cleared": q.Cleared, "alive": alive, "dead": dead, "limit": q.Limit, "bytes": q.Bytes,
	})
	if err != nil {
		return nil, away("read messages of "+q.Topic, err)
	}
	defer found.Close()
	for found.Next() {
		var seq, ts, prev *int64
		var event, user, exclude *string
		var whole bool
		var more *bool
		var payload []byte
		if err := found.Scan(&page.Copied, &whole, &seq, &ts, &prev, &event, &payload, &user, &exclude, &more); err != nil {
			return nil, away("read messages of "+q.Topic, err)
		}
		page.Whole = page.Whole || whole
		if seq == nil {
			break
		}
		page.Messages = append(page.Messages, wire.ReplayMessage{
			Position: wire.Position{Seq: *seq, Ts: time.Unix(0, *ts).UnixMilli()}, Prev: *prev,
			Event: *event, Payload: payload, User: *user, Exclude: *exclude,
		})
		page.More = *more
	}
	found.Close()
	if err := found.Err(); err != nil {
		return nil, away("read messages of "+q.Topic, err)
	}
	return page, nil
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
