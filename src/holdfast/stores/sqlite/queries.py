"""Plain look-ups: runs, definitions, snapshots."""

import sqlite3

from holdfast.stores.records import RUN_NAMES, Definition, RunRecord, Snapshot, run_record

RUN_COLUMNS = ", ".join(RUN_NAMES)
_FIND_RUN = f"select {RUN_COLUMNS} from runs where id = ?"  # noqa: S608 - a constant of ours
_LIST_RUNS = f"""
select {RUN_COLUMNS} from runs
where (?1 is null or status = ?1) and (?2 is null or workflow = ?2) and (?3 is null or key < ?3)
order by key desc limit ?4
"""  # noqa: S608 - a constant of ours


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
    """Insert or keep it; if it is to be current, it is the only one of its workflow."""
    if current:
        connection.execute("update definitions set current = 0 where name = ?", (definition.name,))
    connection.execute(
        "insert into definitions (name, fingerprint, structure, input_schema, current)"
        " values (?, ?, ?, ?, ?) on conflict (name, fingerprint)"
        " do update set current = max(current, excluded.current), input_schema = excluded.input_schema",
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


def find_snapshot(connection: sqlite3.Connection, key: int) -> Snapshot | None:
    """The run's snapshot."""
    row = connection.execute("select position, state from snapshots where run = ?", (key,)).fetchone()
    return None if row is None else Snapshot(*row)
