"""Runs that go: replaced by another one of the same id, deleted, or swept. All inside an open transaction."""

import json
import sqlite3
from collections.abc import Sequence

from holdfast.stores.records import ENDED, Applied, Fenced, NewRun, Outcome
from holdfast.stores.sqlite.journal import insert_entries, run_row

_ENDED = ", ".join(f"'{status}'" for status in sorted(ENDED))
PAGES_EACH = 10
"""About how many pages the removal of a run changes: a few of each table and index."""
_WRITTEN = ("journal", "snapshots")
"""What a run has recorded."""
_BELONGINGS = (*_WRITTEN, "inbox", "message_ids")
# The fence is the epoch; the new one shuts out whoever held the run. Served by the table's key.
_REPLACE = """
update runs set incarnation = incarnation + 1, epoch = epoch + 1, recoveries = 0,
    messages_sent = iif(?18, messages_sent, 0),
    (position, status, workflow, fingerprint, queue, priority, tags, worker, due_at_ms, input_digest,
    parent_key, parent_incarnation, parent_step, created_at_ms, updated_at_ms)
    = (select ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
where key = ?1 and epoch = ?2 returning messages_sent
"""
# A child's parent may still ask for its outcome, or send it a cancel. With another incarnation it does neither:
# it knows nothing of this child, and the outcome would be dropped.
_NOT_AWAITED = f"""
not exists (
    select 1 from runs as parent
    where parent.key = runs.parent_key and parent.incarnation = runs.parent_incarnation
        and parent.status not in ({_ENDED})
)
"""  # noqa: S608 - constants of ours
_IS_DELETABLE = f"select key from runs where key = ? and status in ({_ENDED}) and {_NOT_AWAITED}"  # noqa: S608 - constants of ours
# Walks `runs_ended` from the oldest and stops after `limit`; its condition is repeated word for word, or else
# SQLite would not use it (https://sqlite.org/partialindex.html, section 3).
_OLDEST = f"""
select key from runs
where workflow = ? and status = ?
    and (status = 'completed' or status = 'failed' or status = 'cancelled' or status = 'blocked')
    and updated_at_ms < ? and worker is null and {_NOT_AWAITED}
order by updated_at_ms limit ?
"""  # noqa: S608 - constants of ours


def replace(
    connection: sqlite3.Connection, new: NewRun, at_ms: int, *, key: int, epoch: int, keep_inbox: bool
) -> Outcome:
    """Put a new run in the place of another; `Fenced` if that one is gone or has another epoch."""
    _id, _epoch, *columns = run_row(new, at_ms)
    replaced = connection.execute(_REPLACE, (key, epoch, *columns, keep_inbox)).fetchone()
    if replaced is None:
        return Fenced()
    _remove_rows(connection, _WRITTEN if keep_inbox else _BELONGINGS, [key])
    insert_entries(connection, new, key, at_ms)
    return Applied(at_ms, key, replaced[0])


def delete(connection: sqlite3.Connection, key: int) -> int:
    """Remove one run that is over and that nobody waits for; how many it were."""
    return _remove(connection, connection.execute(_IS_DELETABLE, (key,)).fetchall())


def sweep(connection: sqlite3.Connection, workflow: str, status: str, *, before_ms: int, limit: int) -> int:
    """Remove the oldest runs of a status; how many it were."""
    return _remove(connection, connection.execute(_OLDEST, (workflow, status, before_ms, limit)).fetchall())


def _remove(connection: sqlite3.Connection, rows: Sequence[tuple[int]]) -> int:
    if rows:
        _remove_rows(connection, _BELONGINGS, [key for (key,) in rows])
        connection.executemany("delete from runs where key = ?", rows)
    return len(rows)


def _remove_rows(connection: sqlite3.Connection, tables: Sequence[str], keys: Sequence[int]) -> None:
    """Served by the index `journal_position`, and by the other tables' own order."""
    for table in tables:
        connection.execute(
            f"delete from {table} where run in (select value from json_each(?))",  # noqa: S608 - a constant of ours
            (json.dumps(keys),),
        )
