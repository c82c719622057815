-- +goose Up

-- A job can be claimed when vis has come. claim grows whenever the job is taken
-- or given back: it is odd while somebody has the job, and who names another
-- number has lost it. A claim that ran out needs nobody to take it back.
create table fairlead.job (
	id           bigint      generated always as identity primary key,
	queue        text        collate "C" not null,
	vis          timestamptz not null,
	claim        bigint      not null default 0,
	attempts     integer     not null default 0,
	max_attempts integer     not null, -- 0: no bound
	created_at   timestamptz not null default now(),
	bytes        integer     not null, -- of the payload
	payload      json        not null
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
	autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);

create index job_ready on fairlead.job (queue, vis, id);

-- +goose Down
drop table fairlead.job;
