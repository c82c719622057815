package archive

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// log is one life of a stream in the archive, as its row said under the lock of
// the transaction that read it.
type log struct {
	id       int64 // 0: there is none
	created  int64 // when the stream was made, ns; 0: not known
	first    int64 // what is before it was cleaned away
	position int64 // everything from first up to here is stored, or in a hole
	last     int64 // greatest sequence stored
	stored   int64 // messages stored that were not there before
}

// lockLog returns the current log of a stream, id 0 where there is none. Until
// the transaction ends nobody else changes logs of the stream; readers go on.
func lockLog(ctx context.Context, tx pgx.Tx, stream string) (*log, error) {
	var batch pgx.Batch
	batch.Queue(`select pg_advisory_xact_lock(hashtext('fairlead archive'), hashtext($1))`, stream)
	batch.Queue(`select id, created, first, position, last from fairlead.archive_log where stream = $1 order by id desc limit 1`, stream)
	results := tx.SendBatch(ctx, &batch)
	var l log
	_, err := results.Exec()
	if err == nil {
		err = results.QueryRow().Scan(&l.id, &l.created, &l.first, &l.position, &l.last)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return &l, errors.Join(err, results.Close())
}

// beginLog makes a new log of a stream the current one.
func beginLog(ctx context.Context, tx pgx.Tx, stream string, created int64) (*log, error) {
	l := log{created: created, first: 1}
	err := tx.QueryRow(ctx, `insert into fairlead.archive_log (stream, created) values ($1, $2) returning id`, stream, created).Scan(&l.id)
	return &l, err
}

// chain bounds how many messages beyond the position are looked at to move it.
const chain = 50_000

// advance moves the position over what is stored without a break, after seqs
// were stored, in order.
func (l *log) advance(ctx context.Context, tx pgx.Tx, seqs []int64) error {
	before := l.position
	for _, seq := range seqs {
		if seq == l.position+1 {
			l.position = seq
		}
	}
	l.last = max(l.last, seqs[len(seqs)-1])
	for l.position > before && l.position < l.last {
		// Others have stored what follows.
		from := l.position
		err := tx.QueryRow(ctx, `
			select coalesce(max(seq), $2) from (
				select seq, row_number() over (order by seq) as n from (
					select seq from fairlead.archive_message where log = $1 and seq > $2 order by seq limit $3) as following) as numbered
			where seq = $2 + n`, l.id, from, chain).Scan(&l.position)
		if err != nil {
			return err
		}
		if l.position < from+chain {
			break
		}
	}
	return l.save(ctx, tx)
}

func (l *log) save(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `update fairlead.archive_log set position = greatest(position, $2), last = greatest(last, $3) where id = $1`, l.id, l.position, l.last)
	return err
}

// settle moves the position up to floor at most, to where no message is on its
// way any more: sequences that have none are holes.
func (l *log) settle(ctx context.Context, tx pgx.Tx, floor int64) (holes int64, err error) {
	tag, err := tx.Exec(ctx, `
		insert into fairlead.archive_hole (log, first, last)
		select $1, before + 1, seq - 1 from (
			select seq, lag(seq, 1, $2) over (order by seq) as before
			from fairlead.archive_message where log = $1 and seq > $2 and seq <= $3) as stored
		where seq > before + 1
		on conflict do nothing`, l.id, l.position, floor)
	if err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, `
		select greatest(max(seq), $2) from fairlead.archive_message where log = $1 and seq > $2 and seq <= $3`,
		l.id, l.position, floor).Scan(&l.position)
	if err != nil {
		return 0, err
	}
	return tag.RowsAffected(), l.save(ctx, tx)
}

// current returns the current log of a stream, id 0 where there is none, and its
// newest message.
func (a *Archive) current(ctx context.Context, stream string) (*log, Message, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var l log
	var newest Message
	var ts int64
	err := a.pool.QueryRow(ctx, `
		select l.id, l.created, l.first, l.position, l.last, coalesce(m.seq, 0), coalesce(m.ts, 0)
		from fairlead.archive_log l
		left join lateral (select seq, ts from fairlead.archive_message where log = l.id order by seq desc limit 1) m on true
		where l.stream = $1 order by l.id desc limit 1`, stream).
		Scan(&l.id, &l.created, &l.first, &l.position, &l.last, &newest.Seq, &ts)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, Message{}, away("read the log of "+stream, err)
	}
	newest.Time = time.Unix(0, ts)
	return &l, newest, nil
}

// enter returns the log of a stream that was made at created: the one with the
// id where that was found to be the same, else a new one. Whoever was faster
// decided.
func (a *Archive) enter(ctx context.Context, stream string, created, id int64, same bool) (l *log, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err = a.tx(ctx, func(tx pgx.Tx) error {
		if l, err = lockLog(ctx, tx, stream); err != nil {
			return err
		}
		switch {
		case l.id != id:
			return errReplaced // look again
		case !same:
			l, err = beginLog(ctx, tx, stream, created)
		case l.created == 0:
			_, err = tx.Exec(ctx, `update fairlead.archive_log set created = $2 where id = $1`, l.id, created)
		}
		return err
	})
	return l, away("enter the log of "+stream, err)
}

// storeIn stores messages in the log with the id, if that is the current one.
func (a *Archive) storeIn(ctx context.Context, stream string, id int64, ms []Message) (l *log, err error) {
	err = a.tx(ctx, func(tx pgx.Tx) error {
		if l, err = lockLog(ctx, tx, stream); err != nil {
			return err
		}
		if l.id != id {
			return errReplaced
		}
		return l.store(ctx, tx, ms)
	})
	return l, away("store messages of "+stream, err)
}

// settle moves the position of the log with the id to floor at most, and returns
// how many holes that left.
func (a *Archive) settle(ctx context.Context, stream string, id, floor int64) (l *log, holes int64, err error) {
	err = a.tx(ctx, func(tx pgx.Tx) error {
		if l, err = lockLog(ctx, tx, stream); err != nil {
			return err
		}
		if l.id != id {
			return errReplaced
		}
		if floor > l.position {
			holes, err = l.settle(ctx, tx, floor)
		}
		return err
	})
	return l, holes, away("store holes of "+stream, err)
}
