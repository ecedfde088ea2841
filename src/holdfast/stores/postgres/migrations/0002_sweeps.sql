-- Format 2. What a worker can drive, and what finds runs that were over, or blocked, for long.

-- Names of workflows as a JSON array. Workers of format 1 write none.
alter table {schema}.workers add column workflows text collate "C" not null default '[]';

-- Status and last append of a run that a sweep may remove, and null for all others. An index over `status` and
-- `updated_at_ms` themselves would be written to by every step, which changes them: heap-only updates end where
-- an index so much as names a column that changes.
alter table {schema}.runs add column sweep_status text collate "C", add column sweep_at_ms bigint;

-- Keeps both right, also for what workers of format 1 write. A run comes to rest where it is given back, so a step,
-- which does not touch `worker`, pays nothing for it; generated columns would cost each step a tenth more.
create function {schema}.mark_for_sweep() returns trigger language plpgsql as $$
begin
    new.sweep_status := case when new.status in ('completed', 'failed', 'cancelled', 'blocked') then new.status end;
    new.sweep_at_ms := case when new.sweep_status is not null then new.updated_at_ms end;
    return new;
end $$;
create trigger given_back before update of worker on {schema}.runs for each row
    when (new.worker is null
        and (new.sweep_status is not null or new.status in ('completed', 'failed', 'cancelled', 'blocked')))
    execute function {schema}.mark_for_sweep();
create trigger over_at_once before insert on {schema}.runs for each row
    when (new.status in ('completed', 'failed', 'cancelled', 'blocked'))
    execute function {schema}.mark_for_sweep();
update {schema}.runs set sweep_status = status, sweep_at_ms = updated_at_ms
    where status in ('completed', 'failed', 'cancelled', 'blocked');

-- Serves the sweep: a walk from the run that was changed last the longest time ago.
create index runs_swept on {schema}.runs (workflow, sweep_status, sweep_at_ms) where sweep_status is not null;
