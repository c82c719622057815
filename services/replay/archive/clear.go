package archive

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// deleteAtOnce is how many messages one statement of [Archive.Sweep] deletes.
const deleteAtOnce = 1000

// Clear removes the messages of a topic up to a sequence, or with topic "" those
// of all topics. They are not found any more from then on, nor when they are
// copied later; positions before upTo are no longer whole. [Archive.Sweep]
// deletes them.
func (a *Archive) Clear(ctx context.Context, stream, topic string, upTo int64) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	_, err := a.pool.Exec(ctx, `
		insert into fairlead.archive_clear as c (log, topic, upto)
		select id, $2, $3 from fairlead.archive_log where stream = $1 order by id desc limit 1
		on conflict (log, topic) do update set upto = greatest(c.upto, excluded.upto), swept = false`, stream, topic, upTo)
	return away("clear "+stream, err)
}

// Sweep deletes what was cleared, a batch at a time, and returns how many
// messages that were. Where it fails, or ctx ends, the next one goes on.
func (a *Archive) Sweep(ctx context.Context, stream string) (removed int64, err error) {
	notes, err := a.unswept(ctx, stream)
	if err != nil {
		return 0, away("sweep "+stream, err)
	}
	for _, n := range notes {
		for {
			some, err := a.exec(ctx, `
				delete from fairlead.archive_message where log = $1 and seq = any (array(
					select seq from fairlead.archive_message
					where log = $1 and ($2 = '' or topic = $2) and (seq < $3 or seq = $3 and not marker)
					order by seq limit $4 for update skip locked))`, n.Log, n.Topic, n.UpTo, deleteAtOnce)
			removed += some
			if err != nil {
				return removed, away("sweep "+stream, err)
			}
			if some < deleteAtOnce {
				break
			}
		}
		// Unless it was cleared again meanwhile.
		if _, err := a.exec(ctx, `
			update fairlead.archive_clear set swept = true where log = $1 and topic = $2 and upto = $3`, n.Log, n.Topic, n.UpTo); err != nil {
			return removed, away("sweep "+stream, err)
		}
	}
	return removed, nil
}

// note says that a topic was cleared.
type note struct {
	Log   int64
	Topic string // "": all of them
	UpTo  int64
}

func (a *Archive) unswept(ctx context.Context, stream string) ([]note, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	found, err := a.pool.Query(ctx, `
		select log, topic, upto from fairlead.archive_clear
		where not swept and log in (select id from fairlead.archive_log where stream = $1)`, stream)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, pgx.RowToStructByPos[note])
}

func (a *Archive) exec(ctx context.Context, sql string, args ...any) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	tag, err := a.pool.Exec(ctx, sql, args...)
	return tag.RowsAffected(), err
}

// Clean removes the oldest messages of a stream, those that were stored before a
// time, at most batch at once, and returns how many. A batch holds nobody up for
// longer than its own deletion takes. Positions before what was removed are no
// longer whole.
func (a *Archive) Clean(ctx context.Context, stream string, before time.Time, batch int) (removed int64, err error) {
	logs, err := a.logs(ctx, stream)
	if err != nil {
		return 0, away("clean "+stream, err)
	}
	for i, id := range logs {
		for {
			n, err := a.cleanBatch(ctx, id, before, batch)
			removed += n
			if err != nil {
				return removed, away("clean "+stream, err)
			}
			if n < int64(batch) {
				break
			}
		}
		if i < len(logs)-1 {
			if err := a.forget(ctx, id); err != nil {
				return removed, away("clean "+stream, err)
			}
		}
	}
	return removed, nil
}

// logs returns the logs of a stream, the current one last.
func (a *Archive) logs(ctx context.Context, stream string) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	found, err := a.pool.Query(ctx, `select id from fairlead.archive_log where stream = $1 order by id`, stream)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, pgx.RowTo[int64])
}

// cleanBatch removes one batch from the beginning of a log, in order: what is
// left has no gap. The row of the log is changed last, so that it is locked only
// while the transaction commits. Messages before the first that were left over
// by somebody who did not finish are removed with the rest.
func (a *Archive) cleanBatch(ctx context.Context, id int64, before time.Time, batch int) (removed int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err = a.tx(ctx, func(tx pgx.Tx) error {
		var upTo *int64
		err := tx.QueryRow(ctx, `
			with oldest as (
				select seq, ts from fairlead.archive_message where log = $1 order by seq limit $3 for update skip locked
			), old as (
				select seq from oldest where seq < coalesce((select min(seq) from oldest where ts >= $2), 9223372036854775807)
			), gone as (
				delete from fairlead.archive_message where log = $1 and seq = any (array(select seq from old)) returning seq
			)
			select count(*), max(seq) from gone`, id, before.UnixNano(), batch).Scan(&removed, &upTo)
		if err != nil || upTo == nil {
			return err
		}
		if _, err := tx.Exec(ctx, `delete from fairlead.archive_hole where log = $1 and last <= $2`, id, *upTo); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `delete from fairlead.archive_clear where log = $1 and upto <= $2`, id, *upTo); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			update fairlead.archive_log set first = greatest(first, $2::bigint + 1), position = greatest(position, $2::bigint) where id = $1`, id, *upTo)
		return err
	})
	return removed, err
}

// forget removes a log that is not current and has no messages any more.
func (a *Archive) forget(ctx context.Context, id int64) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return a.tx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			delete from fairlead.archive_log l
			where id = $1 and not exists (select from fairlead.archive_message where log = $1)
				and exists (select from fairlead.archive_log later where later.stream = l.stream and later.id > l.id)`, id)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, `delete from fairlead.archive_hole where log = $1`, id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `delete from fairlead.archive_clear where log = $1`, id)
		return err
	})
}
