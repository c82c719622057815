package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const adoptSQL = `
	update fairlead.task t set owner = $1 from unnest($2::uuid[], $3::bigint[]) as u (id, fence) ` + warySQL + `
	where t.id = u.id and t.fence = u.fence and t.state + 0 = 1 and (t.owner = $1
		or not exists (select from fairlead.task_owner w where w.owner = t.owner and w.lease_until > now()))
	returning ` + adoptedColumns

// orphansSQL looks at the owners of what runs, not at what leases ended: a row may
// be written for an owner long after its lease.
const orphansSQL = `
	update fairlead.task t set owner = $1 where t.id = any (array(
		with recursive ` + ownersSQL + `, gone as materialized (
			select o.owner from o where o.owner is not null
				and not exists (select from fairlead.task_owner w where w.owner = o.owner and w.lease_until > now())
		)
		select c.id from gone cross join lateral (
			select c.id from fairlead.task c where c.state = 1 and c.owner = gone.owner limit $2::bigint for update skip locked
		) c limit $2::bigint
	))
	returning ` + adoptedColumns

const ownedSQL = `select t.id, t.fence from fairlead.task t where t.state = 1 and t.owner = $1`

const attemptSQL = `select ` + attemptColumns + ` from fairlead.task t where t.id = $1 and t.fence = $2 and t.state + 0 = 1`

const beatsSQL = `
	update fairlead.task t set progress = coalesce(u.progress, t.progress),
		beat_by = case when u.lease > 0 then now() + u.lease * interval '1 microsecond' else t.beat_by end
	from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::json[]) as u (id, fence, owner, lease, progress) ` + warySQL + `
	where t.id = u.id and t.fence = u.fence and t.state + 0 = 1 and (u.owner = 0 or u.owner = t.owner)`

// Adopt implements [Store].
func (p *Postgres) Adopt(ctx context.Context, o Owner, refs []Ref) ([]Attempt, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	c := newRefColumns(len(refs), func(i int) Ref { return refs[i] })
	return p.attempts(ctx, "adopt attempts", adoptSQL, int64(o), c.id, c.fence)
}

// Orphans implements [Store].
func (p *Postgres) Orphans(ctx context.Context, o Owner, n int) ([]Attempt, error) {
	if n <= 0 {
		return nil, nil
	}
	return p.attempts(ctx, "look for orphans", orphansSQL, int64(o), n)
}

// Owned implements [Store].
func (p *Postgres) Owned(ctx context.Context, o Owner) (refs []Ref, err error) {
	err = p.do(ctx, "read an owner's attempts", nil, func(ctx context.Context, conn *pgx.Conn) error {
		refs = nil
		return rows(ctx, conn, func(r pgx.Rows) error {
			ref := Ref{Owner: o}
			err := r.Scan((*[16]byte)(&ref.ID), &ref.Fence)
			refs = append(refs, ref)
			return err
		}, ownedSQL, int64(o))
	})
	return refs, err
}

// Attempt implements [Store].
func (p *Postgres) Attempt(ctx context.Context, id wire.TaskID, fence int64) (*Attempt, error) {
	attempts, err := p.attempts(ctx, "read an attempt", attemptSQL, uuid(id), fence)
	if err != nil || len(attempts) == 0 {
		return nil, err
	}
	return &attempts[0], nil
}

func (p *Postgres) attempts(ctx context.Context, operation, sql string, args ...any) (attempts []Attempt, err error) {
	err = p.do(ctx, operation, nil, func(ctx context.Context, conn *pgx.Conn) error {
		attempts = nil
		return rows(ctx, conn, func(r pgx.Rows) error {
			var a Attempt
			err := scanAttempt(r, &a)
			attempts = append(attempts, a)
			return err
		}, sql, args...)
	})
	return attempts, err
}

// Beats implements [Store].
func (p *Postgres) Beats(ctx context.Context, beats []Beat) error {
	last := lastBeats(beats)
	if len(last) == 0 {
		return nil
	}
	c := newRefColumns(len(last), func(i int) Ref { return last[i].Ref })
	lease, progress := make([]int64, len(last)), make([][]byte, len(last))
	for i, of := range c.of {
		lease[i], progress[i] = micros(last[of].Lease), document(last[of].Progress)
	}
	return p.do(ctx, "keep beats", nil, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, beatsSQL, c.id, c.fence, c.owner, lease, progress)
		return err
	})
}

// lastBeats makes the beats of each attempt one: a statement updates a row once.
func lastBeats(beats []Beat) []Beat {
	last := make([]Beat, 0, len(beats))
	at := make(map[Ref]int, len(beats))
	for _, b := range beats {
		i, ok := at[b.Ref]
		if !ok {
			at[b.Ref] = len(last)
			last = append(last, b)
			continue
		}
		if b.Lease > 0 {
			last[i].Lease = b.Lease
		}
		if len(b.Progress) > 0 {
			last[i].Progress = b.Progress
		}
	}
	return last
}
