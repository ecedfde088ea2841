-- Format 1. Instants are milliseconds since 1970-01-01 UTC by the server's clock. See docs/format.md.

create table {schema}.format (
    one boolean primary key default true check (one),
    version integer not null
);

insert into {schema}.format (version) values (0);

-- The only clock there is: every statement stamps and compares with it, after its locks are taken.
create function {schema}.now_ms() returns bigint language sql volatile
    as $$ select floor(extract(epoch from clock_timestamp()) * 1000)::bigint $$;

-- One row that the planner takes for a thousand. A cached plan cannot know how long its arrays are and assumes
-- 10 elements; times this, it joins them by hashing and not each with each.
create function {schema}.many() returns setof boolean language sql volatile rows 1000
    as $$ select true $$;

create sequence {schema}.run_keys;

-- A step of a held run changes no indexed column: with room on the page the update is heap-only and writes to no
-- index. Text is compared by bytes everywhere.
create table {schema}.runs (
    key bigint primary key,
    created_at_ms bigint not null,
    updated_at_ms bigint not null,
    due_at_ms bigint,
    parent_key bigint,
    parent_incarnation integer not null,
    incarnation integer not null default 1,
    epoch integer not null,
    position integer not null,
    priority integer not null,
    messages_sent integer not null default 0,
    recoveries integer not null default 0,
    id text collate "C" not null unique,
    status text collate "C" not null,
    workflow text collate "C" not null,
    fingerprint text collate "C" not null,
    queue text collate "C" not null,
    worker text collate "C",
    tags text collate "C" not null,
    input_digest bytea not null,
    parent_step bytea
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- Serves the claim: one probe per (queue, workflow, priority), the longest due first. Held runs and runs that
-- only a message can wake are not in it, so neither costs a claim anything.
create index runs_due on {schema}.runs (queue, workflow, priority, due_at_ms)
    where worker is null and due_at_ms is not null;

-- Serves the claim's look for a suspect, of which there are few: without it, it would walk past all others.
create index runs_suspect on {schema}.runs (queue, workflow, priority, due_at_ms)
    where worker is null and due_at_ms is not null and recoveries >= 2;

-- Serves freeing what a dead worker held.
create index runs_held on {schema}.runs (worker) where worker is not null;

create table {schema}.journal (
    run bigint not null,
    at_ms bigint not null,
    position integer not null,
    epoch integer not null,
    entry bytea not null,
    primary key (run, position)
);

create table {schema}.inbox (
    run bigint not null,
    at_ms bigint not null,
    seq integer not null,
    kind text collate "C" not null,
    name text collate "C" not null,
    id text collate "C" not null,
    payload bytea not null,
    primary key (run, seq)
);

-- Makes a message that is sent twice one message, also after it was consumed and left the inbox.
create table {schema}.message_ids (
    run bigint not null,
    id text collate "C" not null,
    primary key (run, id)
);

create table {schema}.snapshots (
    run bigint primary key,
    position integer not null,
    state bytea not null
);

-- A row is a lease; a worker without one is dead and stays so.
create table {schema}.workers (
    id text collate "C" primary key,
    expires_at_ms bigint not null
) with (fillfactor = 50);

create table {schema}.definitions (
    name text collate "C" not null,
    fingerprint text collate "C" not null,
    current boolean not null,
    structure bytea not null,
    input_schema bytea not null,
    primary key (name, fingerprint)
);
