package store

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// liveColumns and doneColumns are those of a [wire.Task], of the tables t and d,
// without what it works on and has led to.
const (
	liveColumns = `t.id, t.name, t.state, t.attempt, t.failures, t.crashes, t.fence, t.priority, t.error, t.progress, t.metadata,
		coalesce(t.idem_key, ''), coalesce(t.unique_key, ''), t.kill_at is not null, t.created_at, t.run_at, t.started_at, null::timestamptz`
	doneColumns = `d.id, d.name, d.state, d.attempt, d.failures, d.crashes, d.fence, d.priority, d.error, null::json, d.metadata,
		coalesce(d.idem_key, ''), coalesce(d.unique_key, ''), false, d.created_at, d.run_at, d.started_at, d.finished_at`
)

// getSQL sees both tables in one snapshot: a task is never between them. So does
// peekSQL, without inputs.
const (
	getSQL = `
	select ` + liveColumns + `, t.input, null::json, u.n` + fromLive + `
	union all
	select ` + doneColumns + `, d.input, d.result, u.n` + fromDone
	peekSQL = `
	select ` + liveColumns + `, null::json, null::json, u.n` + fromLive + `
	union all
	select ` + doneColumns + `, null::json, d.result, u.n` + fromDone
	fromLive = `
	from unnest($1::uuid[]) with ordinality as u (id, n) join fairlead.task t on t.id = u.id`
	fromDone = `
	from unnest($1::uuid[]) with ordinality as u (id, n) join fairlead.task_done d on d.id = u.id and d.expires > now()`
)

// Get implements [Store].
func (p *Postgres) Get(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error) {
	return p.read(ctx, getSQL, ids)
}

// Peek implements [Store].
func (p *Postgres) Peek(ctx context.Context, ids []wire.TaskID) ([]*wire.Task, error) {
	return p.read(ctx, peekSQL, ids)
}

func (p *Postgres) read(ctx context.Context, sql string, ids []wire.TaskID) (tasks []*wire.Task, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	err = p.do(ctx, "read tasks", nil, func(ctx context.Context, conn *pgx.Conn) (err error) {
		tasks, err = get(ctx, conn, sql, ids)
		return err
	})
	return tasks, err
}

func get(ctx context.Context, q querier, sql string, ids []wire.TaskID) ([]*wire.Task, error) {
	tasks := make([]*wire.Task, len(ids))
	err := rows(ctx, q, func(r pgx.Rows) error {
		t := new(wire.Task)
		n := 0
		err := scanTask(r, t, (*[]byte)(&t.Input), (*[]byte)(&t.Result), &n)
		if err == nil && (tasks[n-1] == nil || tasks[n-1].Fence < t.Fence) {
			tasks[n-1] = t
		}
		return err
	}, sql, uuidsOf(ids))
	if err != nil {
		return nil, err
	}
	return tasks, nil
}

// one returns a task, nil where it is not there.
func one(ctx context.Context, q querier, id wire.TaskID) (*wire.Task, error) {
	tasks, err := get(ctx, q, getSQL, []wire.TaskID{id})
	if err != nil {
		return nil, err
	}
	return tasks[0], nil
}

func scanTask(r pgx.Rows, t *wire.Task, more ...any) error {
	var id wire.TaskID
	var state int16
	var problem []byte
	var created, runAt, started, finished pgtype.Timestamptz
	if err := r.Scan(append([]any{
		(*[16]byte)(&id), &t.Name, &state, &t.Attempt, &t.Failures, &t.Crashes, &t.Fence, &t.Priority, &problem,
		(*[]byte)(&t.Progress), (*[]byte)(&t.Metadata), &t.IdempotencyKey, &t.UniqueKey, &t.CancelAsked,
		&created, &runAt, &started, &finished,
	}, more...)...); err != nil {
		return err
	}
	t.ID, t.State = id.String(), stateOf(state)
	t.CreatedAt, t.RunAt, t.StartedAt, t.FinishedAt = timeOf(created), timeOf(runAt), timeOf(started), timeOf(finished)
	var err error
	t.Error, err = problemOf(problem)
	return err
}
