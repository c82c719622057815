package store

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// endSQL finds attempts by id and fence alone: their state is compared in a way
// that no index serves, or statistics of a moment in which nothing ran would have
// it go through all that runs for each of them.
const endSQL = `
	with u as materialized (
		select u.* from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::smallint[], $5::json[], $6::json[], $7::integer[], $8::integer[],
			$9::bigint[]) with ordinality as u (id, fence, owner, ended, result, error, failed, crashed, retention, n)
		/*wary*/
	), d as (
		delete from fairlead.task t using u
		where t.id = u.id and t.fence = u.fence and t.state + 0 = 1 and (u.owner = 0 or u.owner = t.owner)
		returning t.id, t.fence, t.created_at, t.run_at, t.started_at, t.timeout, t.attempt, t.failures + u.failed as failures,
			t.crashes + u.crashed as crashes,
			case when u.ended in (3, 5) and t.kill_at is not null then 4::smallint else u.ended end as ended, t.priority, t.steps, t.name, t.idem_key, t.unique_key, t.trace, t.metadata,
			case when u.ended <> 2 then t.input end as input, u.result, coalesce(u.error, t.error) as error,
			now() + u.retention * interval '1 microsecond' as expires, u.n
	)` + keepSQL + `
	select d.n, d.ended = 4, ` + keptColumns + ` from d`

// keepSQL keeps d, tasks that were deleted because they have ended, and with those
// that were committed their idempotency keys; every other key is free. Keys are
// locked in the order in which they are taken.
const keepSQL = `, kept as (
		insert into fairlead.task_done (id, expires, fence, created_at, run_at, started_at, timeout, attempt, failures, crashes,
			state, priority, steps, name, idem_key, unique_key, trace, metadata, input, result, error)
		select d.id, d.expires, d.fence, d.created_at, d.run_at, d.started_at, d.timeout, d.attempt, d.failures, d.crashes,
			d.ended, d.priority, d.steps and d.ended <> 2, d.name, d.idem_key, d.unique_key, d.trace, d.metadata, d.input, d.result, d.error
		from d
	), held as materialized (
		select x.kind, x.name, x.key, x.stays, x.expires from (
			select 1 as kind, d.name, d.idem_key as key, d.id, d.ended = 2 as stays, d.expires from d where d.idem_key is not null
			union all
			select 2, d.name, d.unique_key, d.id, false, d.expires from d where d.unique_key is not null
			order by 1, 2, 3
		) x cross join lateral (
			select from fairlead.task_key k where k.kind = x.kind and k.name = x.name and k.key = x.key and k.task = x.id for update
		) k
	), stays as (
		update fairlead.task_key k set expires = h.expires from held h
		where h.stays and k.kind = h.kind and k.name = h.name and k.key = h.key
	), free as (
		delete from fairlead.task_key k using held h
		where not h.stays and k.kind = h.kind and k.name = h.name and k.key = h.key
	), stepped as (
		update fairlead.task_step s set expires = d.expires from d where d.steps and d.ended <> 2 and s.task = d.id
	), through as (
		delete from fairlead.task_step s using d where d.steps and d.ended = 2 and s.task = d.id
	)`

// End implements [Store].
func (p *Postgres) End(ctx context.Context, ends []End) ([]Outcome, error) {
	if len(ends) == 0 {
		return nil, nil
	}
	c := newRefColumns(len(ends), func(i int) Ref { return ends[i].Ref })
	n := len(ends)
	state, failed, crashed := make([]int16, n), make([]int32, n), make([]int32, n)
	result, errs, retention := make([][]byte, n), make([][]byte, n), make([]int64, n)
	for i, of := range c.of {
		e := &ends[of]
		state[i], failed[i], crashed[i] = stateNumbers[e.State], number(e.Failed), number(e.Crashed)
		result[i], errs[i], retention[i] = document(e.Result), problem(e.Error), micros(e.Retention)
	}
	out := make([]Outcome, n)
	err := p.write(ctx, "end tasks", retentionsOf(retention), endSQL, func(r pgx.Rows) (w written, err error) {
		cancelled, err := w.scan(r)
		if err == nil {
			w.state = ends[c.of[w.n-1]].State
		}
		if cancelled {
			w.state = wire.TaskCancelled
		}
		return w, err
	}, func(n int) *Outcome { return &out[c.of[n-1]] }, c, state, result, errs, failed, crashed, retention)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// refColumns are refs by column, in the order of their ids: that in which rows are
// locked.
type refColumns struct {
	of    []int // where each stood
	id    uuids
	fence []int64
	owner []int64
}

func newRefColumns(n int, ref func(int) Ref) *refColumns {
	c := &refColumns{of: make([]int, n), id: make(uuids, n), fence: make([]int64, n), owner: make([]int64, n)}
	for i := range c.of {
		c.of[i] = i
	}
	slices.SortStableFunc(c.of, func(a, b int) int {
		x, y := ref(a).ID, ref(b).ID
		return slices.Compare(x[:], y[:])
	})
	for i, of := range c.of {
		r := ref(of)
		c.id[i], c.fence[i], c.owner[i] = uuid(r.ID), r.Fence, int64(r.Owner)
	}
	return c
}

func number(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// retentionsOf returns each of some retentions once.
func retentionsOf(us []int64) []time.Duration {
	var all []time.Duration
	for _, u := range us {
		if d := duration(u); !slices.Contains(all, d) && len(all) < maxKept {
			all = append(all, d)
		}
	}
	return all
}
