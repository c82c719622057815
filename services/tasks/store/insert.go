package store

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const insertSQL = `
	insert into fairlead.task (id, name, input, priority, run_at, timeout, metadata, trace, idem_key, unique_key,
		state, fence, attempt, owner, started_at, deadline)
	select u.id, u.name, u.input, u.priority, coalesce(u.run_at, now() + u.delay * interval '1 microsecond'), u.timeout,
		u.metadata, nullif(u.trace, ''), nullif(u.idem_key, ''), nullif(u.unique_key, ''),
		u.claimed, u.claimed, u.claimed, u.claimed * $1::bigint,
		case when u.claimed = 1 then now() end, case when u.claimed = 1 then now() + u.deadline * interval '1 microsecond' end
	from unnest($2::uuid[], $3::text[], $4::json[], $5::smallint[], $6::timestamptz[], $7::bigint[], $8::bigint[],
		$9::json[], $10::text[], $11::text[], $12::text[], $13::smallint[], $14::bigint[])
		as u (id, name, input, priority, run_at, delay, timeout, metadata, trace, idem_key, unique_key, claimed, deadline)`

// Insert implements [Store].
func (p *Postgres) Insert(ctx context.Context, o Owner, tasks []New) ([]Inserted, error) {
	if len(tasks) == 0 {
		return nil, nil
	}
	const operation = "insert tasks"
	b := newBatch(tasks)
	if len(b.wants) == 0 {
		if err := p.do(ctx, operation, nil, func(ctx context.Context, conn *pgx.Conn) error { return b.insert(ctx, conn, o) }); err != nil {
			return nil, err
		}
		return b.out, nil
	}
	for try := 1; ; try++ {
		if p.isWary() {
			if busy, err := p.busyKeys(ctx, b); err != nil || len(busy) > 0 {
				return nil, cmp.Or(err, error(&BusyError{Tasks: busy}))
			}
		}
		err := p.tx(ctx, operation, nil, func(ctx context.Context, tx pgx.Tx) error {
			if err := b.take(ctx, tx); err != nil {
				return err
			}
			return b.insert(ctx, tx, o)
		})
		if err == nil {
			return b.out, nil
		}
		if !p.waited(err) || try == 2 {
			return nil, err
		}
	}
}

// batch are tasks on their way in.
type batch struct {
	tasks []New
	wants map[taskKey]wire.TaskID // keys, and who takes them first
	out   []Inserted
}

func newBatch(tasks []New) *batch {
	b := &batch{tasks: tasks, out: make([]Inserted, len(tasks))}
	for i := range tasks {
		for _, k := range storedKeys(&tasks[i]) {
			if b.wants == nil {
				b.wants = make(map[taskKey]wire.TaskID, len(tasks))
			}
			if _, ok := b.wants[k]; !ok {
				b.wants[k] = tasks[i].ID
			}
		}
	}
	return b
}

func storedKeys(n *New) []taskKey {
	if n.IdempotencyKey == "" && n.UniqueKey == "" {
		return nil
	}
	return keysOf(text(n.Name), text(n.IdempotencyKey), text(n.UniqueKey))
}

// take takes the keys of a batch, and finds out which of its tasks exist.
func (b *batch) take(ctx context.Context, tx pgx.Tx) error {
	taken, held, err := b.lock(ctx, tx)
	if err != nil {
		return err
	}
	return b.settle(ctx, tx, taken, held)
}

// sorted returns the keys of a batch in the order in which they are taken.
func (b *batch) sorted() []taskKey { return slices.SortedFunc(maps.Keys(b.wants), taskKey.compare) }

// lock locks the keys of a batch until the transaction ends: all in one order,
// whoever has them. taken are those that nobody had, held those of others.
func (b *batch) lock(ctx context.Context, tx pgx.Tx) (taken, held map[taskKey]wire.TaskID, err error) {
	keys := b.sorted()
	c := keyColumnsOf(keys)
	ids := make(uuids, len(keys))
	for i, k := range keys {
		ids[i] = uuid(b.wants[k])
	}
	taken, held = make(map[taskKey]wire.TaskID, len(keys)), map[taskKey]wire.TaskID{}
	// A key that is another's is locked though it is not updated.
	if err := rows(ctx, tx, scanKeys(taken), `
		insert into fairlead.task_key as k (kind, name, key, task)
		select * from unnest($1::smallint[], $2::text[], $3::text[], $4::uuid[])
		on conflict (kind, name, key) do update set task = excluded.task, expires = null where k.expires <= now()
		returning k.kind, k.name, k.key, k.task`, c.kind, c.name, c.key, ids); err != nil {
		return nil, nil, err
	}
	if len(taken) == len(keys) {
		return taken, held, nil
	}
	// The statement before did not see what was written while it waited.
	if err := rows(ctx, tx, scanKeys(held), `
		select k.kind, k.name, k.key, k.task from unnest($1::smallint[], $2::text[], $3::text[]) as u (kind, name, key)
		join fairlead.task_key k on k.kind = u.kind and k.name = u.name and k.key = u.key`, c.kind, c.name, c.key); err != nil {
		return nil, nil, err
	}
	for k := range taken {
		delete(held, k)
	}
	return taken, held, nil
}

// settle goes through the tasks one after the other, as if each had come alone:
// held are keys and who has them. taken, what was taken for the batch, is made
// right where another of its tasks has a key now, or none.
func (b *batch) settle(ctx context.Context, tx pgx.Tx, taken, held map[taskKey]wire.TaskID) error {
	for i := range b.tasks {
		n := &b.tasks[i]
		b.out[i] = Inserted{ID: n.ID}
		keys := storedKeys(n)
		for _, k := range keys {
			if id, ok := held[k]; ok {
				b.out[i] = Inserted{ID: id, Existing: true}
				break
			}
		}
		if !b.out[i].Existing {
			for _, k := range keys {
				held[k] = n.ID
			}
		}
	}
	var free, moved []taskKey
	var to uuids
	for k, id := range taken {
		switch now, ok := held[k]; {
		case !ok:
			free = append(free, k)
		case now != id:
			moved, to = append(moved, k), append(to, uuid(now))
		}
	}
	if len(free) > 0 {
		c := keyColumnsOf(free)
		if _, err := tx.Exec(ctx, `
			delete from fairlead.task_key k using unnest($1::smallint[], $2::text[], $3::text[]) as u (kind, name, key)
			where k.kind = u.kind and k.name = u.name and k.key = u.key`, c.kind, c.name, c.key); err != nil {
			return err
		}
	}
	if len(moved) == 0 {
		return nil
	}
	c := keyColumnsOf(moved)
	_, err := tx.Exec(ctx, `
		update fairlead.task_key k set task = u.task from unnest($1::smallint[], $2::text[], $3::text[], $4::uuid[]) as u (kind, name, key, task)
		where k.kind = u.kind and k.name = u.name and k.key = u.key`, c.kind, c.name, c.key, to)
	return err
}

// insert stores those of a batch that don't exist.
func (b *batch) insert(ctx context.Context, q querier, o Owner) error {
	c := newTaskColumns(len(b.tasks))
	for i := range b.tasks {
		n := &b.tasks[i]
		if b.out[i].Existing {
			continue
		}
		b.out[i] = Inserted{ID: n.ID, Running: n.claimed()}
		c.add(n)
	}
	if len(c.id) == 0 {
		return nil
	}
	_, err := q.Exec(ctx, insertSQL, int64(o), c.id, c.name, c.input, c.priority, c.runAt, c.delay, c.timeout,
		c.metadata, c.trace, c.idempotencyKey, c.uniqueKey, c.claimed, c.deadline)
	return err
}

// taskColumns are new tasks by column.
type taskColumns struct {
	id                                     uuids
	name, trace, idempotencyKey, uniqueKey []string
	input, metadata                        [][]byte
	priority, claimed                      []int16
	runAt                                  pgtype.FlatArray[pgtype.Timestamptz]
	delay, timeout, deadline               []int64
}

func newTaskColumns(n int) *taskColumns {
	texts, documents, numbers, small := make([]string, 4*n), make([][]byte, 2*n), make([]int64, 3*n), make([]int16, 2*n)
	return &taskColumns{
		id: make(uuids, 0, n), runAt: make(pgtype.FlatArray[pgtype.Timestamptz], 0, n),
		name: texts[0:0:n], trace: texts[n : n : 2*n], idempotencyKey: texts[2*n : 2*n : 3*n], uniqueKey: texts[3*n : 3*n],
		input: documents[0:0:n], metadata: documents[n:n],
		priority: small[0:0:n], claimed: small[n:n],
		delay: numbers[0:0:n], timeout: numbers[n : n : 2*n], deadline: numbers[2*n : 2*n],
	}
}

func (c *taskColumns) add(n *New) {
	c.id = append(c.id, uuid(n.ID))
	c.name = append(c.name, text(n.Name))
	c.trace = append(c.trace, text(n.Trace))
	c.idempotencyKey = append(c.idempotencyKey, text(n.IdempotencyKey))
	c.uniqueKey = append(c.uniqueKey, text(n.UniqueKey))
	c.input = append(c.input, document(n.Input))
	c.metadata = append(c.metadata, document(n.Metadata))
	c.priority = append(c.priority, int16(n.Priority))
	c.runAt = append(c.runAt, at(n.RunAt))
	c.delay = append(c.delay, micros(n.Delay))
	c.timeout = append(c.timeout, micros(n.Timeout))
	claimed := int16(0)
	if n.claimed() {
		claimed = 1
	}
	c.claimed = append(c.claimed, claimed)
	c.deadline = append(c.deadline, micros(n.attemptTimeout()))
}

// keyColumns are keys by column.
type keyColumns struct {
	kind      []int16
	name, key []string
}

func keyColumnsOf(keys []taskKey) (c keyColumns) {
	for _, k := range keys {
		c.kind, c.name, c.key = append(c.kind, int16(k.kind)), append(c.name, k.name), append(c.key, k.key)
	}
	return c
}

func scanKeys(into map[taskKey]wire.TaskID) func(pgx.Rows) error {
	return func(r pgx.Rows) error {
		var k taskKey
		var id wire.TaskID
		err := r.Scan(&k.kind, &k.name, &k.key, (*[16]byte)(&id))
		into[k] = id
		return err
	}
}
