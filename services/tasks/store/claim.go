package store

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// claimSQL looks up each priority by itself: within one, what is due comes first.
// The rows are found and locked before the update begins, whatever the planner
// thinks of their number, and exactly so many.
const claimSQL = `
	update fairlead.task t set state = 1, owner = $1, fence = t.fence + 1, attempt = t.attempt + 1, started_at = now(), beat_by = null,
		deadline = now() + case when t.timeout > 0 then t.timeout else $4::bigint end * interval '1 microsecond'
	where t.id = any (array(
		with recursive p (priority) as (
			(select c.priority from fairlead.task c where c.state = 0 and c.name = $2 order by c.priority desc limit 1)
			union all
			select (select c.priority from fairlead.task c where c.state = 0 and c.name = $2 and c.priority < p.priority
				order by c.priority desc limit 1)
			from p where p.priority is not null
		)
		select c.id from p cross join lateral (
			select c.id from fairlead.task c where c.state = 0 and c.name = $2 and c.priority = p.priority and c.run_at <= now()
			order by c.run_at, c.id limit $3::bigint for update skip locked
		) c
		limit $3::bigint
	))
	returning ` + attemptColumns + `, t.run_at`

// countSQL counts what runs of a name. Owners are few: each is looked up.
const countSQL = `
	with recursive ` + ownersSQL + `
	select coalesce(sum(c.n), 0)::bigint from o cross join lateral (
		select count(*) as n from fairlead.task t where t.state = 1 and t.owner = o.owner and t.name = $1
	) c where o.owner is not null`

// ownersSQL is the owners of what runs, at most one of them null.
const ownersSQL = `o (owner) as (
		(select t.owner from fairlead.task t where t.state = 1 order by t.owner limit 1)
		union all
		select (select t.owner from fairlead.task t where t.state = 1 and t.owner > o.owner order by t.owner limit 1)
		from o where o.owner is not null
	)`

// claimed is an attempt and when it was to run.
type claimed struct {
	Attempt
	runAt time.Time
}

// Claim implements [Store].
func (p *Postgres) Claim(ctx context.Context, o Owner, name string, n, concurrency int, deadline time.Duration) (attempts []Attempt, err error) {
	if n <= 0 {
		return nil, nil
	}
	const operation = "claim tasks"
	if concurrency <= 0 {
		err = p.do(ctx, operation, nil, func(ctx context.Context, conn *pgx.Conn) (err error) {
			attempts, err = claim(ctx, conn, o, name, n, deadline)
			return err
		})
		return attempts, err
	}
	err = p.tx(ctx, operation, nil, func(ctx context.Context, tx pgx.Tx) error {
		free, err := slots(ctx, tx, name, concurrency)
		if err == nil && free > 0 {
			attempts, err = claim(ctx, tx, o, name, min(n, free), deadline)
		}
		return err
	})
	return attempts, err
}

// slots returns how many more of a name may run. Nobody else starts one before
// the transaction ends.
func slots(ctx context.Context, tx pgx.Tx, name string, concurrency int) (int, error) {
	var b pgx.Batch
	b.Queue(`select pg_advisory_xact_lock(hashtextextended($1, $2))`, name, claimLock)
	running := 0
	b.Queue(countSQL, name).QueryRow(func(r pgx.Row) error { return r.Scan(&running) }) // it sees what was committed before it has the lock
	err := tx.SendBatch(ctx, &b).Close()
	return concurrency - running, err
}

// claimLock makes the locks of names others than those of other things.
const claimLock int64 = 0x666c_636c_6169_6d // "flclaim"

func claim(ctx context.Context, q querier, o Owner, name string, n int, deadline time.Duration) ([]Attempt, error) {
	var all []claimed
	err := rows(ctx, q, func(r pgx.Rows) error {
		var c claimed
		err := scanAttempt(r, &c.Attempt, &c.runAt)
		all = append(all, c)
		return err
	}, claimSQL, int64(o), text(name), n, micros(deadline))
	slices.SortFunc(all, func(a, b claimed) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), a.runAt.Compare(b.runAt), bytes.Compare(a.ID[:], b.ID[:]))
	})
	attempts := make([]Attempt, len(all))
	for i := range all {
		attempts[i] = all[i].Attempt
	}
	return attempts, err
}

// attemptColumns are those of an [Attempt], of the table t; adoptedColumns those of
// one that is in a worker's hands.
const (
	attemptColumns = beforeInput + `t.input` + afterInput
	adoptedColumns = beforeInput + `null::json` + afterInput
	beforeInput    = `t.id, t.name, t.fence, t.attempt, t.failures, t.crashes, t.priority, `
	afterInput     = `, coalesce(t.idem_key, ''), t.metadata,
		coalesce(t.trace, ''), t.timeout, (extract(epoch from t.deadline - now()) * 1000000)::bigint,
		(extract(epoch from t.beat_by - now()) * 1000000)::bigint, t.kill_at is not null, t.started_at`
)

func scanAttempt(r pgx.Rows, a *Attempt, more ...any) error {
	var timeout int64
	var left, lease pgtype.Int8
	var started pgtype.Timestamptz
	err := r.Scan(append([]any{
		(*[16]byte)(&a.ID), &a.Name, &a.Fence, &a.Number, &a.Failures, &a.Crashes, &a.Priority, &a.Input, &a.IdempotencyKey, &a.Metadata,
		&a.Trace, &timeout, &left, &lease, &a.CancelAsked, &started,
	}, more...)...)
	a.Timeout, a.Left, a.Started = duration(timeout), max(duration(left.Int64), 0), timeOf(started)
	if lease.Valid {
		a.Lease = max(duration(lease.Int64), brokenLease)
	}
	return err
}
