package jobs

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/indexed"
)

// Postgres is a [Store] in the table fairlead.job, which migrations have made.
//
// Its statements find rows by an index, and never join what they have found with
// itself but by the key. Where several rows are locked it is in the order of their
// ids, so that nobody waits for each other.
type Postgres struct{ pool *pgxpool.Pool }

// NewPostgres returns the store of a database.
func NewPostgres(pool *pgxpool.Pool) *Postgres { return &Postgres{pool: pool} }

// query has row called for each row of what a statement returns.
func (p *Postgres) query(ctx context.Context, operation, sql string, args []any, into []any, row func() error) error {
	conn, err := indexed.Acquire(ctx, p.pool)
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	defer conn.Release()
	rows, err := conn.Query(ctx, sql, args...)
	if err == nil {
		_, err = pgx.ForEachRow(rows, into, row)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

// Enqueue is [Store.Enqueue].
func (p *Postgres) Enqueue(ctx context.Context, jobs []Draft) ([]wire.JobID, error) {
	queues, delays := make([]string, len(jobs)), make([]int64, len(jobs))
	most, payloads := make([]int32, len(jobs)), make([]string, len(jobs))
	for i, n := range jobs {
		queues[i], delays[i], most[i], payloads[i] = n.Queue, n.Delay.Milliseconds(), int32(n.MaxAttempts), string(n.Payload)
	}
	ids := make([]wire.JobID, 0, len(jobs))
	var id int64
	err := p.query(ctx, "enqueue jobs", `
		insert into fairlead.job (queue, vis, max_attempts, bytes, payload)
		select queue, now() + delay * interval '1 ms', most, octet_length(payload), payload::json
		from unnest($1::text[], $2::bigint[], $3::int[], $4::text[]) with ordinality as u (queue, delay, most, payload, at)
		order by at
		returning id`, []any{queues, delays, most, payloads}, []any{&id}, func() error {
		ids = append(ids, wire.JobID(id))
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(ids) // they are given in the order of the rows
	return ids, nil
}

// Claim is [Store.Claim].
func (p *Postgres) Claim(ctx context.Context, c Claim) (out Claimed, err error) {
	var j wire.Job
	var was time.Time
	type placed struct {
		wire.Job
		was time.Time
	}
	var got []placed
	err = p.query(ctx, "claim jobs", claimSQL, []any{c.Queue, c.Most, c.Bytes, c.Visibility.Milliseconds()},
		[]any{(*int64)(&j.ID), &j.Claim, &j.Queue, (*[]byte)(&j.Payload), &j.Attempts, &j.CreatedAt, &was}, func() error {
			if j.Queue != c.Queue {
				out.Dead++
			} else {
				got = append(got, placed{j, was})
			}
			j.Payload = nil // the next one has its own
			return nil
		})
	if err != nil {
		return Claimed{}, err
	}
	slices.SortFunc(got, func(a, b placed) int { return cmp.Or(a.was.Compare(b.was), cmp.Compare(a.ID, b.ID)) })
	for i := range got {
		out.Jobs = append(out.Jobs, got[i].Job)
	}
	return out, nil
}

// claimSQL locks the first rows that nobody else does, and takes as many of them
// as fit. What is locked and not taken is free again at the end of the statement.
// It says when each could be claimed since: that is their order.
const claimSQL = `
	with ready as materialized (
		select id, vis, bytes from fairlead.job
		where queue = $1 and vis <= now() order by queue, vis, id limit $2::int for update skip locked),
	fit as materialized (
		select id from (
			select id, sum(bytes) over first as total, row_number() over first as place
			from ready window first as (order by vis, id)) r
		where total <= $3::int or place = 1)
	update fairlead.job j set
		queue = case when j.max_attempts > 0 and j.attempts >= j.max_attempts then j.queue || '.dead' else j.queue end,
		vis = case when j.max_attempts > 0 and j.attempts >= j.max_attempts then now() else now() + $4::bigint * interval '1 ms' end,
		claim = case when j.max_attempts > 0 and j.attempts >= j.max_attempts then j.claim + 2 - (j.claim & 1) else j.claim + 1 + (j.claim & 1) end,
		max_attempts = case when j.max_attempts > 0 and j.attempts >= j.max_attempts then 0 else j.max_attempts end,
		attempts = case when j.max_attempts > 0 and j.attempts >= j.max_attempts then j.attempts else j.attempts + 1 end
	from fairlead.job o
	where j.id = any (array(select id from fit)) and o.id = j.id
	returning j.id, j.claim, j.queue, j.payload::text, j.attempts, j.created_at, o.vis`

// namedSQL is the beginning of a statement about refs: `named` are those, `mine` the
// rows that they mean, under a condition, locked in the order of their ids. What is
// not mine is lost.
func namedSQL(condition string) string {
	return `
	with named as materialized (
		select * from unnest($1::bigint[], $2::bigint[]) with ordinality as u (id, claim, at)),
	mine as materialized (
		select j.id, n.at from named n join fairlead.job j on j.id = n.id
		where ` + condition + ` order by j.id for update of j),`
}

// Conditions of refs, without a claim or with one. A job is held while its number
// is odd.
const (
	completable = `(n.claim = 0 or n.claim = j.claim and j.claim & 1 = 1)`
	held        = `(n.claim = 0 or n.claim = j.claim) and j.claim & 1 = 1`
)

var (
	completeSQL = namedSQL(completable) + `
		done as (delete from fairlead.job where id = any (array(select id from mine)))
		select at - 1 from named where at not in (select at from mine)`
	extendSQL = namedSQL(held) + `
		done as (update fairlead.job set vis = now() + $3::bigint * interval '1 ms' where id = any (array(select id from mine)))
		select at - 1 from named where at not in (select at from mine)`
	failSQL = namedSQL(held) + `
		done as (
			update fairlead.job j set
				queue = case when j.max_attempts > 0 and j.attempts >= j.max_attempts then j.queue || '.dead' else j.queue end,
				vis = case when j.max_attempts > 0 and j.attempts >= j.max_attempts then now() else now() + $3::bigint * interval '1 ms' end,
				claim = j.claim + 1,
				max_attempts = case when j.max_attempts > 0 and j.attempts >= j.max_attempts then 0 else j.max_attempts end
			from fairlead.job o
			where j.id = any (array(select id from mine)) and o.id = j.id
			returning j.queue, j.vis <= now() as due, j.queue <> o.queue as dead)
		select at - 1, null, false, false from named where at not in (select at from mine)
		union all select -1, queue, due, dead from done`
)

// arguments are those of refs.
func arguments(refs []wire.JobRef, more ...any) []any {
	ids, claims := make([]int64, len(refs)), make([]int64, len(refs))
	for i, r := range refs {
		ids[i], claims[i] = int64(r.ID), r.Claim
	}
	return append([]any{ids, claims}, more...)
}

// Complete is [Store.Complete].
func (p *Postgres) Complete(ctx context.Context, refs []wire.JobRef) ([]int, error) {
	return p.lost(ctx, "complete jobs", completeSQL, arguments(refs))
}

// Extend is [Store.Extend].
func (p *Postgres) Extend(ctx context.Context, refs []wire.JobRef, by time.Duration) ([]int, error) {
	return p.lost(ctx, "extend jobs", extendSQL, arguments(refs, by.Milliseconds()))
}

func (p *Postgres) lost(ctx context.Context, operation, sql string, args []any) (lost []int, err error) {
	var at int
	err = p.query(ctx, operation, sql, args, []any{&at}, func() error {
		lost = append(lost, at)
		return nil
	})
	return lost, err
}

// Fail is [Store.Fail].
func (p *Postgres) Fail(ctx context.Context, refs []wire.JobRef, by time.Duration) (out Back, err error) {
	var at int
	var queue *string
	var due, dead bool
	err = p.query(ctx, "fail jobs", failSQL, arguments(refs, by.Milliseconds()), []any{&at, &queue, &due, &dead}, func() error {
		if queue == nil {
			out.Lost = append(out.Lost, at)
			return nil
		}
		if dead {
			out.Dead++
		}
		if due && !slices.Contains(out.Queues, *queue) {
			out.Queues = append(out.Queues, *queue)
		}
		return nil
	})
	if err != nil {
		return Back{}, err
	}
	return out, nil
}

// Pending is [Store.Pending].
func (p *Postgres) Pending(ctx context.Context, queue string) (n int64, err error) {
	where, args := ofQueue(queue)
	err = p.query(ctx, "count jobs", `
		select count(*) from (select from fairlead.job where not (claim & 1 = 1 and vis > now()) `+where+` limit $1) j`,
		append([]any{wire.JobCountCap + 1}, args...), []any{&n}, func() error { return nil })
	return n, err
}

func ofQueue(queue string) (where string, args []any) {
	if queue == "" {
		return "", nil
	}
	return "and queue = $2", []any{queue}
}

// clearAtOnce is how many rows one statement of Clear deletes.
const clearAtOnce = 10_000

// Clear is [Store.Clear].
func (p *Postgres) Clear(ctx context.Context, queue string) (total int64, err error) {
	var last, n int64
	one := func() error { return nil }
	if err := p.query(ctx, "clear jobs", `select coalesce(max(id), 0) from fairlead.job`, nil, []any{&last}, one); err != nil {
		return 0, err
	}
	where, args := ofQueue(queue)
	order := "id"
	if queue != "" {
		order = "queue, vis, id"
	}
	sql := fmt.Sprintf(`
		with those as materialized (select id from fairlead.job where id <= $1 %s order by %s limit %d),
		mine as materialized (
			select id from fairlead.job where id = any (array(select id from those)) order by id for update),
		gone as (delete from fairlead.job where id = any (array(select id from mine)) returning 1)
		select count(*) from gone`, where, order, clearAtOnce)
	for {
		err := p.query(ctx, "clear jobs", sql, append([]any{last}, args...), []any{&n}, one)
		if total += n; err != nil || n < clearAtOnce {
			return total, err
		}
	}
}

// Due is [Store.Due].
func (p *Postgres) Due(ctx context.Context, queues []string) (due []Due, err error) {
	var d Due
	var ms int64
	err = p.query(ctx, "look for due jobs", `
		select q, ceil(extract(epoch from j.vis - now()) * 1000)::bigint
		from unnest($1::text[]) as q cross join lateral (
			select vis from fairlead.job where queue = q order by queue, vis, id limit 1) j`,
		[]any{queues}, []any{&d.Queue, &ms}, func() error {
			due = append(due, Due{d.Queue, time.Duration(ms) * time.Millisecond})
			return nil
		})
	return due, err
}
