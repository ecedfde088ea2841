-- Format 2: runs can be deleted, and the owner says what it can drive. See docs/format.md.

-- Made anew for `autoincrement`: the key of a deleted run is never given again, so that who still names it
-- (a message on its way, a child) reaches nobody else. Rows keep their keys.
create table runs_2 (
    key integer primary key autoincrement,
    id text not null unique,
    incarnation integer not null default 1,
    epoch integer not null,
    position integer not null,
    status text not null,
    workflow text not null,
    fingerprint text not null,
    queue text not null,
    priority integer not null,
    tags text not null,
    worker text,
    due_at_ms integer,
    messages_sent integer not null default 0,
    recoveries integer not null default 0,
    input_digest blob not null,
    parent_key integer,
    parent_incarnation integer not null,
    parent_step blob,
    created_at_ms integer not null,
    updated_at_ms integer not null
) strict;

insert into runs_2 select * from runs;

drop table runs;

alter table runs_2 rename to runs;

create index runs_due on runs (queue, workflow, priority, due_at_ms)
    where worker is null and due_at_ms is not null;

create index runs_held on runs (worker) where worker is not null;

-- Serves the sweep: the oldest first. Runs that are under way are not in it, so no step writes to it. Not
-- `status in (...)`: each statement that updates a run would put that list into a temporary table first, 0.1 ms.
create index runs_ended on runs (workflow, status, updated_at_ms)
    where status = 'completed' or status = 'failed' or status = 'cancelled' or status = 'blocked';

-- What the owner can drive: one row, of the process that `<db>-owner` names; any other row is a dead owner's.
create table workers (
    id text primary key,
    workflows text not null,
    pid integer not null,
    host text not null
) strict, without rowid;
