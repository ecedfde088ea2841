-- Format 1. Instants are milliseconds since 1970-01-01 UTC by the store's clock. See docs/format.md.

create table runs (
    key integer primary key,
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

-- Serves the claim: one probe per (queue, workflow, priority), the longest due first. Held runs and runs that
-- only a message can wake are not in it, so neither costs a claim anything.
create index runs_due on runs (queue, workflow, priority, due_at_ms)
    where worker is null and due_at_ms is not null;

-- Serves the freeing of a dead owner's runs at open.
create index runs_held on runs (worker) where worker is not null;

-- In the order of writing, so that the entries of all runs in one transaction share a few pages. In (run, position)
-- order each active run would cost a page of its own in every transaction.
create table journal (
    run integer not null,
    position integer not null,
    epoch integer not null,
    at_ms integer not null,
    entry blob not null
) strict;

-- Serves reading one run's journal, and lets no position be taken twice.
create unique index journal_position on journal (run, position);

create table inbox (
    run integer not null,
    seq integer not null,
    kind text not null,
    name text not null,
    id text not null,
    payload blob not null,
    at_ms integer not null,
    primary key (run, seq)
) strict, without rowid;

-- Makes a message that is sent twice one message, also after it was consumed and left the inbox.
create table message_ids (
    run integer not null,
    id text not null,
    primary key (run, id)
) strict, without rowid;

create table snapshots (
    run integer primary key,
    position integer not null,
    state blob not null
) strict;

create table definitions (
    name text not null,
    fingerprint text not null,
    structure blob not null,
    input_schema blob not null,
    current integer not null,
    primary key (name, fingerprint)
) strict, without rowid;

-- The store's clock never falls: `high_ms` is at least every stamp given so far, and at most one second more.
create table clock (
    one integer primary key check (one = 1),
    high_ms integer not null
) strict;

insert into clock values (1, 0);
