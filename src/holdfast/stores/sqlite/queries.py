"""Plain look-ups: runs, definitions, snapshots."""

import json
import sqlite3
from collections.abc import Sequence

from holdfast.stores.records import (
    RUN_NAMES,
    Definition,
    InboxRow,
    JournalRow,
    RunRecord,
    Snapshot,
    Stored,
    run_record,
)

RUN_COLUMNS = ", ".join(RUN_NAMES)
_FIND_RUN = f"select {RUN_COLUMNS} from runs where id = ?"  # noqa: S608 - a constant of ours
_LIST_RUNS = f"""
select {RUN_COLUMNS} from runs
where (?1 is null or status = ?1) and (?2 is null or workflow = ?2) and (?3 is null or key < ?3)
order by key desc limit ?4
"""  # noqa: S608 - a constant of ours
# Each walks the keys and probes the order of the other table: three statements for any number of runs. Of a
# journal, only what stands behind the snapshot is touched.
_LOAD_SNAPSHOTS = """
select run, position, state from snapshots where run in (select value from json_each(?))
"""
_LOAD_JOURNALS = """
select journal.run, journal.position, epoch, at_ms, entry
from json_each(?) as asked cross join journal on journal.run = asked.value
    and journal.position > coalesce((select position from snapshots where run = asked.value), 0)
order by asked.id, journal.position
"""
_LOAD_INBOXES = """
select run, seq, kind, name, inbox.id, payload, at_ms
from json_each(?) as asked cross join inbox on run = asked.value order by asked.id, seq
"""


def find_run(connection: sqlite3.Connection, run_id: str) -> RunRecord | None:
    """One run by id."""
    row = connection.execute(_FIND_RUN, (run_id,)).fetchone()
    return None if row is None else run_record(row)


def list_runs(
    connection: sqlite3.Connection,
    *,
    status: str | None,
    workflow: str | None,
    limit: int,
    after: int | None,
) -> list[RunRecord]:
    """A page by descending key."""
    rows = connection.execute(_LIST_RUNS, (status, workflow, after, limit))
    return [run_record(row) for row in rows]


def save_definition(connection: sqlite3.Connection, definition: Definition, *, current: bool) -> None:
    """Insert or keep it; if it is to be current, it is replaced and the only one of its workflow."""
    if current:
        connection.execute("update definitions set current = 0 where name = ?", (definition.name,))
    connection.execute(
        "insert into definitions (name, fingerprint, structure, input_schema, current)"
        " values (?, ?, ?, ?, ?) on conflict (name, fingerprint)"
        " do update set current = max(current, excluded.current), input_schema = excluded.input_schema,"
        " structure = iif(excluded.current, excluded.structure, structure)",
        (
            definition.name,
            definition.fingerprint,
            definition.structure,
            definition.input_schema,
            current,
        ),
    )


def find_definition(connection: sqlite3.Connection, name: str, fingerprint: str | None) -> Definition | None:
    """By fingerprint, or the current one."""
    row = connection.execute(
        "select name, fingerprint, structure, input_schema from definitions"
        " where name = ?1 and (fingerprint = ?2 or (?2 is null and current = 1))",
        (name, fingerprint),
    ).fetchone()
    return None if row is None else Definition(*row)


def definition_names(connection: sqlite3.Connection) -> list[str]:
    """Workflows that have a current structure."""
    rows = connection.execute("select name from definitions where current = 1 order by name")
    return [str(row[0]) for row in rows]


def save_snapshot(connection: sqlite3.Connection, key: int, epoch: int, snapshot: Snapshot) -> None:
    """Replace it, if the run still has that epoch: the fence is the select that feeds the insert."""
    connection.execute(
        "insert or replace into snapshots (run, position, state)"
        " select key, ?, ? from runs where key = ? and epoch = ?",
        (snapshot.position, snapshot.state, key, epoch),
    )


def load(connection: sqlite3.Connection, keys: Sequence[int]) -> list[Stored]:
    """All that is needed to go on with each run, in the order of the keys, of one moment."""
    asked = (json.dumps(list(dict.fromkeys(keys))),)
    snapshots: dict[int, Snapshot] = {}
    journals: dict[int, list[JournalRow]] = {key: [] for key in keys}
    inboxes: dict[int, list[InboxRow]] = {key: [] for key in keys}
    connection.execute("begin")  # the three see one moment
    try:
        for row in connection.execute(_LOAD_SNAPSHOTS, asked).fetchall():
            snapshots[row[0]] = Snapshot(*row[1:])
        for row in connection.execute(_LOAD_JOURNALS, asked).fetchall():
            journals[row[0]].append(JournalRow(*row[1:]))
        for row in connection.execute(_LOAD_INBOXES, asked).fetchall():
            inboxes[row[0]].append(InboxRow(*row[1:]))
    finally:
        connection.execute("rollback")
    return [Stored(snapshots.get(key), journals[key], inboxes[key]) for key in keys]
