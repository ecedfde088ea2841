"""Who may drive what: leases of workers, claims of runs, and taking both from the dead.

Whatever lets a worker hold a run locks the worker's row `for key share` until its transaction ends, and
whatever declares it dead deletes that row. So one of the two is first: either the run is held before, and the
dead one's runs are looked for after it, in a later snapshot; or the row is gone, and nothing is held. A renewal
changes no key, so it does not wait for claims.
"""

import json
from collections.abc import Sequence

from holdfast.errors import LeaseLostError
from holdfast.stores.postgres.connection import Address, Connection
from holdfast.stores.postgres.queries import RUN_COLUMNS
from holdfast.stores.records import (
    PRIORITY_STEP_MS,
    QUARANTINE_AT,
    SUSPECT_AT,
    Claimed,
    RunRecord,
    WorkerRecord,
    run_record,
)

CANDIDATES = 4
"""Candidates for each run that is asked for: so many workers may look at one time and all find something."""
# The planner takes nearly all rows to pass this. If it saw the comparison itself, it would take nearly none to
# pass where all runs have one fingerprint, and then sort a million sleepers to find the first.
_IS_KNOWN = "nullif(fingerprint = any($4::text[]), true) is not null"

_REGISTER = """
insert into {schema}.workers (id, expires_at_ms, workflows) values ($1, {schema}.now_ms() + $2, $3)
on conflict (id) do nothing
"""
# A walk of a table with a row for each worker.
_WORKERS = "select id, workflows from {schema}.workers where expires_at_ms > {schema}.now_ms() order by id"
# The same two in format 1, which does not know what a worker can drive.
_REGISTER_1 = _REGISTER.replace(", workflows", "").replace(", $3", "")
_WORKERS_1 = _WORKERS.replace("workflows", "'[]'")
# Touches an unexpired row only; a reaper that has it locked decides first. No indexed column changes.
RENEW = """
update {schema}.workers set expires_at_ms = {schema}.now_ms() + $2
where id = $1 and expires_at_ms > {schema}.now_ms() returning 1
"""
# alive       the lock that holds off a reaper, before anything else
# candidates  one probe for each (queue, workflow, priority), which walks `runs_due` from the longest due run
#             and stops at its limit; suspects, few or none, are looked for in `runs_suspect` of their own
# chosen      in the order of rank, what nobody has locked: locks no more rows than are taken. The conditions
#             stand here again, for the row may have changed since the snapshot
# The next due time is the first row behind now in each probe's range. One round trip tells everything.
_CLAIM = """
with alive as materialized (
    select id from {schema}.workers where id = $1 and expires_at_ms > {schema}.now_ms() for key share
),
stamp as materialized (select {schema}.now_ms() as at_ms, count(*) > 0 as is_alive from alive),
place as materialized (
    select queue, workflow, priority, at_ms from stamp, unnest($7::text[]) as q (queue),
        unnest($2::text[]) as w (workflow), generate_series(1, 5) as p (priority)
    where is_alive
),
suspect as materialized (
    select found.key, due_at_ms + $6::bigint * (priority - 1) as rank from place cross join lateral (
        select runs.key, due_at_ms from {schema}.runs
        where runs.queue = place.queue and runs.workflow = place.workflow and runs.priority = place.priority
            and worker is null and due_at_ms is not null and due_at_ms <= at_ms and recoveries >= {suspect_at}
            and {is_known}
        order by due_at_ms limit $5
    ) as found order by rank, found.key limit $5
),
candidate as materialized (
    select key, rank from suspect
    union all (
        select found.key, due_at_ms + $6::bigint * (priority - 1) as rank from place cross join lateral (
            select runs.key, due_at_ms from {schema}.runs
            where runs.queue = place.queue and runs.workflow = place.workflow and runs.priority = place.priority
                and worker is null and due_at_ms is not null and due_at_ms <= at_ms
                and recoveries < {suspect_at} and {is_known}
            order by due_at_ms limit {candidates}
        ) as found order by rank, found.key limit {candidates}
    )
),
chosen as materialized (
    select runs.key, rank from (select * from candidate order by rank, key) as c, lateral (
        select runs.key from {schema}.runs, stamp
        where runs.key = c.key and worker is null and due_at_ms <= at_ms
            and (recoveries < {suspect_at} or c.key in (select key from suspect))
        for no key update of runs skip locked
    ) as runs
    limit $3
),
held as (
    update {schema}.runs set worker = $1, epoch = epoch + 1,
        status = case when status = 'pending' then 'running' else status end
    from chosen where runs.key = chosen.key
    returning rank, {columns}
),
expired as materialized (
    select count(*) from {schema}.workers, stamp where expires_at_ms <= at_ms
)
select at_ms, is_alive, expired.count,
    (select min(due_at_ms) from place cross join lateral (
        select due_at_ms from {schema}.runs
        where runs.queue = place.queue and runs.workflow = place.workflow and runs.priority = place.priority
            and worker is null and due_at_ms is not null and due_at_ms > at_ms and {is_known}
        order by due_at_ms limit 1
    ) as next) as next_due_at_ms,
    held.*
from stamp cross join expired left join held on true order by rank, held.key
"""
# `row.worker is null` is compared with the row as it is once it is locked. Served by the unique index on ids.
_CLAIM_ONE = """
with alive as materialized (
    select id from {schema}.workers where id = $1 and expires_at_ms > {schema}.now_ms() for key share
),
stamp as materialized (select count(*) > 0 as is_alive from alive),
chosen as materialized (
    select key from {schema}.runs
    where id = $2 and worker is null and status not in ('completed', 'failed', 'cancelled')
        and (select is_alive from stamp)
    for no key update
),
held as (
    update {schema}.runs set worker = $1, epoch = epoch + 1,
        status = case when status = 'pending' then 'running' else status end
    from chosen where runs.key = chosen.key
    returning {columns}
)
select is_alive, held.* from stamp left join held on true
"""
# Served by `runs_held`.
_HELD = "select {columns} from {schema}.runs where worker = $1 order by key"
# Served by `runs_held`.
_COUNTS = "select key, messages_sent from {schema}.runs where worker = $1 and messages_sent > 0 order by key"
# Locks by key, like every group; the fence is compared with the locked row. Served by the primary key.
_RELEASE = """
with locked as materialized (
    select r.key from unnest($1::bigint[], $2::integer[]) as a (key, epoch) cross join lateral (
        select key, runs.epoch from {schema}.runs
        where runs.key = a.key and runs.epoch = a.epoch and worker is not null for no key update
    ) as r
),
stamp as materialized (select {schema}.now_ms() as at_ms, count(*) as locked from locked)
update {schema}.runs set worker = null, due_at_ms = at_ms from locked, stamp where runs.key = locked.key
returning at_ms
"""
# A row that someone renews or claims under just now is passed over: it lives, or the next one to look finds it.
# The condition is compared with the locked row. A scan of a table with a row for each worker.
_BURY_EXPIRED = """
with dead as materialized (
    select id from {schema}.workers where expires_at_ms <= {schema}.now_ms()
    order by id for update skip locked
)
delete from {schema}.workers using dead where workers.id = dead.id returning workers.id
"""
# Holders without a lease at all: nobody leaves such behind, but a restored backup may. One step along
# `runs_held` for each holder. A dead identity never lives again, so what this snapshot shows stays true.
_ORPHANED = """
with recursive holder as (
    select min(worker) as id from {schema}.runs where worker is not null
    union all
    select (select min(worker) from {schema}.runs where worker > holder.id) from holder where id is not null
)
select id from holder
where id is not null and not exists (select from {schema}.workers as w where w.id = holder.id)
"""
_RETIRED, _DIED = (False,), (True,)
"""Whether to charge recoveries."""
_BURY = "delete from {schema}.workers where id = $1"
# A later statement than the one that deleted the workers' rows, so its snapshot shows all that they held. Locks
# by key; whose run it is, is compared with the locked row. Served by `runs_held`.
_FREE = """
with locked as materialized (
    select key, worker, recoveries from {schema}.runs where worker = any($1::text[])
    order by key for no key update
),
stamp as materialized (select {schema}.now_ms() as at_ms, count(*) as locked from locked),
charged as materialized (
    select key, at_ms, recoveries + case
        when not $2 then 0
        when recoveries >= {suspect_at} then 1
        when bool_or(recoveries >= {suspect_at}) over (partition by worker) then 0
        else 1 end as charged
    from locked cross join stamp
)
update {schema}.runs set worker = null, recoveries = charged,
    status = case when $2 and charged >= {quarantine_at} then 'blocked' else status end,
    due_at_ms = case when $2 and charged >= {quarantine_at} then null else at_ms end,
    updated_at_ms = case when $2 and charged >= {quarantine_at} then at_ms else updated_at_ms end
from charged where runs.key = charged.key
returning at_ms
"""


def _complete(statement: str) -> str:
    return (
        statement.replace("{columns}", RUN_COLUMNS)
        .replace("{is_known}", _IS_KNOWN)
        .replace("{suspect_at}", str(SUSPECT_AT))
        .replace("{quarantine_at}", str(QUARANTINE_AT))
    )


CLAIM, CLAIM_ONE, HELD, FREE = map(_complete, (_CLAIM, _CLAIM_ONE, _HELD, _FREE))


def claim_statement(limit: int) -> str:
    """The claim for a limit: the planner must know how few rows are wanted, so their number is in the text."""
    return CLAIM.replace("{candidates}", str(1 << (limit * CANDIDATES - 1).bit_length()))


async def register(
    connection: Connection,
    address: Address,
    worker: str,
    *,
    lease_ms: int,
    workflows: Sequence[str],
    found: int,
) -> None:
    """Begin a lease; a second time it changes nothing. `found` is the format of the tables."""
    if found == 1:
        await connection.execute(address.sql(_REGISTER_1), worker, lease_ms)
        return
    names = json.dumps(sorted(set(workflows)))
    await connection.execute(address.sql(_REGISTER), worker, lease_ms, names)


async def workers(connection: Connection, address: Address, *, found: int) -> list[WorkerRecord]:
    """Those whose lease lives, by id. `found` is the format of the tables."""
    rows = await connection.fetch(address.sql(_WORKERS_1 if found == 1 else _WORKERS))
    return [WorkerRecord(row[0], tuple(json.loads(row[1]))) for row in rows]


async def claim(
    connection: Connection,
    address: Address,
    worker: str,
    *,
    workflows: Sequence[str],
    queues: Sequence[str],
    limit: int,
    suspects: int,
    excluded: Sequence[str],
) -> tuple[int, Claimed]:
    """Hold due runs; the stamp, and what was found.

    Raises:
        LeaseLostError: The worker has no lease; nothing was held.
    """
    rows = await connection.fetch(
        address.sql(claim_statement(limit)),
        worker,
        list(dict.fromkeys(workflows)),
        limit,
        excluded,
        suspects,
        PRIORITY_STEP_MS,
        list(dict.fromkeys(queues)),
    )
    at_ms, is_alive, expired, next_due_at_ms, *_ = rows[0]
    if not is_alive:
        raise LeaseLostError(worker=worker)
    # Four columns of the claim and the rank stand before those of the run, of which there may be none.
    runs = [run_record(row[5:]) for row in rows if row[5] is not None]
    return at_ms, Claimed(runs, next_due_at_ms, expired)


async def claim_one(connection: Connection, address: Address, worker: str, run_id: str) -> RunRecord | None:
    """Hold one run, due or not.

    Raises:
        LeaseLostError: The worker has no lease; nothing was held.
    """
    row = await connection.fetchrow(address.sql(CLAIM_ONE), worker, run_id)
    assert row is not None
    if not row[0]:
        raise LeaseLostError(worker=worker)
    return None if row[1] is None else run_record(row[1:])


async def held(connection: Connection, address: Address, worker: str) -> list[RunRecord]:
    """All runs of a worker, by key."""
    return [run_record(row) for row in await connection.fetch(address.sql(HELD), worker)]


async def counts(connection: Connection, address: Address, worker: str) -> list[tuple[int, int]]:
    """Key and count of messages of the runs of a worker, of those that got any."""
    rows = await connection.fetch(address.sql(_COUNTS), worker)
    return [(row[0], row[1]) for row in rows]


async def release(connection: Connection, address: Address, runs: Sequence[tuple[int, int]]) -> list[int]:
    """Give runs back, due now; the stamp of each that was."""
    keys, epochs = zip(*sorted(runs), strict=True)
    rows = await connection.fetch(address.sql(_RELEASE), keys, epochs)
    return [row[0] for row in rows]


async def retire(connection: Connection, address: Address, worker: str) -> list[int]:
    """End a lease and give back what was held under it; the stamp of each run."""
    async with connection.transaction():
        await connection.execute(address.sql(_BURY), worker)
        rows = await connection.fetch(address.sql(FREE), [worker], *_RETIRED)
    return [row[0] for row in rows]


async def reap(connection: Connection, address: Address) -> list[int]:
    """End the leases that have expired and free and charge what was held under them; the stamp of each run."""
    async with connection.transaction():
        dead = await connection.fetch(address.sql(_BURY_EXPIRED))
        dead += await connection.fetch(address.sql(_ORPHANED))
        if not dead:
            return []
        rows = await connection.fetch(address.sql(FREE), sorted({str(row[0]) for row in dead}), *_DIED)
    return [row[0] for row in rows]
