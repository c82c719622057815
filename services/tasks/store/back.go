package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// backSQL has attempts wait, and those that are to be cancelled end.
const backSQL = `
	with u as materialized (
		select u.* from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::json[], $6::integer[], $7::integer[], $8::integer[], $9::bigint[])
			with ordinality as u (id, fence, owner, after, error, failed, crashed, unstarted, retention, n)
		/*wary*/
	), waits as (
		update fairlead.task t set state = 0, owner = 0, fence = t.fence + 1, run_at = now() + u.after * interval '1 microsecond',
			started_at = null, deadline = null, beat_by = null, attempt = t.attempt - u.unstarted,
			failures = t.failures + u.failed, crashes = t.crashes + u.crashed, error = coalesce(u.error, t.error)
		from u
		where t.id = u.id and t.fence = u.fence and t.state + 0 = 1 and (u.owner = 0 or u.owner = t.owner) and t.kill_at is null
		returning u.n
	), d as (
		delete from fairlead.task t using u
		where t.id = u.id and t.fence = u.fence and t.state + 0 = 1 and (u.owner = 0 or u.owner = t.owner) and t.kill_at is not null
		returning t.id, t.fence + 1 as fence, t.created_at, t.run_at, t.started_at, t.timeout, t.attempt - u.unstarted as attempt,
			t.failures + u.failed as failures, t.crashes + u.crashed as crashes, 4::smallint as ended, t.priority, t.steps, t.name,
			t.idem_key, t.unique_key, t.trace, t.metadata, t.input, null::json as result, coalesce(u.error, t.error) as error,
			now() + u.retention * interval '1 microsecond' as expires, u.n
	)` + keepSQL + `
	select waits.n, false, ` + noneKept + ` from waits union all select d.n, true, ` + keptColumns + ` from d`

// Back implements [Store].
func (p *Postgres) Back(ctx context.Context, backs []Back) ([]Outcome, error) {
	out := make([]Outcome, len(backs))
	left := make([]int, len(backs)) // of which nothing is known yet
	for i := range left {
		left[i] = i
	}
	// What is flagged while the statement runs is neither the one nor the other to
	// it: who is left is looked at once more.
	for range 2 {
		if len(left) == 0 {
			break
		}
		if err := p.back(ctx, backs, left, out); err != nil {
			return nil, err
		}
		n := 0
		for _, i := range left {
			if !out[i].Done && !out[i].Busy {
				left[n] = i
				n++
			}
		}
		left = left[:n]
	}
	return out, nil
}

// back has some of backs wait, and says so in out.
func (p *Postgres) back(ctx context.Context, backs []Back, some []int, out []Outcome) error {
	c := newRefColumns(len(some), func(i int) Ref { return backs[some[i]].Ref })
	n := len(some)
	after, retention, errs := make([]int64, n), make([]int64, n), make([][]byte, n)
	failed, crashed, unstarted := make([]int32, n), make([]int32, n), make([]int32, n)
	for i, of := range c.of {
		b := &backs[some[of]]
		after[i], retention[i], errs[i] = micros(b.After), micros(b.Retention), problem(b.Error)
		failed[i], crashed[i], unstarted[i] = number(b.Failed), number(b.Crashed), number(b.Unstarted)
	}
	return p.write(ctx, "give tasks back", retentionsOf(retention), backSQL, func(r pgx.Rows) (w written, err error) {
		cancelled, err := w.scan(r)
		w.state = wire.TaskPending
		if cancelled {
			w.state = wire.TaskCancelled
		}
		return w, err
	}, func(n int) *Outcome { return &out[some[c.of[n-1]]] }, c, after, errs, failed, crashed, unstarted, retention)
}
