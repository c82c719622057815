-- +goose Up

-- A slot for each key of work that is to be done once. It is pending while
-- somebody does the work, whose token alone commits or aborts it. One that has
-- expired is as good as not there.
create table fairlead.idem (
	key     text        collate "C" primary key,
	token   text        collate "C" not null,
	hash    text        collate "C" not null, -- of the request; '': none
	ttl_ms  bigint      not null,             -- of the result, from the commit on
	done    boolean     not null default false,
	result  json,
	expires timestamptz not null
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
	autovacuum_vacuum_cost_delay = 0);

create index idem_expires on fairlead.idem (expires);

-- +goose Down
drop table fairlead.idem;
