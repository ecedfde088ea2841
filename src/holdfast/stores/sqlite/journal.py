"""The transaction: appends, new runs and messages of a group. Called on whichever thread commits."""

import json
import sqlite3
from collections.abc import Sequence

from holdfast.errors import StoreRefusedError
from holdfast.stores.base import (
    Append,
    Applied,
    Exists,
    Fenced,
    JournalRow,
    Member,
    Message,
    NewRun,
    Outcome,
    Refused,
    due_at,
)
from holdfast.stores.sqlite.connection import REFUSALS
from holdfast.stores.sqlite.inbox import consume, send

# The fence is part of the statement that writes: another epoch or position updates no row. The parking test
# reads the counter of messages in the very row that is written, so no wake-up is lost. Served by the key.
_UPDATE_RUN = """
update runs set position = ?, status = ?, worker = ?, updated_at_ms = ?,
    recoveries = case when ? then 0 else recoveries end,
    due_at_ms = case when messages_sent > ? then ? else ? end
where key = ? and epoch = ? and position = ?
returning messages_sent
"""
_INSERT_ENTRY = "insert into journal (run, position, epoch, at_ms, entry) values (?, ?, ?, ?, ?)"
_INSERT_RUN = """
insert into runs (id, epoch, position, status, workflow, fingerprint, queue, priority, tags, worker,
    due_at_ms, input_digest, parent_key, parent_incarnation, parent_step, created_at_ms, updated_at_ms)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict (id) do nothing returning key
"""
_NEVER = 2**62
"""More messages than any run gets: switches the parking test off."""

EntryRow = tuple[int, int, int, int, bytes]


def write_group(
    connection: sqlite3.Connection, group: Sequence[Member], at_ms: int
) -> list[Outcome]:
    """Write the members inside the open transaction; raises one of `REFUSALS` if one can never be held."""
    rows: list[EntryRow] = []
    outcomes = [_write(connection, member, at_ms, rows) for member in group]
    connection.executemany(_INSERT_ENTRY, rows)
    return outcomes


def write_one_by_one(
    connection: sqlite3.Connection, group: Sequence[Member], at_ms: int
) -> list[Outcome]:
    """The same with each member on its own, so that one that can never be held fails alone."""
    outcomes: list[Outcome] = []
    for member in group:
        connection.execute("savepoint member")
        try:
            outcomes += write_group(connection, [member], at_ms)
        except REFUSALS as error:
            connection.execute("rollback to member")
            outcomes.append(Refused(StoreRefusedError(reason=str(error))))
        connection.execute("release member")
    return outcomes


def read_journal(connection: sqlite3.Connection, key: int, after: int) -> list[JournalRow]:
    """Entries after a position. Served by the journal's own order."""
    rows = connection.execute(
        "select position, epoch, at_ms, entry from journal where run = ? and position > ?"
        " order by position",
        (key, after),
    )
    return [JournalRow(*row) for row in rows]


def _write(
    connection: sqlite3.Connection, member: Member, at_ms: int, rows: list[EntryRow]
) -> Outcome:
    if isinstance(member, Append):
        return _append(connection, member, at_ms, rows)
    if isinstance(member, NewRun):
        return _insert(connection, member, at_ms, rows)
    return _send(connection, member, at_ms)


def _append(
    connection: sqlite3.Connection, append: Append, at_ms: int, rows: list[EntryRow]
) -> Outcome:
    position = append.position
    parks = append.worker is None and append.messages_read is not None
    updated = connection.execute(
        _UPDATE_RUN,
        (
            position + len(append.entries),
            append.status,
            append.worker,
            at_ms,
            append.completes,
            append.messages_read if parks else _NEVER,
            at_ms,
            due_at(append, at_ms),
            append.key,
            append.epoch,
            position,
        ),
    ).fetchone()
    if updated is None:
        return Fenced()
    for entry in append.entries:
        position += 1
        rows.append((append.key, position, append.epoch, at_ms, entry))
    if append.consumed:
        consume(connection, append.key, append.consumed)
    for child in append.children:
        _insert(connection, child, at_ms, rows)
    for message in append.messages:
        _send(connection, message, at_ms)
    return Applied(at_ms, append.key, int(updated[0]))


def _insert(
    connection: sqlite3.Connection, new: NewRun, at_ms: int, rows: list[EntryRow]
) -> Outcome:
    held = new.worker is not None
    inserted = connection.execute(
        _INSERT_RUN,
        (
            new.id,
            int(held),
            len(new.entries),
            "running" if held else "pending",
            new.workflow,
            new.fingerprint,
            new.queue,
            new.priority,
            json.dumps(new.tags) if new.tags else "[]",
            new.worker,
            at_ms,
            new.input_digest,
            new.parent_key,
            new.parent_incarnation,
            new.parent_step,
            at_ms,
            at_ms,
        ),
    ).fetchone()
    if inserted is None:
        return Exists()
    key = int(inserted[0])
    rows.extend((key, n, 0, at_ms, entry) for n, entry in enumerate(new.entries, start=1))
    return Applied(at_ms, key)


def _send(connection: sqlite3.Connection, message: Message, at_ms: int) -> Outcome:
    sent = send(connection, message, at_ms)
    return Fenced() if sent is None else Applied(at_ms, message.run_key, sent)
