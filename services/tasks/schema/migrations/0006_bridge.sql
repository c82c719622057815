-- +goose Up

-- The topics that the channels of bridges have published to: whoever takes over
-- announces on them that changes may be missing.
create table fairlead.bridge_topic (
	namespace text        collate "C" not null,
	channel   text        collate "C" not null,
	topic     text        collate "C" not null,
	used      timestamptz not null default now(), -- to the hour
	primary key (namespace, channel, topic)
);

-- +goose Down

drop table fairlead.bridge_topic;
