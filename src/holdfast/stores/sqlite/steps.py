"""The transaction of steps that lead on, which most groups are made of: one statement, that commits by itself.

Each call into SQLite ends with waiting for the interpreter's lock, 5 ms where the event loop is busy. So a
group is one call, from its beginning to the fsync, and the loop runs beside it. The statement fills a view that
only this connection has; a trigger does for each row what `journal` does for many, and gives up the whole if an
append is fenced or has not read a message. Then `journal` finds out which.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from holdfast.stores.records import Append, Applied, Member, Outcome
from holdfast.stores.sqlite.clock import StoreClock
from holdfast.stores.sqlite.connection import REFUSALS
from holdfast.stores.sqlite.journal import for_rows

_VIEW = """
create temp view steps (run, epoch, position, completes, messages_read, entry, at_ms) as
select 0, 0, 0, 0, 0, 0, 0
"""
# A run that stays held leaves `worker` and `due_at_ms` alone. Served by the table's key.
_TRIGGER = """
create temp trigger step_recorded instead of insert on steps begin
    update runs set position = new.position + 1, status = 'running', updated_at_ms = new.at_ms,
        recoveries = iif(new.completes, 0, recoveries)
    where key = new.run and epoch = new.epoch and position = new.position and worker is not null
        and messages_sent <= new.messages_read;
    select raise(abort, 'fenced or unread') where changes() = 0;
    insert into journal (run, position, epoch, at_ms, entry)
    values (new.run, new.position + 1, new.epoch, new.at_ms, new.entry);
end
"""
# Few sizes make few texts, each compiled once: what is missing to a power of two is filled up with nothing.
_INSERT = """
insert into steps
select column1, column2, column3, column4, column5, column6, ?1 from (values {rows}) where column1 is not null
"""
_COLUMNS = 6
_NOTHING = (None,) * _COLUMNS


def prepare(connection: sqlite3.Connection) -> None:
    """Make the view and its trigger; they are no part of the file."""
    connection.execute(_VIEW)
    connection.execute(_TRIGGER)


def write(connection: sqlite3.Connection, group: Sequence[Member], clock: StoreClock) -> list[Outcome] | None:
    """Write a group that is only of steps, and commit it.

    Returns:
        None, and nothing is written, where a member is something else, or is not to be applied.
    """
    steps: list[Append] = []
    parameters: list[Any] = [0]
    for member in group:
        if type(member) is not Append or not member.is_step():
            return None
        steps.append(member)
        parameters += (member.key, member.epoch, member.position, member.completes, member.messages_read)
        parameters += member.entries
    size = 1 << (len(steps) - 1).bit_length()
    parameters += _NOTHING * (size - len(steps))
    parameters[0] = at_ms = clock.stamp(connection)
    try:
        connection.execute(for_rows(_INSERT, size, _COLUMNS), parameters)
    except REFUSALS:
        return None
    return [Applied(at_ms, step.key, step.messages_read or 0) for step in steps]
