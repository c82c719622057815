-- +goose Up

-- A log is one life of a stream: a stream that was deleted and made anew, or
-- lost its tail, counts from the beginning again and gets another log. The
-- current one of a stream has the greatest id.
create table fairlead.archive_log (
	id       bigint generated always as identity primary key,
	stream   text   collate "C" not null,
	created  bigint not null default 0, -- when the stream was made, ns since 1970; 0: not known
	first    bigint not null default 1, -- what is before it was cleaned away
	position bigint not null default 0, -- copied up to here: each sequence has a message, or lies in a hole
	last     bigint not null default 0  -- greatest sequence that was stored
);

create index archive_log_stream on fairlead.archive_log (stream, id);

-- No foreign key: it would cost every insert a look at its log.
create table fairlead.archive_message (
	log     bigint  not null,
	seq     bigint  not null,
	ts      bigint  not null, -- when JetStream stored it, ns since 1970
	marker  boolean not null, -- the topic was cleared up to here
	topic   text    collate "C" not null,
	event   text    collate "C" not null,
	sender  text    collate "C" not null,
	exclude text    collate "C" not null,
	payload bytea   not null,
	primary key (log, seq)
);

create index archive_message_topic on fairlead.archive_message (log, topic, seq);
create index archive_message_marker on fairlead.archive_message (log, topic, seq) where marker;

-- Sequences whose messages were gone before they could be copied, or never
-- were any. Holes of a log never overlap.
create table fairlead.archive_hole (
	log   bigint not null,
	first bigint not null,
	last  bigint not null,
	primary key (log, last)
);

-- What is up to here was cleared, whether or not it is deleted yet.
create table fairlead.archive_clear (
	log   bigint not null,
	topic text   collate "C" not null, -- '': every topic
	upto  bigint not null,
	swept boolean not null default false, -- it is deleted
	primary key (log, topic)
);

-- +goose Down
drop table fairlead.archive_clear;
drop table fairlead.archive_hole;
drop table fairlead.archive_message;
drop table fairlead.archive_log;
