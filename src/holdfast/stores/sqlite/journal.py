"""The transaction: appends, new runs and messages of a group. Called on whichever thread commits.

Each kind of member is written by statements over many rows. One call into SQLite then does the work of
dozens with the interpreter lock released: the event loop runs beside it instead of in turns with it.
"""

import functools
import itertools
import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from holdfast.errors import StoreRefusedError
from holdfast.stores.records import (
    Append,
    Applied,
    Exists,
    Fenced,
    JournalRow,
    Member,
    NewRun,
    Outcome,
    Refused,
    Unread,
    due_at,
)
from holdfast.stores.sqlite.connection import REFUSALS
from holdfast.stores.sqlite.inbox import consume, put_back, send

PAGE_BYTES = 4_096
ROWS_MAX = 64
"""Rows of one statement, a power of two: more were measured to gain nothing, and take longer to compile."""

# The fence is part of the statement that writes: another epoch or position updates no row. Served by the
# table's key. A run that stays held leaves `worker` and `due_at_ms` alone: setting them, even to what they are,
# would rewrite two indexes for every step. A run that is given back is parked by the counter of messages in the
# very row that is written, so no wake-up is lost; and by the same counter it is not ended over their heads.
_UPDATE = """
update runs set position = {v}1, status = {v}2, updated_at_ms = {v}3, recoveries = iif({v}4, 0, recoveries)
    {given_back}
{source} where runs.key = {v}5 and runs.epoch = {v}6 and runs.position = {v}7 and runs.worker {holder}
"""
_RETURNING = " returning key, messages_sent"
# Served by the table's key.
_MESSAGES = "select key, messages_sent from runs where messages_sent > 0 and key in (values {rows})"
_GIVEN_BACK = ", worker = null, due_at_ms = iif(messages_sent > {v}8, {v}3, {v}9)"
_BY_US = "is not null"
_AND_READ = " and runs.messages_sent <= {v}"
# Asked only for an append that was not applied and would have ended its run. Served by the table's key.
_UNREAD = """
select messages_sent from runs
where key = ? and epoch = ? and position = ? and (worker is not null) = ? and messages_sent > ?
"""
_INSERT_ENTRIES = "insert into journal (run, position, epoch, at_ms, entry) values {rows}"
# An id that is taken inserts nothing and returns nothing. Served by the unique index on ids.
_INSERT_RUNS = """
insert into runs (id, epoch, position, status, workflow, fingerprint, queue, priority, tags, worker,
    due_at_ms, input_digest, parent_key, parent_incarnation, parent_step, created_at_ms, updated_at_ms)
values {rows}
on conflict (id) do nothing returning id, key
"""
ROWS_MIN = 8
"""Below this one statement for each row is quicker: the temporary tables of the other form cost 0.1 ms."""
_KEY = 4
"""Where a header's row has the run's key."""
_NEVER = 2**62
"""More messages than any run gets: switches the parking test off."""

Row = tuple[Any, ...]
_Form = tuple[str, str]
"""What an update sets beside the rest, and who must hold the run for it."""
_GOES_ON: _Form = ("", _BY_US)
_PARKS: _Form = (_GIVEN_BACK, _BY_US + _AND_READ + "10")
_HELD_IF_READ: _Form = ("", _BY_US + _AND_READ + "8")
_UNHELD: _Form = (_GIVEN_BACK, "is null" + _AND_READ + "10")


class PartlyFencedError(Exception):
    """Some of many appends were not applied; each is to be written on its own to see which."""


def write_group(connection: sqlite3.Connection, group: Sequence[Member], at_ms: int) -> list[Outcome]:
    """Write the members inside the open transaction.

    Raises:
        PartlyFencedError: Roll back, and write one by one.
        REFUSALS: One can never be held; the same.
    """
    entries: list[Row] = []
    appends = [member for member in group if isinstance(member, Append)]
    new = [member for member in group if isinstance(member, NewRun)]
    written = _append(connection, appends, at_ms, entries) if appends else {}
    keys = _insert(connection, new, at_ms, entries) if new else {}
    for append in appends:
        spawns = append.consumed or append.returned or append.children or append.messages
        if spawns and append.key in written:
            _spawn(connection, append, at_ms, entries)
    _write_rows(connection, _INSERT_ENTRIES, entries)
    return [_outcome(connection, member, at_ms, written, keys) for member in group]


def write_one_by_one(connection: sqlite3.Connection, group: Sequence[Member], at_ms: int) -> list[Outcome]:
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


def pages_written(group: Sequence[Member]) -> int:
    """About how many pages a group writes: several rows share a page, entries all of theirs."""
    appends = [member for member in group if isinstance(member, Append)]
    written = sum(len(entry) for append in appends for entry in append.entries)
    return 3 + len(group) // 4 + written // PAGE_BYTES


def read_journal(connection: sqlite3.Connection, key: int, after: int) -> list[JournalRow]:
    """Entries after a position. Served by the journal's own order."""
    rows = connection.execute(
        "select position, epoch, at_ms, entry from journal where run = ? and position > ? order by position",
        (key, after),
    )
    return [JournalRow(*row) for row in rows]


def _append(
    connection: sqlite3.Connection, appends: list[Append], at_ms: int, entries: list[Row]
) -> dict[int, int]:
    """Update the headers and collect the entries of those that were applied: key to messages sent."""
    forms: dict[_Form, list[Row]] = {}
    for a in appends:
        after = a.position + len(a.entries)
        header: Row = (after, a.status, at_ms, a.completes, a.key, a.epoch, a.position)
        read = _NEVER if a.messages_read is None else a.messages_read
        must_be_read = a.must_be_read()
        if a.worker is None:
            form = _PARKS if a.is_held else _UNHELD
            header = (*header, read, due_at(a, at_ms), read if must_be_read else _NEVER)
        elif must_be_read:
            form = _HELD_IF_READ
            header = (*header, read)
        else:
            form = _GOES_ON
        forms.setdefault(form, []).append(header)
    sent: dict[int, int] = {}
    for form, rows in forms.items():
        sent |= _update(connection, rows, form)
    for a in appends:
        if a.key in sent:
            position = a.position
            for entry in a.entries:
                position += 1
                entries.append((a.key, position, a.epoch, at_ms, entry))
    return sent


def _insert(
    connection: sqlite3.Connection, new: Sequence[NewRun], at_ms: int, entries: list[Row]
) -> dict[str, int]:
    """Insert the runs whose ids are free and collect their first entries: id to key."""
    first: dict[str, NewRun] = {}
    for each in new:
        first.setdefault(each.id, each)  # the second of two with one id finds it taken
    rows = [run_row(each, at_ms) for each in first.values()]
    keys: dict[str, int] = dict(_write_rows(connection, _INSERT_RUNS, rows))
    for each in first.values():
        if each.id in keys:
            entries.extend(_first_entries(each, keys[each.id], at_ms))
    return keys


def insert_entries(connection: sqlite3.Connection, new: NewRun, key: int, at_ms: int) -> None:
    """Insert the first entries of a run whose header is written."""
    _write_rows(connection, _INSERT_ENTRIES, list(_first_entries(new, key, at_ms)))


def _first_entries(new: NewRun, key: int, at_ms: int) -> Iterator[Row]:
    return ((key, n, 0, at_ms, entry) for n, entry in enumerate(new.entries, 1))


def run_row(new: NewRun, at_ms: int) -> Row:
    """The header of a new run, in the order of the columns in `_INSERT_RUNS`."""
    return (
        new.id,
        int(new.worker is not None),
        len(new.entries),
        new.over or ("pending" if new.worker is None else "running"),
        new.workflow,
        new.fingerprint,
        new.queue,
        new.priority,
        json.dumps(new.tags) if new.tags else "[]",
        new.worker,
        None if new.over else at_ms,
        new.input_digest,
        new.parent_key,
        new.parent_incarnation,
        new.parent_step,
        at_ms,
        at_ms,
    )


def _spawn(connection: sqlite3.Connection, append: Append, at_ms: int, entries: list[Row]) -> None:
    if append.consumed:
        consume(connection, append.key, append.consumed)
    if append.returned:
        put_back(connection, append.key, append.returned)
    if append.children:
        _insert(connection, append.children, at_ms, entries)
    for message in append.messages:
        send(connection, message, at_ms)


def _outcome(
    connection: sqlite3.Connection,
    member: Member,
    at_ms: int,
    written: dict[int, int],
    keys: dict[str, int],
) -> Outcome:
    if isinstance(member, Append):
        count = written.get(member.key)
        return _refusal(connection, member) if count is None else Applied(at_ms, member.key, count)
    if isinstance(member, NewRun):
        # Popped: of two with one id in a group, the first is inserted and the second finds it there.
        key = keys.pop(member.id, None)
        return Exists() if key is None else Applied(at_ms, key)
    return send(connection, member, at_ms)


def _refusal(connection: sqlite3.Connection, append: Append) -> Fenced | Unread:
    """Why an append was not applied; within the transaction, so that nothing has changed since."""
    if not append.must_be_read():
        return Fenced()
    fence = (append.key, append.epoch, append.position, append.is_held, append.messages_read)
    found = connection.execute(_UNREAD, fence).fetchone()
    return Fenced() if found is None else Unread(found[0])


def _update(connection: sqlite3.Connection, rows: list[Row], form: _Form) -> dict[int, int]:
    """Update headers, many with one statement, a few one by one; key to messages sent of those applied."""
    if len(rows) < ROWS_MIN:
        statement = _update_statement("?", form) + _RETURNING
        found = [connection.execute(statement, row).fetchone() for row in rows]
        return dict(row for row in found if row is not None)
    # Nothing is returned by row: for each row that it fetches, the driver takes the interpreter's lock.
    statement = _update_statement("v.column", form)
    updated = sum(_execute(connection, statement, piece).rowcount for piece in _pieces(rows))
    if updated < len(rows):
        raise PartlyFencedError
    sent = dict.fromkeys([row[_KEY] for row in rows], 0)
    sent.update(_write_rows(connection, _MESSAGES, [(key,) for key in sent]))
    return sent


@functools.lru_cache(maxsize=8)
def _update_statement(v: str, form: _Form) -> str:
    """For one row with its values as numbered parameters, or for `{rows}` of a table `v`."""
    source = "" if v == "?" else "from (values {rows}) as v"
    given_back, holder = (part.format(v=v) for part in form)
    return _UPDATE.format(v=v, source=source, given_back=given_back, holder=holder)


def _write_rows(connection: sqlite3.Connection, statement: str, rows: list[Row]) -> list[Row]:
    """Run a statement over all rows, in pieces whose sizes are powers of two; its returned rows."""
    returned: list[Row] = []
    for piece in _pieces(rows):
        returned += _execute(connection, statement, piece).fetchall()
    return returned


def _execute(connection: sqlite3.Connection, statement: str, piece: list[Row]) -> sqlite3.Cursor:
    sql = for_rows(statement, len(piece), len(piece[0]))
    return connection.execute(sql, list(itertools.chain.from_iterable(piece)))


def _pieces(rows: list[Row]) -> Iterator[list[Row]]:
    """Few sizes make few texts: each is compiled once and stays in the connection's cache."""
    begin, size = 0, ROWS_MAX
    while begin < len(rows):
        while size > len(rows) - begin:
            size //= 2
        yield rows[begin : begin + size]
        begin += size


@functools.lru_cache(maxsize=64)
def for_rows(statement: str, rows: int, columns: int) -> str:
    """The statement with so many rows of parameters in the place of `{rows}`."""
    row = f"({', '.join('?' * columns)})"
    return statement.format(rows=", ".join([row] * rows))
