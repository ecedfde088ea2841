"""Appends: one on its own, or many without anything else, which is what nearly all transactions are.

All forms lock the run's row first, compare epoch and position with the locked row, stamp, and write. A group
with messages, consumed or returned ones, new runs, or an append to a run that nobody holds goes through
`group`.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from holdfast.stores.postgres.connection import Address, Connection, Row
from holdfast.stores.records import Append, Applied, Fenced, JournalRow, Outcome, Unread, due_at

_NEVER = 2**62
"""For no due time, and for more messages than any run gets: an array without nulls is indexed at once."""

# The fence is compared with the row as it is once it is locked, whatever the statement's snapshot shows, and
# the stamp is taken after that. A run that stays held leaves `worker` and `due_at_ms` as they are: no index is
# written. A run that is given back is parked by the counter of messages on the locked row, so no wake-up is
# lost. By the same counter nothing is written, although the row is locked, where messages must be read before.
# Served by the primary keys of runs and journal.
_BARE = """
with locked as materialized (
    select key, messages_sent from {schema}.runs
    where key = $1 and epoch = $2 and position = $3 and worker is not null for no key update
),
stamped as materialized (
    select key, messages_sent, {schema}.now_ms() as at_ms from locked
    where ($11 and messages_sent > $10::bigint) is not true
),
entry as (
    insert into {schema}.journal (run, position, epoch, at_ms, entry)
    select key, $3 + n, $2, at_ms, entry from stamped, unnest($4::bytea[]) with ordinality as e (entry, n)
),
written as (
    update {schema}.runs set position = $3 + cardinality($4::bytea[]), status = $5, updated_at_ms = at_ms,
        recoveries = case when $6 then 0 else recoveries end,
        worker = case when $7 then worker end,
        due_at_ms = case
            when $7 then due_at_ms
            when stamped.messages_sent > $10::bigint then at_ms
            else least($8::bigint, at_ms + $9::bigint) end
    from stamped where runs.key = stamped.key
)
select at_ms, locked.messages_sent from locked left join stamped on true
"""
# The same where there is one entry and the run stays held, as in most steps: less to compute for the server.
_STEP = """
with locked as materialized (
    select key, {schema}.now_ms() as at_ms from (
        select key from {schema}.runs
        where key = $1 and epoch = $2 and position = $3 and worker is not null for no key update offset 0
    ) as r
),
entry as (
    insert into {schema}.journal (run, position, epoch, at_ms, entry)
    select key, $3 + 1, $2, at_ms, $4::bytea from locked
)
update {schema}.runs set position = $3 + 1, status = $5, updated_at_ms = at_ms,
    recoveries = case when $6 then 0 else recoveries end
from locked where runs.key = locked.key
returning at_ms, runs.messages_sent
"""
# As above for many. The rows come sorted by key, and a lateral select that locks can only be run row after
# row: every group locks in the same order, so crossing groups wait but never for one another. The locked rows
# are compared with their fences, and each is updated once. What most appends do not have is in arrays of its
# own: due times and counts of messages, picked by number, and entries after the first, which leave out
# what is not applied. Neither needs a join over long arrays, whose length a cached plan cannot know. The bits
# of a shape, from the lowest: a step completes, the run stays held, messages must be read before; 29 for the
# count of entries; the number of its due time. Served by the primary keys of runs and journal.
_MANY = """
with locked as materialized (
    select a.*, r.epoch, r.position, sent, fits,
        fits and (a.shape & 4 = 0 or sent <= ($8::bigint[])[a.shape >> 32]) as is_ok
    from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bytea[])
        as a (key, fence, shape, status, entry)
    cross join lateral (
        select runs.epoch, runs.position, messages_sent as sent,
            a.fence = (runs.epoch::bigint << 32 | runs.position) and runs.worker is not null as fits
        from {schema}.runs where runs.key = a.key for no key update
    ) as r
),
stamp as materialized (select {schema}.now_ms() as at_ms, count(*) as locked from locked),
written as (
    update {schema}.runs set status = l.status, updated_at_ms = at_ms,
        position = runs.position + (l.shape >> 3 & 536870911)::integer,
        recoveries = case when l.shape & 1 > 0 then 0 else recoveries end,
        worker = case when l.shape & 2 > 0 then worker end,
        due_at_ms = case
            when l.shape & 2 > 0 then runs.due_at_ms
            when runs.messages_sent > ($8::bigint[])[l.shape >> 32] then at_ms
            else nullif(
                least(($6::bigint[])[l.shape >> 32], at_ms + ($7::bigint[])[l.shape >> 32]), {never}
            ) end
    from locked as l, stamp where l.is_ok and runs.key = l.key
),
first as (
    insert into {schema}.journal (run, position, epoch, at_ms, entry)
    select key, position + 1, epoch, at_ms, entry from locked, stamp where is_ok and entry is not null
),
further as (
    insert into {schema}.journal (run, position, epoch, at_ms, entry)
    select e.run, e.position, e.epoch, at_ms, e.entry
    from stamp, unnest($9::bigint[], $10::integer[], $11::integer[], $12::bytea[])
        as e (run, position, epoch, entry)
    where e.run not in (select key from locked where not is_ok) and e.run in (select key from locked)
)
select at_ms, array(select key from locked where is_ok), array(select sent from locked where is_ok),
    array(select key from locked where fits and not is_ok),
    array(select sent from locked where fits and not is_ok)
from stamp
""".replace("{never}", str(_NEVER))
# Served by the primary key of journal.
_READ = """
select position, epoch, at_ms, entry from {schema}.journal where run = $1 and position > $2 order by position
"""


class Written(NamedTuple):
    """What a transaction has done: outcomes in the order of members, its stamp, whether others should look."""

    outcomes: list[Outcome]
    at_ms: int | None
    hints: bool


async def write_one(connection: Connection, address: Address, append: Append) -> Written:
    """Write an append that is alone and sends, consumes, returns and starts nothing."""
    a = append
    if a.worker is not None and len(a.entries) == 1 and not a.must_be_read():
        step = (a.key, a.epoch, a.position, a.entries[0], a.status, a.completes)
        row = await connection.fetchrow(address.sql(_STEP), *step)
    else:
        row = await connection.fetchrow(
            address.sql(_BARE),
            *(a.key, a.epoch, a.position, a.entries, a.status, a.completes, a.worker is not None),
            *(a.due_at_ms, a.due_in_ms, a.messages_read, a.must_be_read()),
        )
    if row is None:
        return Written([Fenced()], None, hints=False)
    at_ms, sent = row
    if at_ms is None:
        return Written([Unread(sent)], None, hints=False)
    return Written([Applied(at_ms, a.key, sent)], at_ms, hints=is_due_for_others(a, at_ms, sent))


async def write_many(connection: Connection, address: Address, appends: Sequence[Append]) -> Written:
    """Write appends that send, consume, return and start nothing."""
    ordered = sorted(appends, key=_key)
    due: list[Row] = []
    row = await connection.fetchrow(
        address.sql(_MANY),
        *zip(*(_packed(a, due) for a in ordered), strict=True),
        *columns_of(due, 3),
        *entry_columns(ordered, after=1),
    )
    assert row is not None
    at_ms, keys, counts, unread_keys, unread_counts = row
    sent = dict(zip(keys, counts, strict=True))
    unread = dict(zip(unread_keys, unread_counts, strict=True))
    outcomes: list[Outcome] = [
        Applied(at_ms, a.key, sent[a.key])
        if a.key in sent
        else Unread(unread[a.key])
        if a.key in unread
        else Fenced()
        for a in appends
    ]
    hints = any(a.key in sent and is_due_for_others(a, at_ms, sent[a.key]) for a in appends)
    return Written(outcomes, at_ms, hints)


def _key(append: Append) -> int:
    return append.key


def _packed(a: Append, due: list[Row]) -> Row:
    """Few columns: the driver spends most of its time on looking at each value of an array."""
    entries = a.entries
    shape = len(entries) << 3 | a.completes
    must_be_read = a.must_be_read()
    if a.worker is None or must_be_read:
        times = (a.due_at_ms, a.due_in_ms, a.messages_read)
        due.append(tuple(_NEVER if time is None else time for time in times))
        shape |= len(due) << 32 | must_be_read << 2
    if a.worker is not None:
        shape |= 2
    return a.key, a.epoch << 32 | a.position, shape, a.status, entries[0] if entries else None


def columns_of(rows: Iterable[Row], count: int) -> list[Sequence[object]]:
    """Rows as one array for each of `count` columns, also where there is no row."""
    return list(zip(*rows, strict=True)) or [()] * count


def entry_columns(appends: Iterable[Append], *, after: int = 0) -> list[Sequence[object]]:
    """Run, position, epoch and bytes of entries as arrays, but for the first `after` entries of each append."""
    rows = (
        (a.key, a.position + n, a.epoch, entry)
        for a in appends
        for n, entry in enumerate(a.entries[after:], start=after + 1)
    )
    return columns_of(rows, 4)


def is_due_for_others(append: Append, at_ms: int, sent: int) -> bool:
    """Whether this append gives its run back, due now."""
    if append.worker is not None:
        return False
    due_at_ms = due_at(append, at_ms)
    unread = append.messages_read is not None and sent > append.messages_read
    return unread or (due_at_ms is not None and due_at_ms <= at_ms)


async def read_journal(connection: Connection, address: Address, key: int, after: int) -> list[JournalRow]:
    """Entries after a position, in order."""
    rows = await connection.fetch(address.sql(_READ), key, after)
    return [JournalRow(*row) for row in rows]
