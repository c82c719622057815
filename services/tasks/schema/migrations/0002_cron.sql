-- +goose Up

-- A schedule fires by moving next_at on: who does that also inserts the task, in
-- the same transaction, so that each tick is fired by one replica.
create table fairlead.cron (
	name       text        collate "C" primary key,
	spec       text        collate "C" not null,
	tz         text        collate "C" not null,
	task       text        collate "C" not null,
	input      json        not null,
	missed     text        collate "C" not null, -- skip, once or all
	paused     boolean     not null,
	priority   smallint    not null,
	timeout_ms bigint,               -- null: that of the task's name
	next_at    timestamptz not null,
	last_at    timestamptz,          -- the last tick that was fired
	revision   bigint      not null, -- it grows whenever the schedule is set
	created_at timestamptz not null default now()
) with (fillfactor = 80);

create sequence fairlead.cron_revision;

create index cron_due on fairlead.cron (next_at) where not paused;

-- +goose Down
drop table fairlead.cron;
drop sequence fairlead.cron_revision;
