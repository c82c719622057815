-- +goose Up

-- What went wrong is found among what went well. Nothing but time depends on it.
create index task_done_state on fairlead.task_done (state, id) where state <> 2;
create index task_done_name_state on fairlead.task_done (name, state, id) where state <> 2;

-- +goose Down
drop index fairlead.task_done_name_state;
drop index fairlead.task_done_state;
