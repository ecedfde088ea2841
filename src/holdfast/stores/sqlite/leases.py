"""Holding runs: claim, release, and freeing what a dead owner held. All inside a transaction of the owner."""

import sqlite3
from collections.abc import Sequence

from holdfast.stores.base import RunRecord
from holdfast.stores.sqlite.clock import AHEAD_MS
from holdfast.stores.sqlite.queries import RUN_COLUMNS, run_record

QUEUE = "default"
PRIORITIES = range(1, 6)
PRIORITY_STEP_MS = 300_000
"""How much longer a run of the next priority waits before it counts as much."""

# One probe per (workflow, priority): the inner select walks the index `runs_due` from the longest due run and
# stops after `limit`. The outer order merges the probes. `in` and `order by` over all at once would sort every
# due run.
_PROBE = """
select * from (
    select key, due_at_ms + ? as rank from runs
    where queue = ? and workflow = ? and priority = ? and worker is null and due_at_ms <= ?
        and fingerprint not in (select value from json_each(?))
    order by due_at_ms limit ?
)
"""
_PROBE_EARLY = """
select key, due_at_ms + ? as rank from runs
where queue = ? and workflow = ? and priority = ? and worker is null and due_at_ms > ? and due_at_ms <= ?
    and (status = 'pending' or exists (select 1 from inbox where run = runs.key and inbox.at_ms = due_at_ms))
    and fingerprint not in (select value from json_each(?))
order by due_at_ms limit ?
"""
_HOLD = f"""
update runs set worker = ?, epoch = epoch + 1,
    status = case when status = 'pending' then 'running' else status end
where key = ? and worker is null and status not in ('completed', 'failed', 'cancelled')
returning {RUN_COLUMNS}
"""  # noqa: S608 - a constant of ours
# Due now, for nobody knows how far their bodies came, and in the order in which they were due before. Served by
# `runs_held`.
_FREE = """
update runs set worker = null, due_at_ms = min(coalesce(due_at_ms, ?1), ?1), recoveries = recoveries + 1
where worker is not null
"""
_NEXT_DUE = """
select min(due_at_ms) from runs
where queue = ? and workflow = ? and priority = ? and worker is null and due_at_ms is not null
"""


def find_due(
    connection: sqlite3.Connection,
    *,
    workflows: Sequence[str],
    now_ms: int,
    mark_ms: int,
    limit: int,
    excluded: str,
) -> list[int]:
    """Keys of due runs, the longest due first; a read, so that an idle worker never takes the write lock.

    A mark in the future was left by a client whose wall clock is ahead; what it has started is due all the
    same.
    """
    found: list[tuple[int, int]] = []
    for name in workflows:
        for priority in PRIORITIES:
            rank = PRIORITY_STEP_MS * (priority - 1)
            place = (rank, QUEUE, name, priority)
            found += connection.execute(_PROBE, (*place, now_ms, excluded, limit)).fetchall()
            if mark_ms > now_ms + AHEAD_MS:
                early = (*place, now_ms, mark_ms, excluded, limit)
                found += connection.execute(_PROBE_EARLY, early).fetchall()
    found.sort(key=lambda row: row[1])
    return [key for key, _ in found[:limit]]


def hold(connection: sqlite3.Connection, key: int, worker: str) -> RunRecord | None:
    """Hold one run under a new epoch, unless someone was quicker or it is over."""
    row = connection.execute(_HOLD, (worker, key)).fetchone()
    return None if row is None else run_record(row)


def release(connection: sqlite3.Connection, held: Sequence[tuple[int, int]], now_ms: int) -> None:
    """Give runs back, due now, where they are still held under that epoch."""
    connection.executemany(
        "update runs set worker = null, due_at_ms = ? where key = ? and epoch = ? and worker is not null",
        [(now_ms, key, epoch) for key, epoch in held],
    )


def release_all(connection: sqlite3.Connection, worker: str, now_ms: int) -> None:
    """Give back all runs of a worker, due now. Served by `runs_held`."""
    connection.execute("update runs set worker = null, due_at_ms = ? where worker = ?", (now_ms, worker))


def free_all(connection: sqlite3.Connection, now_ms: int) -> int:
    """Free every held run: the caller holds the owner lock, so whoever held them is dead."""
    return connection.execute(_FREE, (now_ms,)).rowcount


def next_due_at_ms(connection: sqlite3.Connection, workflows: Sequence[str]) -> int | None:
    """The earliest due time of unheld runs: the first row of `runs_due` in each probe's range."""
    found = (
        connection.execute(_NEXT_DUE, (QUEUE, name, priority)).fetchone()[0]
        for name in workflows
        for priority in PRIORITIES
    )
    return min((int(due) for due in found if due is not None), default=None)
