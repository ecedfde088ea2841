"""The transaction of a group with anything in it: appends, messages, new runs and what appends spawn.

Each run's row that is appended to or sent to is locked once, in the order of keys, and updated once: an append
and messages to the same run meet on the locked row. Appends come first and messages after them, as if each had
been sent just then; one that stands before the append in the group is counted by it. What appends send comes
after all appends where one of them ends the run that it is for, so whether a run may end hangs on no other run.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from holdfast.stores.postgres.connection import Address, Connection, Row
from holdfast.stores.postgres.inbox import keys_of
from holdfast.stores.postgres.journal import Written, columns_of, entry_columns
from holdfast.stores.postgres.queries import ENDED_LIST
from holdfast.stores.records import (
    Append,
    Applied,
    Exists,
    Fenced,
    Member,
    Message,
    NewRun,
    Outcome,
    Over,
    Unread,
)

HEADER_COLUMNS = (
    "key bigint, epoch integer, position integer, after integer, status text, completes boolean,"
    " was_held boolean, is_held boolean, due_at_ms bigint, due_in_ms bigint, messages_read bigint,"
    " must_be_read boolean"
)
ENTRY_COLUMNS = "run bigint, position integer, epoch integer, entry bytea"
MESSAGE_COLUMNS = (
    "n integer, sender bigint, run bigint, incarnation integer, kind text, name text, id text, payload bytea,"
    " wakes text, is_before boolean"
)
EARLY_COLUMNS = "run bigint, incarnation integer, id text"
USED_COLUMNS = "run bigint, seq integer"
RETURNED_COLUMNS = "run bigint, seq integer, kind text, name text, id text, payload bytea, at_ms bigint"
NEW_COLUMNS = (
    "n integer, sender bigint, id text, over text, workflow text, fingerprint text, queue text,"
    " priority integer, tags text, worker text, input_digest bytea, parent_key bigint,"
    " parent_incarnation integer, parent_step bytea, entries integer"
)
FIRST_COLUMNS = "n integer, position integer, entry bytea"
KEY_COLUMNS = "key bigint"
WORKER_COLUMNS = "id text"

# Locks are taken in one order by everyone: workers, runs by key, ids of new runs. A lateral select that locks
# can only be run row after row, in the order in which the keys came. Whatever else writes takes the stamp or
# the locked rows, so it comes after all the locks. Served by the primary keys, and by the unique index on ids.
#
# alive    workers named by new runs whose lease lives; `for key share` holds off who would declare them dead
# locked   one row for each run of the group, beside its append if it has one. Where messages must be read
#          before that one, `sent_by_then` counts them: also those that stand before it. If one of them was
#          stored before and this snapshot does not show its id yet, then the counter of the locked row has it,
#          and nobody has read it: there is something unread either way
# judged   which appends are applied: those that fit, and that have read what they must
# fenced   all other appends
# met      messages whose run has the right incarnation and whose sender is not fenced, with the status that the
#          run has for them: as locked, or as an append has left it before them
# sent     those whose run is not over; not materialized, for that would copy every payload
# fresh    those not stored before: the primary key of message_ids decides, also against other transactions
# change   what becomes of each locked row: exactly one update for each
# returned messages that were used before; where their append is repeated they are there, and stay as they are
# free     new runs, for each id the first of the group, with keys in the order of the group
# created  those whose id was not taken; inserted in the order of ids, for the same reason as locks
_GROUP = """
with alive as materialized (
    select workers.id from {schema}.workers where workers.id in (select id from {workers})
        and expires_at_ms > {schema}.now_ms()
    order by workers.id for key share of workers
),
locked as materialized (
    select a.*,
        coalesce(r.epoch = a.epoch and r.position = a.position, false)
            and (r.worker is not null) = a.was_held as fits,
        case when a.must_be_read then r.messages_sent + (
            select count(distinct e.id) from {early}
            where e.run = a.key and coalesce(e.incarnation, r.incarnation) = r.incarnation
                and r.status not in {ended} and not exists (
                    select from {schema}.message_ids as m where m.run = e.run and m.id = e.id
                )
        ) end as sent_by_then,
        r.incarnation, r.status as status_now, r.worker as worker_now, r.due_at_ms as due_now_ms,
        r.messages_sent as sent_before
    from (select count(*) as count from alive) as first cross join {appends}
    cross join lateral (
        select * from {schema}.runs where runs.key = a.key and first.count >= 0 for no key update
    ) as r
),
stamp as materialized (select {schema}.now_ms() as at_ms, count(*) as locked from locked),
judged as materialized (
    select *, fits and (sent_by_then > messages_read) is not true as is_ok from locked
),
fenced as materialized (
    select array(select key from {keys} except select key from judged where is_ok) as keys
),
met as materialized (
    select m.*, l.sent_before,
        case when l.is_ok and (m.sender is not null or not m.is_before) then l.status
            else l.status_now end as status
    from {schema}.many(), {messages}
    join judged as l on l.key = m.run and coalesce(m.incarnation, l.incarnation) = l.incarnation
    where m.sender is null or m.sender <> all((select keys from fenced)::bigint[])
),
sent as not materialized (select * from met where status not in {ended}),
fresh as (
    insert into {schema}.message_ids (run, id) select distinct run, id from sent
    on conflict do nothing returning run, id
),
numbered as materialized (
    select s.*, s.sent_before + row_number() over (partition by s.run order by s.n) as seq
    from (select distinct on (run, id) * from sent order by run, id, n) as s join fresh using (run, id)
),
counted as materialized (
    select run, count(*)::integer as count, count(*) filter (where is_before) as before,
        string_agg(wakes, '') as wakes, string_agg(wakes, '') filter (where not is_before) as wakes_after
    from numbered group by run
),
parked as materialized (
    select l.*, at_ms, l.sent_before + coalesce(c.count, 0) as sent_now,
        case when is_ok then status else status_now end as new_status,
        case when is_ok and not is_held then null else worker_now end as new_worker,
        case when not is_ok or is_held then due_now_ms
            when l.sent_before + coalesce(c.before, 0) > messages_read then at_ms
            else least(due_at_ms, at_ms + due_in_ms) end as parked_due_ms,
        case when is_ok then wakes_after else wakes end as wakes
    from judged as l cross join stamp left join counted as c on c.run = l.key
),
change as materialized (
    select *, case when new_worker is null and strpos(wakes, ',' || new_status || ',') > 0
        then at_ms else parked_due_ms end as new_due_ms
    from parked where is_ok or sent_now > sent_before
),
written as (
    update {schema}.runs set status = new_status, worker = new_worker, due_at_ms = new_due_ms,
        messages_sent = sent_now,
        position = case when is_ok then after else runs.position end,
        updated_at_ms = case when is_ok then at_ms else runs.updated_at_ms end,
        recoveries = case when is_ok and completes then 0 else recoveries end
    from change where runs.key = change.key
),
entry as (
    insert into {schema}.journal (run, position, epoch, at_ms, entry)
    select e.run, e.position, e.epoch, at_ms, e.entry from stamp, {entries}
    where e.run <> all((select keys from fenced)::bigint[])
),
message as (
    insert into {schema}.inbox (run, seq, kind, name, id, payload, at_ms)
    select run, seq, kind, name, id, payload, at_ms from numbered cross join stamp
),
used as (
    delete from {schema}.inbox using {used}
    where inbox.run = u.run and inbox.seq = u.seq and u.run <> all((select keys from fenced)::bigint[])
),
returned as (
    insert into {schema}.inbox (run, seq, kind, name, id, payload, at_ms)
    select run, seq, kind, name, id, payload, at_ms from {returned}
    where b.run <> all((select keys from fenced)::bigint[]) on conflict do nothing
),
free as materialized (
    select f.*, nextval('{schema}.run_keys') as key, f.worker in (select id from alive) as is_alive
    from (
        select * from (
            select distinct on (id) x.* from {schema}.many(), {new}
            where x.sender is null or x.sender <> all((select keys from fenced)::bigint[])
            order by id, n
        ) as first order by n
    ) as f
),
created as (
    insert into {schema}.runs (key, id, epoch, position, status, workflow, fingerprint, queue, priority, tags,
        worker, due_at_ms, input_digest, parent_key, parent_incarnation, parent_step, created_at_ms,
        updated_at_ms)
    select key, id, case when is_alive then 1 else 0 end, entries,
        coalesce(over, case when is_alive then 'running' else 'pending' end), workflow, fingerprint, queue,
        priority, tags, case when is_alive and over is null then worker end,
        case when over is null then at_ms end, input_digest, parent_key, parent_incarnation, parent_step,
        at_ms, at_ms
    from free cross join stamp order by id
    on conflict (id) do nothing returning key, due_at_ms is not null and worker is null as is_due
),
started as (
    insert into {schema}.journal (run, position, epoch, at_ms, entry)
    select key, f.position, 0, at_ms, f.entry
    from {schema}.many(), {firsts} join free using (n) join created using (key) cross join stamp
)
select at_ms, appended.*, unread.*, answered.*, late.*, inserted.*,
    coalesce(inserted.are_due, false) or exists (
        select from change where new_worker is null and new_due_ms <= at_ms
            or sent_now > sent_before and new_worker <> all($OWN::text[])
    ) as hints
from stamp,
    (select array_agg(key) as keys, array_agg(sent_now) as counts from change where is_ok) as appended,
    (select array_agg(key) as keys, array_agg(sent_by_then) as counts from judged where fits and not is_ok)
        as unread,
    (select array_agg(n) as ns, array_agg(coalesce(numbered.seq, sent_now, sent.sent_before)) as counts
        from sent left join numbered using (n) left join change on change.key = sent.run) as answered,
    (select array_agg(n) as ns, array_agg(status) as statuses
        from met where status in {ended} and sender is null) as late,
    (select array_agg(n) as ns, array_agg(key) as keys, array_agg(worker is null or is_alive) as are_held,
            bool_or(is_due) as are_due
        from free join created using (key)) as inserted
""".replace("{ended}", ENDED_LIST)
# Asked after a group has met a run that is over, in a snapshot that shows all that was stored before: a message
# whose id is there was acknowledged, or is, now. Served by the primary keys of message_ids and runs.
_STORED = """
select n, run, messages_sent from unnest($1::integer[], $2::bigint[], $3::text[]) as m (n, run, id)
join {schema}.message_ids using (run, id) join {schema}.runs on key = run
"""


def _with_parameters(statement: str, **tables: tuple[str, str]) -> str:
    """Put an `unnest` of numbered parameters for each named table of arrays; the numbers go on through all."""
    number = 0
    for name, (alias, columns) in tables.items():
        pairs = [column.split() for column in columns.split(", ")]
        arrays = ", ".join(f"${number + n}::{kind}[]" for n, (_, kind) in enumerate(pairs, start=1))
        number += len(pairs)
        names = ", ".join(column for column, _ in pairs)
        statement = statement.replace(f"{{{name}}}", f"unnest({arrays}) as {alias} ({names})")
    return statement.replace("$OWN", f"${number + 1}")


_STATEMENT = _with_parameters(
    _GROUP,
    appends=("a", HEADER_COLUMNS),
    early=("e", EARLY_COLUMNS),
    entries=("e", ENTRY_COLUMNS),
    messages=("m", MESSAGE_COLUMNS),
    used=("u", USED_COLUMNS),
    returned=("b", RETURNED_COLUMNS),
    new=("x", NEW_COLUMNS),
    firsts=("f", FIRST_COLUMNS),
    keys=("k", KEY_COLUMNS),
    workers=("w", WORKER_COLUMNS),
)
_NO_APPEND = (None,) * (HEADER_COLUMNS.count(",") + 1)


class _Parts:
    """The members of a group by kind; what appends send and start stands where the append stands.

    Attributes:
        appends: By key, each with its place in the group.
        messages: Place, key of the sender if an append sends it, message.
        new: The same of new runs.
    """

    def __init__(self, group: Sequence[Member]) -> None:
        self.appends: dict[int, tuple[int, Append]] = {}
        self.messages: list[tuple[int, int | None, Message]] = []
        self.new: list[tuple[int, int | None, NewRun]] = []
        for place, member in enumerate(group):
            if isinstance(member, Message):
                self.messages.append((place, None, member))
            elif isinstance(member, NewRun):
                self.new.append((place, None, member))
            else:
                self.appends[member.key] = (place, member)
                self.messages += ((place, member.key, message) for message in member.messages)
                self.new += ((place, member.key, child) for child in member.children)

    def unaddressed(self) -> list[str]:
        """Ids of runs that are sent to and whose keys the senders do not know."""
        return sorted({message.run_id for _, _, message in self.messages if message.run_id})

    def address(self, keys: Mapping[str, int]) -> None:
        """Put keys in the place of ids; an id that is not there gets a key that no run has."""
        self.messages = [
            (place, sender, msgspec.structs.replace(m, run_key=keys.get(m.run_id, 0)) if m.run_id else m)
            for place, sender, m in self.messages
        ]

    def keys(self) -> list[int]:
        """Of all runs that are appended or sent to, in the order in which they are locked."""
        return sorted(self.appends.keys() | {message.run_key for _, _, message in self.messages})

    def header_row(self, key: int) -> Row:
        _, a = self.appends.get(key, (0, None))
        if a is None:
            return key, *_NO_APPEND[1:]
        after, is_held = a.position + len(a.entries), a.worker is not None
        return (
            *(key, a.epoch, a.position, after, a.status, a.completes, a.is_held, is_held),
            *(a.due_at_ms, a.due_in_ms, a.messages_read, a.must_be_read()),
        )

    def early_rows(self) -> Iterator[Row]:
        """Messages that an append which stands behind them must have read."""
        for place, sender, m in self.messages:
            append_place, append = self.appends.get(m.run_key, (-1, None))
            if sender is None and append is not None and place < append_place and append.must_be_read():
                yield m.run_key, m.incarnation, m.id

    def message_rows(self) -> Iterator[Row]:
        for n, (place, sender, message) in enumerate(self.messages):
            m = message
            append_place, _ = self.appends.get(m.run_key, (-1, None))
            wakes = f",{','.join(m.wakes)},"
            is_before = place < append_place
            yield n, sender, m.run_key, m.incarnation, m.kind, m.name, m.id, m.payload, wakes, is_before

    def used_rows(self) -> Iterator[Row]:
        return ((append.key, seq) for _, append in self.appends.values() for seq in append.consumed)

    def returned_rows(self) -> Iterator[Row]:
        return ((a.key, *msgspec.structs.astuple(row)) for _, a in self.appends.values() for row in a.returned)

    def new_rows(self) -> Iterator[Row]:
        for n, (_, sender, new) in enumerate(self.new):
            yield (
                *(n, sender, new.id, new.over, new.workflow, new.fingerprint, new.queue, new.priority),
                *(json.dumps(new.tags), new.worker, new.input_digest),
                *(new.parent_key, new.parent_incarnation, new.parent_step, len(new.entries)),
            )

    def first_rows(self) -> Iterator[Row]:
        for n, (_, _, new) in enumerate(self.new):
            for position, entry in enumerate(new.entries, start=1):
                yield n, position, entry


async def write_group(
    connection: Connection, address: Address, group: Sequence[Member], own: Sequence[str]
) -> Written:
    """Write members of any kind in one statement; ids that messages name are looked up before it.

    Args:
        connection: Where to.
        address: Names the schema.
        group: At least one member; a run is named by one append at most.
        own: The workers of this process: others need no hint for what these hold.
    """
    parts = _Parts(group)
    if ids := parts.unaddressed():
        parts.address(await keys_of(connection, address, ids))
    appends = [append for _, append in parts.appends.values()]
    row = await connection.fetchrow(
        address.sql(_STATEMENT),
        *_columns(HEADER_COLUMNS, map(parts.header_row, parts.keys())),
        *_columns(EARLY_COLUMNS, parts.early_rows()),
        *entry_columns(appends),
        *_columns(MESSAGE_COLUMNS, parts.message_rows()),
        *_columns(USED_COLUMNS, parts.used_rows()),
        *_columns(RETURNED_COLUMNS, parts.returned_rows()),
        *_columns(NEW_COLUMNS, parts.new_rows()),
        *_columns(FIRST_COLUMNS, parts.first_rows()),
        list(parts.appends),
        sorted({new.worker for _, _, new in parts.new if new.worker is not None}),
        own,
    )
    assert row is not None
    written = _written(group, parts, row)
    if any(isinstance(outcome, Over) for outcome in written.outcomes):
        await _recall_stored(connection, address, parts, written)
    return written


async def _recall_stored(connection: Connection, address: Address, parts: _Parts, written: Written) -> None:
    """Acknowledge those messages to runs that are over which were stored before."""
    rows = [
        (place, message.run_key, message.id)
        for place, sender, message in parts.messages
        if sender is None and isinstance(written.outcomes[place], Over)
    ]
    assert written.at_ms is not None
    for n, key, count in await connection.fetch(address.sql(_STORED), *columns_of(rows, 3)):
        written.outcomes[n] = Applied(written.at_ms, key, count)


def _columns(columns: str, rows: Iterable[Row]) -> list[Sequence[object]]:
    """Rows as one array for each column, also where there is no row."""
    return columns_of(rows, columns.count(",") + 1)


def _written(group: Sequence[Member], parts: _Parts, row: Row) -> Written:
    at_ms, keys, counts, unread_keys, unread_counts, message_ns, message_counts, *rest = row
    late_ns, late_statuses, new_ns, new_keys, are_held, _, hints = rest
    outcomes: list[Outcome] = [Exists() if isinstance(member, NewRun) else Fenced() for member in group]
    for key, count in zip(keys or (), counts or (), strict=True):
        outcomes[parts.appends[key][0]] = Applied(at_ms, key, count)
    for key, count in zip(unread_keys or (), unread_counts or (), strict=True):
        outcomes[parts.appends[key][0]] = Unread(count)
    for n, status in zip(late_ns or (), late_statuses or (), strict=True):
        outcomes[parts.messages[n][0]] = Over(status)
    for n, count in zip(message_ns or (), message_counts or (), strict=True):
        place, sender, message = parts.messages[n]
        if sender is None:
            outcomes[place] = Applied(at_ms, message.run_key, count)
    for n, key, is_held in zip(new_ns or (), new_keys or (), are_held or (), strict=True):
        place, sender, _ = parts.new[n]
        if sender is None:
            outcomes[place] = Applied(at_ms, key, is_held=is_held)
    return Written(outcomes, at_ms, hints)
