"""Taking runs away: one whose place another run takes, one that is over, and many that were over for long.

Each is a transaction. The run's row is locked first, and whatever else writes to the run locks it, too. What
belongs to it is removed in a later statement, whose snapshot shows all that was written before the lock.
"""

import json
from collections.abc import Sequence

from holdfast.stores.postgres.connection import Address, Connection
from holdfast.stores.postgres.queries import ENDED_LIST
from holdfast.stores.records import Applied, Fenced, NewRun, Outcome

# Locks in the order of everyone: workers, then runs. `for key share` holds off who would declare the worker
# dead. The epoch is compared with the locked row. Served by the primary keys.
_LOCK_REPLACED = """
with alive as materialized (
    select id from {schema}.workers where id = $3 and expires_at_ms > {schema}.now_ms() for key share
),
lease as materialized (select count(*) > 0 as is_alive from alive)
select is_alive from lease cross join lateral (
    select key from {schema}.runs where key = $1 and epoch = $2 and is_alive is not null for no key update
) as r
"""
# The row is locked. Served by the primary key.
_REPLACE = """
with stamp as materialized (select {schema}.now_ms() as at_ms),
entry as (
    insert into {schema}.journal (run, position, epoch, at_ms, entry)
    select $1, n, 0, at_ms, entry from stamp, unnest($2::bytea[]) with ordinality as e (entry, n)
)
update {schema}.runs set epoch = epoch + 1, incarnation = incarnation + 1, position = cardinality($2::bytea[]),
    messages_sent = case when $15 then messages_sent else 0 end, recoveries = 0,
    created_at_ms = at_ms, updated_at_ms = at_ms, worker = $3, status = $4,
    due_at_ms = case when $5 then at_ms end, workflow = $6, fingerprint = $7, queue = $8, priority = $9,
    tags = $10, input_digest = $11, parent_key = $12, parent_incarnation = $13, parent_step = $14
from stamp where key = $1
returning at_ms, messages_sent
"""
# The rows of these runs are locked, so nobody writes for them meanwhile. Served by the primary keys.
_EMPTY = """
with entry as (delete from {schema}.journal where run = any($1::bigint[])),
message as (delete from {schema}.inbox where run = any($1::bigint[])),
message_id as (delete from {schema}.message_ids where run = any($1::bigint[]))
delete from {schema}.snapshots where run = any($1::bigint[])
"""
# The same of a run that keeps its inbox.
_EMPTY_BUT_INBOX = """
with entry as (delete from {schema}.journal where run = any($1::bigint[]))
delete from {schema}.snapshots where run = any($1::bigint[])
"""
_REMOVE = "delete from {schema}.runs where key = any($1::bigint[])"
_PARENT = "select parent_key, parent_incarnation from {schema}.runs where key = $1"
# A parent has the lower key: it comes first, as everywhere. Shared, so that it goes on being over, or holds
# this up until it is. An incarnation that is gone never comes back. Served by the primary key.
_LOCK_PARENT = "select status in {ended} or incarnation <> $2 from {schema}.runs where key = $1 for share"
# Compared with the locked row: another run may have started it anew meanwhile. Served by the primary key.
_LOCK_DELETED = """
select from {schema}.runs
where key = $1 and status in {ended} and parent_key is not distinct from $2 and parent_incarnation = $3
for update
"""
# A walk along `runs_swept`, from what was changed last the longest time ago. Passes over what someone has
# locked, and so waits for nobody, in whatever order it locks; the conditions are compared with the locked row,
# and status and instant as they are: the index only leads there. The parent is asked for in a way that the
# planner cannot turn into a join, for which it might read all runs there are.
_LOCK_SWEPT = """
select key, parent_key, parent_incarnation from {schema}.runs
where workflow = $1 and sweep_status = $2 and sweep_status is not null and sweep_at_ms < $3 and worker is null
    and status = $2 and updated_at_ms < $3
    and coalesce((
        select parent.status in {ended} or parent.incarnation <> runs.parent_incarnation
        from {schema}.runs as parent where parent.key = runs.parent_key
    ), true)
order by sweep_at_ms limit $4 for update of runs skip locked
"""
# Parents that are there, and could not be made to go on being over. Passes over what someone has locked: to
# wait for a parent with a child in hand would be the wrong order. Their incarnations need no lock: they only
# grow, and this statement's snapshot is younger than each child in hand, so one that differs from the child's
# came after that. Served by the primary key.
_LIVE_PARENTS = """
with over as materialized (
    select key from {schema}.runs where key = any($1::bigint[]) and status in {ended} for share skip locked
)
select key, incarnation from {schema}.runs where key = any($1::bigint[]) and key not in (select key from over)
"""


def _complete(statement: str) -> str:
    return statement.replace("{ended}", ENDED_LIST)


LOCK_PARENT, LOCK_DELETED, LOCK_SWEPT, LIVE_PARENTS = map(
    _complete, (_LOCK_PARENT, _LOCK_DELETED, _LOCK_SWEPT, _LIVE_PARENTS)
)


async def replace(
    connection: Connection, address: Address, new: NewRun, *, key: int, epoch: int, keep_inbox: bool
) -> Outcome:
    """Put a new run in the place of one that has this epoch."""
    async with connection.transaction():
        row = await connection.fetchrow(address.sql(_LOCK_REPLACED), key, epoch, new.worker)
        if row is None:
            return Fenced()
        is_alive = bool(row[0])
        await connection.execute(address.sql(_EMPTY_BUT_INBOX if keep_inbox else _EMPTY), [key])
        row = await connection.fetchrow(
            address.sql(_REPLACE),
            *(key, new.entries, new.worker if is_alive and new.over is None else None),
            *(new.over or ("running" if is_alive else "pending"), new.over is None),
            *(new.workflow, new.fingerprint, new.queue, new.priority, json.dumps(new.tags), new.input_digest),
            *(new.parent_key, new.parent_incarnation, new.parent_step, keep_inbox),
        )
    assert row is not None
    return Applied(row[0], key, row[1], is_held=new.worker is None or is_alive)


async def delete(connection: Connection, address: Address, key: int) -> bool:
    """Remove a run that is over, unless its parent is there, of the same incarnation, and not over."""
    async with connection.transaction():
        row = await connection.fetchrow(address.sql(_PARENT), key)
        if row is None:
            return False
        parent_key, incarnation = row
        parent = await connection.fetchrow(address.sql(LOCK_PARENT), parent_key, incarnation)
        if parent is not None and not parent[0]:
            return False
        if await connection.fetchrow(address.sql(LOCK_DELETED), key, parent_key, incarnation) is None:
            return False
        await _remove(connection, address, [key])
    return True


async def sweep(
    connection: Connection, address: Address, workflow: str, status: str, *, before_ms: int, limit: int
) -> int:
    """Remove some runs that were changed last before a moment; how many."""
    async with connection.transaction():
        rows = await connection.fetch(address.sql(LOCK_SWEPT), workflow, status, before_ms, limit)
        parents = sorted({row[1] for row in rows if row[1] is not None})
        live: set[tuple[int, int]] = set()
        if parents:
            live = {(row[0], row[1]) for row in await connection.fetch(address.sql(LIVE_PARENTS), parents)}
        keys = [row[0] for row in rows if (row[1], row[2]) not in live]
        if keys:
            await _remove(connection, address, keys)
    return len(keys)


async def _remove(connection: Connection, address: Address, keys: Sequence[int]) -> None:
    await connection.execute(address.sql(_EMPTY), keys)
    await connection.execute(address.sql(_REMOVE), keys)
