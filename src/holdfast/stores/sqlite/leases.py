"""Holding runs: claim, release, and freeing what a dead owner held. All inside a transaction of the owner."""

import itertools
import json
import sqlite3
from collections.abc import Sequence

from holdfast.stores.records import PRIORITY_STEP_MS, QUARANTINE_AT, SUSPECT_AT, RunRecord, run_record
from holdfast.stores.sqlite.clock import AHEAD_MS, StoreClock
from holdfast.stores.sqlite.queries import RUN_COLUMNS

PRIORITIES = range(1, 6)
Asked = tuple[tuple[str, ...], tuple[str, ...], int, str]
"""Queues, workflows, both without repetition, how many suspects, and excluded fingerprints as JSON."""

# One probe per (queue, workflow, priority): the inner select walks the index `runs_due` from the longest due
# run and stops after `limit`. The outer order merges the probes. `in` and `order by` over all at once would
# sort every due run.
_PROBE = """
select * from (
    select key, due_at_ms + ? as rank, recoveries from runs
    where queue = ? and workflow = ? and priority = ? and worker is null and due_at_ms <= ?
        and fingerprint not in (select value from json_each(?)) and recoveries < ?
    order by due_at_ms limit ?
)
"""
_PROBE_EARLY = """
select key, due_at_ms + ? as rank, recoveries from runs
where queue = ? and workflow = ? and priority = ? and worker is null and due_at_ms > ? and due_at_ms <= ?
    and (status = 'pending' or exists (select 1 from inbox where run = runs.key and inbox.at_ms = due_at_ms))
    and fingerprint not in (select value from json_each(?)) and recoveries < ?
order by due_at_ms limit ?
"""
_HOLD = f"""
update runs set worker = ?, epoch = epoch + 1,
    status = case when status = 'pending' then 'running' else status end
where key in (select value from json_each(?)) and worker is null
    and status not in ('completed', 'failed', 'cancelled')
returning {RUN_COLUMNS}
"""  # noqa: S608 - a constant of ours
# Due now, for nobody knows how far their bodies came, in the order in which they were due before. Charged as
# `records.charged` says. Served by `runs_held`.
_CHARGED = f"""
recoveries + (recoveries >= {SUSPECT_AT}
    or not exists (select 1 from runs where worker is not null and recoveries >= {SUSPECT_AT}))
"""  # noqa: S608 - constants of ours
_FREE = f"""
update runs set worker = null, recoveries = charged.recoveries,
    due_at_ms = iif(charged.recoveries < {QUARANTINE_AT}, min(coalesce(due_at_ms, ?1), ?1), null),
    status = iif(charged.recoveries < {QUARANTINE_AT}, status, 'blocked'),
    updated_at_ms = iif(charged.recoveries < {QUARANTINE_AT}, updated_at_ms, ?1)
from (select key, {_CHARGED} as recoveries from runs where worker is not null) as charged
where runs.key = charged.key
"""  # noqa: S608 - constants of ours
_NEXT_DUE = """
select min(due_at_ms) from runs
where queue = ? and workflow = ? and priority = ? and worker is null and due_at_ms > ?
"""


class Due:
    """Looks for due runs, but only when the answer can be another one than before.

    Attributes:
        next_at_ms: When the next run becomes due by itself, as of the last look.
    """

    def __init__(self) -> None:
        """Nothing was looked at."""
        self.next_at_ms: int | None = None
        self._seen: tuple[int, Asked] | None = None

    def look(self, connection: sqlite3.Connection, clock: StoreClock, asked: Asked, limit: int) -> list[int]:
        """Probe if another connection has written, the time has come, or the question is another."""
        queues, workflows, suspects, excluded = asked
        seen = (int(connection.execute("pragma data_version").fetchone()[0]), asked)
        now_ms = clock.now_ms()
        if seen == self._seen and (self.next_at_ms is None or now_ms < self.next_at_ms):
            return []
        self.next_at_ms = next_due_at_ms(connection, queues, workflows, now_ms)
        found = find_due(
            connection,
            queues=queues,
            workflows=workflows,
            now_ms=now_ms,
            mark_ms=clock.mark_ms(connection),
            limit=limit,
            suspects=suspects,
            excluded=excluded,
        )
        # What a full claim has left behind is due: look again.
        self._seen = seen if len(found) < limit else None
        return found


def find_due(
    connection: sqlite3.Connection,
    *,
    queues: Sequence[str],
    workflows: Sequence[str],
    now_ms: int,
    mark_ms: int,
    limit: int,
    suspects: int,
    excluded: str,
) -> list[int]:
    """Keys of due runs, the longest due first; a read, so that an idle worker never takes the write lock.

    A mark in the future was left by a client whose wall clock is ahead; what it has started is due all the
    same.
    """
    found: list[tuple[int, int, int]] = []
    bound = 2**31 if suspects else SUSPECT_AT
    for queue, workflow, priority in itertools.product(queues, workflows, PRIORITIES):
        place = (PRIORITY_STEP_MS * (priority - 1), queue, workflow, priority)
        found += connection.execute(_PROBE, (*place, now_ms, excluded, bound, limit)).fetchall()
        if mark_ms > now_ms + AHEAD_MS:
            early = (*place, now_ms, mark_ms, excluded, bound, limit)
            found += connection.execute(_PROBE_EARLY, early).fetchall()
    found.sort(key=lambda row: row[1])
    wary = [key for key, _, recoveries in found if recoveries >= SUSPECT_AT][suspects:]
    return [key for key, _, _ in found if key not in wary][:limit]


def hold(connection: sqlite3.Connection, keys: Sequence[int], worker: str) -> list[RunRecord]:
    """Hold runs under new epochs, but those where someone was quicker or that are over; in their order."""
    rows = connection.execute(_HOLD, (worker, json.dumps(keys))).fetchall()
    records = {row[0]: run_record(row) for row in rows}
    return [records[key] for key in keys if key in records]


def release(connection: sqlite3.Connection, held: Sequence[tuple[int, int]], now_ms: int) -> None:
    """Give runs back, due now, where they are still held under that epoch."""
    connection.executemany(
        "update runs set worker = null, due_at_ms = ? where key = ? and epoch = ? and worker is not null",
        [(now_ms, key, epoch) for key, epoch in held],
    )


def held(connection: sqlite3.Connection, worker: str) -> list[RunRecord]:
    """All runs of a worker, by key. Served by `runs_held`."""
    rows = connection.execute(f"select {RUN_COLUMNS} from runs where worker = ? order by key", (worker,))  # noqa: S608 - a constant of ours
    return [run_record(row) for row in rows]


def counts(connection: sqlite3.Connection, worker: str) -> list[tuple[int, int]]:
    """Key and `messages_sent` of a worker's runs that were sent any. Served by `runs_held`."""
    rows = connection.execute(
        "select key, messages_sent from runs where worker = ? and messages_sent > 0", (worker,)
    )
    return rows.fetchall()


def retire(connection: sqlite3.Connection, worker: str, now_ms: int) -> None:
    """Give back all runs of a worker, due now, and forget it. Served by `runs_held`."""
    connection.execute("delete from workers where id = ?", (worker,))
    connection.execute("update runs set worker = null, due_at_ms = ? where worker = ?", (now_ms, worker))


def free_all(connection: sqlite3.Connection, now_ms: int) -> int:
    """Free every held run: the caller holds the owner lock, so whoever held them is dead."""
    return connection.execute(_FREE, (now_ms,)).rowcount


def next_due_at_ms(
    connection: sqlite3.Connection, queues: Sequence[str], workflows: Sequence[str], now_ms: int
) -> int | None:
    """The earliest due time behind now: the first such row of `runs_due` in each probe's range."""
    found = (
        connection.execute(_NEXT_DUE, (*place, now_ms)).fetchone()[0]
        for place in itertools.product(queues, workflows, PRIORITIES)
    )
    return min((int(due) for due in found if due is not None), default=None)
