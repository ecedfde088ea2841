"""Plain look-ups: runs, all that is needed to go on with some, definitions; and keeping snapshots."""

from collections.abc import Sequence
from operator import itemgetter

from holdfast.stores.postgres.connection import Address, Connection
from holdfast.stores.records import (
    ENDED,
    RUN_NAMES,
    Definition,
    InboxRow,
    JournalRow,
    RunRecord,
    Snapshot,
    Stored,
    run_record,
)

RUN_COLUMNS = ", ".join(f"runs.{name}" for name in RUN_NAMES)
ENDED_LIST = "({})".format(", ".join(f"'{status}'" for status in sorted(ENDED)))
"""The statuses of a run that is over, as SQL wants them behind `in`."""
_FIND_RUN = "select {columns} from {schema}.runs where id = $1".replace("{columns}", RUN_COLUMNS)
_LIST_RUNS = """
select {columns} from {schema}.runs
where ($1::text is null or status = $1) and ($2::text is null or workflow = $2)
    and ($3::bigint is null or key < $3)
order by key desc limit $4
""".replace("{columns}", RUN_COLUMNS)
# Held until the transaction ends: two workers that deploy at once save one after the other, and the later one
# is current. Row locks alone could not order an update of some rows and an insert of another.
_LOCK_DEFINITIONS = "select pg_advisory_xact_lock(hashtextextended($1, 0))"
_NOT_CURRENT = (
    "update {schema}.definitions set current = false where name = $1 and current and fingerprint <> $2"
)
_SAVE_DEFINITION = """
insert into {schema}.definitions as d (name, fingerprint, structure, input_schema, current)
values ($1, $2, $3, $4, $5) on conflict (name, fingerprint)
do update set current = d.current or excluded.current, input_schema = excluded.input_schema,
    structure = case when excluded.current then excluded.structure else d.structure end
"""
_FIND_DEFINITION = """
select name, fingerprint, structure, input_schema from {schema}.definitions
where name = $1 and (fingerprint = $2 or $2::text is null and current)
"""
_NAMES = "select name from {schema}.definitions where current order by name"
# The fence is the select that feeds the insert, and it locks the row: a claim that takes the run meanwhile
# passes it over, or was first and is seen. Served by the primary keys.
_SAVE_SNAPSHOT = """
with held as materialized (
    select key from {schema}.runs where key = $1 and epoch = $2 for no key update
)
insert into {schema}.snapshots (run, position, state) select key, $3, $4 from held
on conflict (run) do update set position = excluded.position, state = excluded.state
"""
_SNAPSHOT, _ENTRY = range(2)
# One statement has one snapshot, so all of it is of one moment. A lateral select that is sorted by itself is
# run for one key after the other: the planner cannot turn it into a join, for which it might read all journals
# there are. Served by the primary keys of snapshots, journal and inbox.
_LOAD = """
select run, 0 as what, position, null::integer as epoch, null::bigint as at_ms, state as bytes,
    null::text as kind, null::text as name, null::text as id
from unnest($1::bigint[]) as k (key) join {schema}.snapshots on run = key
union all
select key, 1, j.position, j.epoch, j.at_ms, j.entry, null, null, null
from unnest($1::bigint[]) as k (key) left join {schema}.snapshots as s on s.run = key
cross join lateral (
    select position, epoch, at_ms, entry from {schema}.journal
    where journal.run = key and journal.position > coalesce(s.position, 0) order by position
) as j
union all
select key, 2, i.seq, null, i.at_ms, i.payload, i.kind, i.name, i.id
from unnest($1::bigint[]) as k (key) cross join lateral (
    select seq, at_ms, payload, kind, name, id from {schema}.inbox where inbox.run = key order by seq
) as i
"""


async def find_run(connection: Connection, address: Address, run_id: str) -> RunRecord | None:
    """One run by id. Served by the unique index on ids."""
    row = await connection.fetchrow(address.sql(_FIND_RUN), run_id)
    return None if row is None else run_record(row)


async def list_runs(
    connection: Connection,
    address: Address,
    *,
    status: str | None,
    workflow: str | None,
    limit: int,
    after: int | None,
) -> list[RunRecord]:
    """A page by descending key. Served by the primary key."""
    rows = await connection.fetch(address.sql(_LIST_RUNS), status, workflow, after, limit)
    return [run_record(row) for row in rows]


async def save_definition(
    connection: Connection, address: Address, definition: Definition, *, current: bool
) -> None:
    """Insert or keep it; if it is to be current, it is the only one of its workflow."""
    d = definition
    async with connection.transaction():
        await connection.execute(_LOCK_DEFINITIONS, f"{address.schema}.{d.name}")
        if current:
            await connection.execute(address.sql(_NOT_CURRENT), d.name, d.fingerprint)
        await connection.execute(
            address.sql(_SAVE_DEFINITION), d.name, d.fingerprint, d.structure, d.input_schema, current
        )


async def find_definition(
    connection: Connection, address: Address, name: str, fingerprint: str | None
) -> Definition | None:
    """By fingerprint, or the current one."""
    row = await connection.fetchrow(address.sql(_FIND_DEFINITION), name, fingerprint)
    return None if row is None else Definition(*row)


async def definition_names(connection: Connection, address: Address) -> list[str]:
    """Workflows that have a current structure."""
    return [str(row[0]) for row in await connection.fetch(address.sql(_NAMES))]


async def save_snapshot(
    connection: Connection, address: Address, key: int, epoch: int, snapshot: Snapshot
) -> None:
    """Replace it, if the run still has that epoch."""
    await connection.execute(address.sql(_SAVE_SNAPSHOT), key, epoch, snapshot.position, snapshot.state)


async def load(connection: Connection, address: Address, keys: Sequence[int]) -> list[Stored]:
    """Snapshot, journal behind it and inbox of each run, at one moment."""
    snapshots: dict[int, Snapshot] = {}
    journals: dict[int, list[JournalRow]] = {key: [] for key in keys}
    inboxes: dict[int, list[InboxRow]] = {key: [] for key in keys}
    rows = await connection.fetch(address.sql(_LOAD), sorted(journals))
    # They come in this order already; nothing promises it, and looking costs little.
    rows.sort(key=itemgetter(0, 1, 2))
    for run, what, position, epoch, at_ms, stored, kind, name, message_id in rows:
        if what == _SNAPSHOT:
            snapshots[run] = Snapshot(position, stored)
        elif what == _ENTRY:
            journals[run].append(JournalRow(position, epoch, at_ms, stored))
        else:
            inboxes[run].append(InboxRow(position, kind, name, message_id, stored, at_ms))
    return [Stored(snapshots.get(key), journals[key], inboxes[key]) for key in keys]
