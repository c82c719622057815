-- +goose Up

-- Times are the database's alone. Durations are microseconds.

-- An owner is one life of a replica of the tasks service. Renewing a lease
-- touches no index: the row stays on its page.
create table fairlead.task_owner (
	owner       bigint generated always as identity primary key,
	host        text        not null,
	started_at  timestamptz not null default now(),
	lease_until timestamptz not null
) with (fillfactor = 50);

-- What has not ended. It is as small as what is to be done; what is in it while
-- it runs is written when it starts and when it ends, not in between.
create table fairlead.task (
	id          uuid        primary key,
	fence       bigint      not null default 0,  -- + 1 whenever an attempt is started or given up
	owner       bigint      not null default 0,  -- who supervises the attempt; 0: nobody
	created_at  timestamptz not null default now(),
	run_at      timestamptz not null default now() check (isfinite(run_at)), -- others count from it
	started_at  timestamptz,                     -- of the attempt that runs, as the next two
	deadline    timestamptz,
	beat_by     timestamptz,                     -- until when its worker has promised to be heard
	kill_at     timestamptz,                     -- it is to be cancelled, by then at the latest
	timeout     bigint      not null default 0,  -- of an attempt; 0: that of the name
	attempt     integer     not null default 0,
	failures    integer     not null default 0,
	crashes     integer     not null default 0,
	state       smallint    not null default 0,  -- 0 pending, 1 running
	priority    smallint    not null default 0,
	steps       boolean     not null default false, -- it has some in task_step
	name        text        collate "C" not null,
	idem_key    text        collate "C",
	unique_key  text        collate "C",
	trace       text,
	metadata    json,
	input       json,
	progress    json,
	error       json
) with (
	fillfactor = 80,
	autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
	autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
	toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000
);

create index task_ready on fairlead.task (name, priority desc, run_at, id) where state = 0;
create index task_running on fairlead.task (owner, name) where state = 1; -- owners are few: each is looked up
create index task_kill on fairlead.task (kill_at) where kill_at is not null;

-- What has ended, by the day (UTC) from which on it is kept no longer: whatever
-- is kept for how long, cleaning is dropping a partition. There is no default
-- partition, which would keep one from being detached while others write; the
-- days are made ahead, and where one is missing by who needs it.
create table fairlead.task_done (
	id          uuid        not null,
	expires     timestamptz not null,
	fence       bigint      not null,
	created_at  timestamptz not null,
	run_at      timestamptz not null,
	started_at  timestamptz,
	finished_at timestamptz not null default now(),
	timeout     bigint      not null,
	attempt     integer     not null,
	failures    integer     not null,
	crashes     integer     not null,
	state       smallint    not null, -- 2 committed, 3 failed, 4 cancelled, 5 dead
	priority    smallint    not null,
	steps       boolean     not null,
	name        text        collate "C" not null,
	idem_key    text        collate "C",
	unique_key  text        collate "C",
	trace       text,
	metadata    json,
	input       json, -- unless it is committed
	result      json,
	error       json
) partition by range (expires);

create index task_done_id on fairlead.task_done (id);
create index task_done_name on fairlead.task_done (name, id);

-- Who has a key: a task that lives, or until it expires one that was committed.
create table fairlead.task_key (
	kind    smallint not null, -- 1 idempotency, 2 unique
	name    text     collate "C" not null,
	key     text     collate "C" not null,
	task    uuid     not null,
	expires timestamptz,       -- null: while the task lives
	primary key (kind, name, key)
) with (
	fillfactor = 80,
	autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);

create index task_key_expires on fairlead.task_key (expires) where expires is not null;

-- Results of steps, until the task is committed or kept no longer.
create table fairlead.task_step (
	task    uuid   not null,
	step    text   collate "C" not null,
	fence   bigint not null,  -- of the attempt that stored it
	expires timestamptz,      -- null: while the task lives
	result  json   not null,
	primary key (task, step)
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

create index task_step_expires on fairlead.task_step (expires) where expires is not null;

-- How the tasks of a name are run.
create table fairlead.task_name (
	name         text    collate "C" primary key,
	timeout      bigint  not null,
	max_attempts integer not null,
	backoff      bigint  not null,
	factor       float8  not null,
	max_backoff  bigint  not null,
	jitter       float8  not null,
	final        text[]  not null,
	max_crashes  integer not null,
	concurrency  integer not null,
	retention    bigint  not null -- 0: that of the service
);

-- One row: what the tokens of attempts are made with.
create table fairlead.task_secret (
	one    boolean primary key default true check (one),
	secret bytea   not null
);

-- One row: how long the service keeps what has ended, for who ends tasks in SQL.
create table fairlead.task_service (
	one       boolean primary key default true check (one),
	retention bigint  not null
);

-- task_done_make makes the partition of the day (UTC) that a time is in. It is
-- made beside the table and attached, which lets others go on writing.
-- +goose StatementBegin
create function fairlead.task_done_make(at timestamptz) returns void language plpgsql as $$
declare
	day   timestamp := date_trunc('day', at at time zone 'UTC');
	part  text := 'task_done_' || to_char(day, 'YYYYMMDD');
begin
	perform pg_advisory_xact_lock(x'666c646f6e65'::bigint); -- "fldone"
	-- The catalog is read as of now: what is cached of it may be of before the lock.
	if not exists (select from pg_class c where c.relnamespace = 'fairlead'::regnamespace and c.relname = part) then
		execute format('create table fairlead.%I (like fairlead.task_done including defaults including indexes)', part);
		execute format('alter table fairlead.task_done attach partition fairlead.%I for values from (%L) to (%L)',
			part, day at time zone 'UTC', (day + interval '1 day') at time zone 'UTC');
	end if;
end $$;
-- +goose StatementEnd


-- task_keys_busy returns the places of those keys that a transaction wants that has
-- not ended. It takes the others, or tries to: that is to be taken back.
-- +goose StatementBegin
create function fairlead.task_keys_busy(kinds smallint[], names text[], keys text[]) returns setof integer language plpgsql
set lock_timeout = 20 as $$
begin
	for i in 1 .. cardinality(kinds) loop
		begin
			insert into fairlead.task_key (kind, name, key, task) values (kinds[i], names[i], keys[i], '00000000-0000-0000-0000-000000000000')
				on conflict (kind, name, key) do update set task = excluded.task where false;
		exception when lock_not_available then
			return next i;
		end;
	end loop;
end $$;
-- +goose StatementEnd

-- enqueue stores a task in the caller's transaction and returns its id; that of
-- the existing task where a key says so. What the service refuses is an error
-- here too.
-- +goose StatementBegin
create function fairlead.enqueue(
	name            text,
	input           json        default 'null',
	idempotency_key text        default null,
	unique_key      text        default null,
	run_at          timestamptz default null,
	priority        integer     default 0,
	timeout_ms      bigint      default null,
	metadata        json        default null
) returns uuid language plpgsql as $$
#variable_conflict use_column
declare
	raw   bytea;
	made  uuid;
	other uuid;
	wants record;
begin
	if $1 is null or octet_length($1) > 128 or $1 !~ '^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z][A-Za-z0-9_-]*)*$' then
		raise exception 'name: 1-128 bytes of [A-Za-z0-9_-] and dots, each part beginning with a letter' using errcode = '22023';
	elsif octet_length($2::text) > 524288 then
		raise exception 'input: at most 512 KB of JSON' using errcode = '22023';
	elsif octet_length($3) not between 1 and 256 or $3 ~ '[\u0001-\u001f\u007f]' or $3 like ' %' or $3 like '% ' then
		raise exception 'idempotency_key: 1-256 bytes, no control characters, and no space at either end' using errcode = '22023';
	elsif octet_length($4) not between 1 and 256 or $4 ~ '[\u0001-\u001f\u007f]' then
		raise exception 'unique_key: 1-256 bytes, no control characters' using errcode = '22023';
	elsif $5 not between '0001-01-01 00:00:00+00' and clock_timestamp() + interval '8784 hours' then
		raise exception 'run_at: a time, at most a year ahead' using errcode = '22023';
	elsif $6 is null or $6 not between -100 and 100 then
		raise exception 'priority: -100 to 100' using errcode = '22023';
	elsif $7 not between 10 and 604800000 then
		raise exception 'timeout_ms: 10 to 604800000' using errcode = '22023';
	elsif json_typeof($8) <> 'object' or octet_length($8::text) > 4096 then
		raise exception 'metadata: an object of at most 4 KB' using errcode = '22023';
	end if;
	-- A UUID of version 7: the time in ms, then what is random.
	raw := overlay(uuid_send(gen_random_uuid())
		placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6);
	raw := set_byte(raw, 6, (get_byte(raw, 6) & 15) | 112);
	made := encode(raw, 'hex')::uuid;

	for wants in select k.kind, k.key from (values (1, $3), (2, $4)) as k (kind, key) where k.key is not null order by k.kind loop
		other := null;
		for tries in 1 .. 10 loop
			insert into fairlead.task_key as k (kind, name, key, task) values (wants.kind, $1, wants.key, made)
				on conflict (kind, name, key) do update set task = excluded.task, expires = null where k.expires <= now()
				returning k.task into other;
			exit when other is not null;
			-- Whoever has it may be gone by now: then it is to be had.
			select k.task into other from fairlead.task_key k where k.kind = wants.kind and k.name = $1 and k.key = wants.key;
			exit when other is not null;
		end loop;
		if other is null then
			raise exception 'the key of a task was taken and freed too often' using errcode = '40001';
		elsif other <> made then
			delete from fairlead.task_key k where k.kind = 1 and k.name = $1 and k.key = $3 and k.task = made;
			return other;
		end if;
	end loop;

	insert into fairlead.task (id, name, input, run_at, priority, timeout, metadata, idem_key, unique_key)
		values (made, $1, coalesce($2, 'null'), coalesce($5, now()), $6, coalesce($7, 0) * 1000, $8, $3, $4);
	perform pg_notify('fairlead_task', $1);
	return made;
end $$;
-- +goose StatementEnd

-- complete commits the result of an attempt in the caller's transaction: with it
-- what the worker wrote becomes lasting, or nothing does. Where the attempt was
-- given up it raises FL001, where it was committed before FL002.
-- +goose StatementBegin
create function fairlead.complete(id uuid, fence bigint, result json default 'null') returns void language plpgsql as $$
#variable_conflict use_column
declare
	gone fairlead.task;
	ends timestamptz;
begin
	delete from fairlead.task t where t.id = $1 and t.fence = $2 and t.state + 0 = 1 returning t.* into gone;
	if not found and exists (select from fairlead.task_done d where d.id = $1 and d.fence = $2 and d.state = 2) then
		raise exception 'the attempt was committed before' using errcode = 'FL002', detail = format('task %s, fence %s', $1, $2);
	elsif not found then
		raise exception 'the attempt was given up' using errcode = 'FL001', detail = format('task %s, fence %s', $1, $2);
	elsif octet_length($3::text) > 524288 then
		raise exception 'result: at most 512 KB of JSON' using errcode = '22023';
	end if;
	select now() + interval '1 microsecond' * coalesce(
		nullif((select n.retention from fairlead.task_name n where n.name = gone.name), 0),
		(select s.retention from fairlead.task_service s),
		259200000000) into ends; -- three days
	for tries in 1 .. 2 loop
		begin
			insert into fairlead.task_done (id, expires, fence, created_at, run_at, started_at, timeout, attempt, failures, crashes,
					state, priority, steps, name, idem_key, unique_key, trace, metadata, result, error)
				values (gone.id, ends, gone.fence, gone.created_at, gone.run_at, gone.started_at, gone.timeout, gone.attempt,
					gone.failures, gone.crashes, 2, gone.priority, false, gone.name, gone.idem_key, gone.unique_key, gone.trace,
					gone.metadata, coalesce($3, 'null'), gone.error);
			exit;
		exception when check_violation then -- no partition
			if tries = 2 then
				raise;
			end if;
			perform fairlead.task_done_make(ends);
		end;
	end loop;
	update fairlead.task_key k set expires = ends
		where k.kind = 1 and k.name = gone.name and k.key = gone.idem_key and k.task = gone.id;
	delete from fairlead.task_key k
		where k.kind = 2 and k.name = gone.name and k.key = gone.unique_key and k.task = gone.id;
	if gone.steps then
		delete from fairlead.task_step s where s.task = gone.id;
	end if;
end $$;
-- +goose StatementEnd

-- +goose Down
drop function fairlead.complete;
drop function fairlead.enqueue;
drop function fairlead.task_keys_busy;
drop function fairlead.task_done_make;
drop table fairlead.task_service;
drop table fairlead.task_secret;
drop table fairlead.task_name;
drop table fairlead.task_step;
drop table fairlead.task_key;
drop table fairlead.task_done;
drop table fairlead.task;
drop table fairlead.task_owner;
